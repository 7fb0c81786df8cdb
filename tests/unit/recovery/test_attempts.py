"""A run's events, read back as attempts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sovctl.recovery.attempts import attempts, newest_attempt

KINDS = ("attempt_started", "attempt_ended", "first_step", "checkpoint_saved", "detected", "held")
EVENTS = st.lists(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(KINDS), "attempt": st.sampled_from((0, 1, 2, True, 1.0, None, "1"))},
        optional={"step": st.integers(0, 99), "at": st.floats(0, 1e9), "nodes": st.lists(st.sampled_from("ab"))},
    ),
    max_size=12,
)


@given(EVENTS)
def test_the_newest_is_the_last_of_all(events: list[dict[str, Any]]) -> None:
    every = attempts(events)
    assert newest_attempt(events) == (len(every), every[-1] if every else None)
