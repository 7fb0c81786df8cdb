"""What a list shows of a run is what its whole record says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.job import JobView
from sovctl.recovery.attempts import Attempt, attempts
from sovctl.recovery.run_digest import RunDigest, digest_from_record, digest_of, digest_record
from sovctl.recovery.run_state import run_state, told_state

KINDS = ("attempt_started", "attempt_ended", "first_step", "checkpoint_loaded", "checkpoint_saved", "held", "requeued",
         "run_ended")  # fmt: skip
EVENTS = st.lists(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(KINDS), "attempt": st.sampled_from((0, 1, True, 1.0, None, "1"))},
        optional={
            "step": st.sampled_from((0, 7, 20, 99, True, "3", None)),
            "nodes": st.lists(st.text(max_size=3), max_size=2),
            "short": st.sampled_from(("", "nodes", 7)),
            "outcome": st.sampled_from(("finished", "cancelled", 1)),
            "action": st.sampled_from(("hold", "requeue")),
        },
    ),
    max_size=12,
)
JOBS = st.none() | st.builds(
    JobView,
    st.just("7"),
    st.just("t"),
    st.just("u"),
    st.just(1),
    st.sampled_from(("PENDING", "RUNNING", "COMPLETED", "CANCELLED")),
    reason=st.sampled_from(("", "Resources", "JobHeldUser")),
)


def _step_of(attempt: Attempt) -> int | None:
    known = (attempt.stop and attempt.stop.step, attempt.saved_step, attempt.first_step, attempt.loaded_step)
    return max((step for step in known if step is not None), default=None)


@given(EVENTS, JOBS)
def test_the_digest_says_what_the_record_says(events: list[dict[str, Any]], job: JobView | None) -> None:
    digest = digest_of(events)
    assert told_state(digest.story, digest.short, job) == run_state(events, job)
    every = attempts(events)
    assert (digest.attempts, digest.nodes) == (len(every), every[-1].nodes if every else ())
    assert digest.step == (_step_of(every[-1]) if every else None)


@given(EVENTS)
def test_it_survives_being_kept(events: list[dict[str, Any]]) -> None:
    digest = digest_of(events)
    assert digest_from_record(json.loads(json.dumps(digest_record(digest)))) == digest


def test_step_0_is_a_step() -> None:
    digest = RunDigest(step=0)
    assert digest_from_record(digest_record(digest)) == digest


@pytest.mark.parametrize("record", [None, 1, "waiting", {}, [], ["waiting"], ["over", "", 0, [], None],
                                    ["waiting", "", "x", [], None], ["waiting", "", 0, None, None],
                                    ["waiting", "", 0, [], "x"]])  # fmt: skip
def test_anything_else_is_none(record: object) -> None:
    assert digest_from_record(record) is None
