from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sovctl.model.job import JobView
from sovctl.recovery.requeue import (
    LEAVE_S,
    SLURMD_LOOKS_S,
    Goal,
    Step,
    Told,
    begin_at,
    earliest_begin,
    ended_for_good,
    epilog_estimate_s,
    exit_s,
    kill_wait_s,
    late_begin,
    leave_s,
    next_step,
    own_delay_s,
    provisional_begin,
    sched_delay_s,
    stays_until,
    told,
)

AWAY = Goal(restarts_before=1, exclude=frozenset({"n003"}))


def job(state: str, restarts: int = 1, *excluded: str, flags: tuple[str, ...] = (), **more: Any) -> JobView:
    return JobView("7", "x", "alice", 1001, state, frozenset(flags), restarts=restarts, excluded=excluded, **more)


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        (job("RUNNING"), Step.REQUEUE),
        (job("SUSPENDED"), Step.REQUEUE),
        (job("CONFIGURING"), Step.REQUEUE),
        # Slurm prints these flags of a running job in place of its state.
        (job("STOPPED"), Step.REQUEUE),
        (job("SIGNALING"), Step.REQUEUE),
        (job("RESIZING"), Step.REQUEUE),
        (job("PREEMPTED"), Step.GONE),
        # The job was rolled back to before the requeue, or never saw it.
        (job("RUNNING", 0), Step.REQUEUE),
        # 22.05 to 26.05 print COMPLETING for the requeued and for the cancelled job; the restart count tells.
        (job("COMPLETING", 2), Step.SET_TERMS),
        (job("COMPLETING", 2, "n003"), Step.DONE),
        (job("COMPLETING", 1), Step.GONE),
        (job("PENDING", 2, flags=("COMPLETING", "REQUEUED")), Step.SET_TERMS),
        (job("PENDING", 2, "n003", flags=("COMPLETING", "REQUEUED")), Step.DONE),
        (job("PENDING", 2), Step.SET_TERMS),
        (job("PENDING", 2, "n003", "n009"), Step.SET_TERMS),
        (job("PENDING", 2, "n003"), Step.DONE),
        (job("RUNNING", 2, "n003"), Step.STARTED),
        (job("RUNNING", 2), Step.STARTED),
        (job("CANCELLED"), Step.GONE),
        (job("CANCELLED", 2, "n003"), Step.GONE),
        (job("TIMEOUT"), Step.GONE),
        (job("NODE_FAIL"), Step.GONE),
        (job("COMPLETED"), Step.GONE),
        (job("FAILED", flags=("COMPLETING",)), Step.GONE),
    ],
)
def test_next_step(seen: JobView, step: Step) -> None:
    assert next_step(seen, AWAY) is step


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        (job("RUNNING"), Step.REQUEUE),
        (job("COMPLETING", 2), Step.DONE),
        (job("PENDING", 2), Step.DONE),
        (job("CANCELLED"), Step.GONE),
    ],
)
def test_a_held_job_needs_no_terms(seen: JobView, step: Step) -> None:
    assert next_step(seen, Goal(1, frozenset(), hold=True)) is step


@pytest.mark.parametrize(
    ("seen", "ended"),
    [
        (job("RUNNING"), ""),
        (job("PENDING"), ""),
        (job("COMPLETING", 2), ""),
        (job("COMPLETING"), "CANCELLED"),
        (job("COMPLETING", reason="TimeLimit"), "TIMEOUT"),
        (job("COMPLETING", preempted_at=1000), "PREEMPTED"),
        (job("COMPLETING", 2, preempted_at=1000), ""),
        (job("COMPLETING", reason="TimeLimit", preempted_at=1000), "TIMEOUT"),
        (job("PREEMPTED"), "PREEMPTED"),
        (job("STOPPED"), ""),
        (job("COMPLETING", reason="NodeDown"), "NODE_FAIL"),
        (job("DEADLINE"), "DEADLINE"),
        (job("OUT_OF_MEMORY"), "OUT_OF_MEMORY"),
    ],
)
def test_ended_for_good(seen: JobView, ended: str) -> None:
    assert ended_for_good(seen, 1) == ended


seconds = st.floats(1_700_000_000, 1_800_000_000)


@given(seconds, st.floats(0, 60), st.floats(0, 30))
def test_the_begin_is_ahead_even_after_the_epilog(requeued: float, later: float, epilog: float) -> None:
    now = requeued + later
    earliest = earliest_begin(Told(requeued), now, epilog)
    assert earliest > now + epilog
    # Not much later either: slurmd's look, the epilog, and the next whole second.
    look = 10.0 if later > 10.5 else 1.0
    assert earliest <= now + epilog + look + 0.1 + 0.15 + 1.0 + 1e-3


@given(seconds, st.floats(0, 60), st.floats(0, 60), st.floats(0, 30))
def test_leaving_later_never_means_beginning_sooner(requeued: float, one: float, two: float, epilog: float) -> None:
    sooner, later = sorted((one, two))
    told = Told(requeued)
    assert earliest_begin(told, requeued + sooner, epilog) <= earliest_begin(told, requeued + later, epilog)


@given(seconds, st.floats(0, 60), st.floats(0, 20), st.floats(0, 1), st.floats(0, 30))
def test_where_it_is_not_known_when_slurmd_was_told_no_look_of_its_is_missed(
    told: float, later: float, within: float, part: float, epilog: float
) -> None:
    now = told + within + later
    sure = earliest_begin(Told(told + part * within), now, epilog)
    unsure = earliest_begin(Told(told, within), now, epilog)
    assert unsure >= sure
    assert unsure <= now + epilog + 0.1 + 0.15 + (11.0 if within + later > 9.5 else 2.0) + 1.0 + 1e-3


@pytest.mark.parametrize(
    ("ran_at", "sigterm_at", "at", "unsure_s"),
    [
        (1000.0, 1000.4, 1000.4, 0.0),
        (1000.0, 999.9, 999.9, 0.0),
        # A SIGTERM of a grace time, or of the user, before it was last seen to run.
        (1000.0, 950.0, 1000.0, 5.0),
        (1000.0, None, 1000.0, 5.0),
        (1005.0, None, 1005.0, 0.0),
        (100.0, None, 945.0, 60.0),
        (100.0, 990.0, 990.0, 0.0),
    ],
)
def test_when_slurmd_was_told(ran_at: float, sigterm_at: float | None, at: float, unsure_s: float) -> None:
    assert told(sigterm_at, ran_at, 1005.0) == Told(at, unsure_s)


def test_nobody_waits_longer_than_slurmd_lets_live() -> None:
    assert stays_until(Told(100.0), 30.0, 0.1) == 128.0
    assert stays_until(Told(100.0), 2.0, 0.1) == 103.0
    assert stays_until(Told(100.0), 30.0, 3.0) == 124.0


@pytest.mark.parametrize(
    ("ranks", "lingers_until", "begin"),
    [(True, 0.0, 138), (False, 0.0, 198), (False, 150.0, 157), (True, 150.0, 157), (False, 110.0, 198)],
)
def test_a_late_begin_is_after_what_is_known_to_end(ranks: bool, lingers_until: float, begin: int) -> None:
    assert late_begin(Told(100.0), 128.0, 30.0, 2.0, ranks=ranks, lingers_until=lingers_until) == begin


@given(st.floats(0, 300), st.floats(0, 60), st.booleans(), st.floats(0, 400))
def test_a_late_begin_is_ahead_and_before_slurms_own(
    kill_wait: float, epilog: float, ranks: bool, lingers_until: float
) -> None:
    told_at = Told(100.0)
    now = max(100.0, stays_until(told_at, kill_wait, 0.1))
    begin = late_begin(told_at, now, kill_wait, epilog, ranks=ranks, lingers_until=lingers_until)
    assert now + 3 < begin <= now + 90


@given(st.integers(1_700_000_000, 1_800_000_000), st.none() | seconds, st.floats(0, 30))
def test_the_begin_is_never_after_the_pass_that_has_to_see_it(earliest: int, last: float | None, delay: float) -> None:
    begin = begin_at(earliest, last, delay)
    if begin is None:
        assert last is None or math.floor(last) + delay < earliest
    else:
        assert last is not None
        assert begin == earliest
        assert begin <= math.floor(last) + delay


def test_a_fresh_pass_lets_the_job_begin_before_the_next() -> None:
    assert begin_at(104, 101.9, 3.0) == 104
    assert begin_at(105, 101.9, 3.0) is None
    assert begin_at(105, None, 3.0) is None


def test_slurmd_looks_at_its_own_times() -> None:
    times = [100 + look for look in SLURMD_LOOKS_S]
    assert times == sorted(times)
    # Gone at once: noticed at the second look (0.17 s), so the next whole second will do.
    assert earliest_begin(Told(100.0), 100.05, 0.0) == 101
    # Gone just after the last early look: noticed a second later.
    assert earliest_begin(Told(100.0), 100.6, 0.0) == 102


@pytest.mark.parametrize(
    ("gone", "kill_wait", "noticed"),
    [
        (10.5, 30.0, 110.67),
        (10.7, 30.0, 120.67),
        (20.6, 30.0, 120.67),
        # It looks again when KillWait is over, and then as at first.
        (20.7, 30.0, 129.67),
        (30.0, 30.0, 130.67),
        (10.7, 12.0, 111.67),
        (10.7, 5.0, 111.67),
        (20.7, 60.0, 130.67),
    ],
)
def test_after_ten_seconds_slurmd_looks_seldom(gone: float, kill_wait: float, noticed: float) -> None:
    """Measured on 22.05: gone 11.9 s after the requeue, noticed at 20.69 s."""
    begin = earliest_begin(Told(100.0), 100.0 + gone, 0.0, 0.0, kill_wait)
    assert begin == math.floor(noticed + 0.15) + 1


@pytest.mark.parametrize(("told", "seconds"), [("30 sec", 30.0), ("120 sec", 120.0), ("", 30.0), ("INFINITE", 30.0)])
def test_kill_wait(told: str, seconds: float) -> None:
    assert kill_wait_s({"KillWait": told}) == seconds


def test_where_leaving_takes_long_so_does_the_report_of_the_end() -> None:
    """Noticed at 101.67 in all three; slurmctld may hear of it after 102."""
    assert earliest_begin(Told(100.0), 101.0, 0.0) == 102
    assert earliest_begin(Told(100.0), 101.0, 0.0, leave_s=0.2) == 102
    assert earliest_begin(Told(100.0), 101.0, 0.0, leave_s=0.6) == 103


@pytest.mark.parametrize(
    ("parameters", "delay"),
    [
        ("", 3.0),
        ("(null)", 3.0),
        ("batch_sched_delay=1", 1.0),
        ("bf_continue, batch_sched_delay=20,defer", 20.0),
        ("batch_sched_delay=x", 3.0),
        ("xbatch_sched_delay=9", 3.0),
    ],
)
def test_sched_delay(parameters: str, delay: float) -> None:
    assert sched_delay_s(parameters) == delay


@given(st.text())
def test_any_scheduler_parameters_give_a_delay(parameters: str) -> None:
    assume("batch_sched_delay" not in parameters)
    assert sched_delay_s(parameters) == 3.0


def test_the_epilog_is_guessed_from_the_other_nodes() -> None:
    assert epilog_estimate_s([9.0], False, 2.0) == 0.0
    assert epilog_estimate_s([], True, 2.0) == 2.0
    assert epilog_estimate_s([0.3], True, 2.0) == 2.0
    assert epilog_estimate_s([4.0, 2.0], True, 2.0) == 6.0


@pytest.mark.parametrize(
    ("version", "scheduler", "auth", "delay"),
    [
        ("22.05.8", "(null)", "(null)", 121),
        ("24.11.5", "requeue_delay=5", "(null)", 121),
        ("25.11.0", "bf_continue,requeue_delay=5", "(null)", 6),
        ("26.05.5", "requeue_delay=0", "cred_expire=300", 1),
        ("26.05.5", "(null)", "socket=/run/munge/munge.socket.2,cred_expire=30", 31),
        ("", "", "", 121),
    ],
)
def test_how_long_slurm_itself_waits(version: str, scheduler: str, auth: str, delay: float) -> None:
    settings = {"SLURM_VERSION": version, "SchedulerParameters": scheduler, "AuthInfo": auth}
    assert own_delay_s(settings) == delay


def test_a_provisional_begin_never_comes_after_slurms_own() -> None:
    assert provisional_begin(1000.4, 121.0) == 1090
    assert provisional_begin(1000.4, 6.0) is None
    assert provisional_begin(1000.4, 90.0) is None


def test_a_machine_that_is_crowded_is_given_longer_to_end_the_supervisor() -> None:
    assert leave_s((), 1.0) == LEAVE_S
    assert leave_s((0.01, 0.02), 0.2) == LEAVE_S
    assert leave_s((0.01,), 8.0) == pytest.approx(8 * LEAVE_S)
    assert leave_s((0.01, 0.6, 0.02), 1.0) == pytest.approx(0.6 + exit_s(1.0))
    assert exit_s(1.0) < exit_s(4.0) < leave_s((), 4.0)
