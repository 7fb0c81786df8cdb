"""How often to save: the published figures, and laws that hold for any."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.recovery.interval import advise, daly, lost_share, measured, young
from sovctl.recovery.lead import needed_lead_s

HOUR = 3600.0
stalls = st.floats(0.01, 3600)
mttfs = st.floats(60, 1e7)
intervals = st.floats(1, 1e6)


@pytest.mark.parametrize(
    ("mttf_h", "stall_s", "minutes"), [(16, 6, 14), (16, 60, 44), (61, 6, 27), (61, 60, 86), (88, 0.5, 9)]
)
def test_intervals_of_a_60_node_job(mttf_h: float, stall_s: float, minutes: int) -> None:
    assert young(stall_s, mttf_h * HOUR) / 60 == pytest.approx(minutes, abs=0.6)
    assert daly(stall_s, mttf_h * HOUR) == pytest.approx(young(stall_s, mttf_h * HOUR), rel=0.05)


@given(stalls, mttfs)
def test_young_grows_with_both(stall: float, mttf: float) -> None:
    assert young(stall * 4, mttf) == pytest.approx(2 * young(stall, mttf))
    assert young(stall, mttf * 4) == pytest.approx(2 * young(stall, mttf))


@given(stalls, mttfs)
def test_daly_is_near_young_where_a_stall_is_short(stall: float, mttf: float) -> None:
    if stall < mttf / 1000:
        assert daly(stall, mttf) == pytest.approx(young(stall, mttf), rel=0.03)
    assert daly(stall, mttf) <= max(young(stall, mttf), mttf) * 1.2


@given(st.floats(0.1, 600), st.floats(3 * HOUR, 1e7), st.floats(0.05, 20))
def test_no_other_interval_costs_clearly_less_than_the_best(stall: float, mttf: float, factor: float) -> None:
    advice = advise(stall, stall, mttf)
    other = max(advice.best_s * factor, 1.0)
    assert advice.best_share <= lost_share(other, stall, stall, mttf) * 1.05 + 1e-4 or other < advice.best_s == stall


@given(intervals, stalls, stalls, mttfs)
def test_a_share_is_one(interval: float, stall: float, save: float, mttf: float) -> None:
    share = lost_share(interval, stall, save, mttf)
    assert 0 < share <= 1
    assert share <= lost_share(interval, stall, save * 2, mttf)
    assert share <= lost_share(interval, stall * 2, save, mttf) + 1e-12


@given(stalls, stalls, mttfs)
def test_the_best_interval_gives_a_save_the_time_it_takes(stall: float, save: float, mttf: float) -> None:
    advice = advise(stall, save, mttf)
    assert advice.best_s >= save
    assert math.isfinite(advice.best_share)
    assert advice.lead_s == needed_lead_s(save) == 1.5 * save + 60


def test_warnings() -> None:
    assert advise(6, 180, 60 * HOUR, interval_s=3600, grace_s=600).warnings == ()
    piled, short = advise(6, 180, 60 * HOUR, interval_s=120, grace_s=60).warnings
    assert piled == "a save takes 180 s, longer than the 120 s between two: they pile up"
    assert short == "the job gets 60 s between the signal and its end; a last save of 180 s needs 330 s"
    assert "done twice" in advise(6, 60, HOUR, interval_s=2 * HOUR).warnings[0]


def test_the_cost_in_gpu_hours() -> None:
    best, present = advise(60, 60, 16 * HOUR, interval_s=HOUR).gpu_hours_a_day(480)
    assert present is not None
    assert 0 < best < present < 480 * 24


def test_what_a_record_tells() -> None:
    events = [
        {"kind": "attempt_started", "attempt": 0, "at": 1000.0},
        *({"kind": "checkpoint_saved", "attempt": 0, "at": at, "happened": at} for at in (1100.0, 1200.0, 1310.0)),
        {"kind": "attempt_ended", "attempt": 0, "at": 1400.0, "culprit": "hardware", "blamed": ["n1"]},
        {"kind": "attempt_started", "attempt": 1, "at": 2000.0},
        {"kind": "checkpoint_saved", "attempt": 1, "at": 2100.0, "happened": 2100.0},
        {"kind": "attempt_ended", "attempt": 1, "at": 2200.0, "culprit": "preempted"},
    ]
    found = measured(events)
    assert (found.interval_s, found.failures, found.ran_s, found.mttf_s) == (105.0, 1, 600.0, 600.0)
    assert measured([]).mttf_s is None


def test_saves_and_stalls_come_from_the_record() -> None:
    saved = [
        {
            "kind": "checkpoint_saved",
            "attempt": 0,
            "happened": 1000.0 + 60 * number,
            "save_seconds": took,
            "stall_seconds": 0.5,
        }
        for number, took in enumerate((30.0, 34.0, 90.0))
    ]
    found = measured(saved)
    assert (found.interval_s, found.save_s, found.stall_s) == (60.0, 34.0, 0.5)
    assert measured([]).save_s is None
