"""When to begin to save."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.recovery.lead import lead_warning, needed_signal_lead_s, save_seconds, signal_lead_s, stop_lead_s


def test_measured_saves_say_when() -> None:
    assert stop_lead_s(60, 3600, [20, 40, 30]) == 70
    assert stop_lead_s(60, 3600, []) == 60


def test_a_short_slice_is_not_spent_on_saving() -> None:
    assert stop_lead_s(60, 100, []) == 25
    assert stop_lead_s(60, 100, [400]) == 50


@given(st.lists(st.floats(0, 1e5), min_size=1), st.floats(10, 1e6))
def test_the_lead_leaves_room_for_the_longest_save_where_the_slice_has_it(saves: list[float], slice_s: float) -> None:
    lead = stop_lead_s(60, slice_s, saves)
    assert lead <= slice_s / 2
    assert lead >= min(max(saves), slice_s / 2)


def test_only_figures_of_saves_count() -> None:
    events = [
        {"kind": "checkpoint_saved", "save_seconds": 3},
        {"kind": "checkpoint_saved"},
        {"kind": "checkpoint_saved", "save_seconds": "9"},
        {"kind": "checkpoint_saved", "save_seconds": float("nan")},
        {"kind": "rank_up", "save_seconds": 7},
        {"kind": "checkpoint_saved", "save_seconds": 4.5},
    ]
    assert save_seconds(events) == [3, 4.5]


@pytest.mark.parametrize(
    ("option", "lead"),
    [
        ("USR1@120", 120),
        ("B:USR1@300", 300),
        ("RB:10@5", 5),
        ("SIGTERM", 60),
        (None, None),
        ("", None),
        ("USR1@", None),
        ("@5", None),
    ],
)
def test_the_lead_in_a_signal_option(option: str | None, lead: int | None) -> None:
    assert signal_lead_s(option) == lead


def test_a_lead_that_is_too_short_is_told_with_what_to_give() -> None:
    assert needed_signal_lead_s([100]) == 210
    assert "give at least @210" in lead_warning("B:USR1@120", [50, 100])
    assert lead_warning("B:USR1@210", [50, 100]) == ""
    assert lead_warning("B:USR1@1", []) == ""
    assert lead_warning(None, [100]) == ""
