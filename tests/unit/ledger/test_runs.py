"""The account of a run from its own journal."""

from __future__ import annotations

from typing import Any

import pytest
from event_builders import RECORD, T0, Record, lost_with_its_host, recovered
from hypothesis import given
from hypothesis import strategies as st

from sovctl.ledger.incident import Incident, Outcome
from sovctl.ledger.runs import code_of, run_account
from sovctl.ledger.stamps import Stamp, stages
from sovctl.model.blame import Culprit

RUN = {**RECORD, "run_id": "lab-34-1795385600", "user": "alice", "name": "t"}


def account(run: Record, now: float = 1000.0) -> Any:
    return run_account(RUN, run.events, T0 + now)


def full() -> Record:
    """A GPU dies at 83.0 s at step 47; with every stamp there is."""
    run = Record().started(0, 0).steps(2, 0).saved(60, 0, 40).faulted(83, 0)
    run.events[0]["gpus"] = 8
    run.add(84, "killed", attempt=0).add(84.2, "epilogs_done", attempt=0).requeued(84.5, 0, "n003")
    run.started(86.9, 1, 40)
    run.add(87, "allocated", attempt=1, eligible_at=T0 + 85, allocated_at=T0 + 86, began_at=T0 + 86.5)
    return run.steps(88, 1, loaded=40).add(101, "caught_up", attempt=1, happened=T0 + 100, step=47)


def only(run: Record) -> Incident:
    (incident,) = account(run).incidents
    return incident


def test_every_stamp_has_its_second() -> None:
    item = only(full())
    assert {stamp.value: round(at - T0, 2) for stamp, at in item.stamps.items()} == {
        "detected": 83.0,
        "decided": 83.01,
        "killed": 84.0,
        "epilogs done": 84.2,
        "allocation ready": 84.5,
        "eligible": 85.0,
        "allocated": 86.0,
        "prolog done": 86.5,
        "script started": 86.9,
        "first rank up": 88.0,
        "checkpoint loaded": 89.0,
        "first step": 90.0,
        "caught up": 100.0,
    }
    assert (item.code, item.nodes, item.outcome, item.steps_lost) == ("XID79", ("n003",), Outcome.RECOVERED, 7)
    assert item.lost_s == pytest.approx(17.0)
    assert item.gpu_seconds_lost == pytest.approx(17 * 8 * 4)


def test_stages_count_from_the_one_before_and_never_backwards() -> None:
    found = stages({Stamp.DETECTED: 10.0, Stamp.KILLED: 12.0, Stamp.ALLOCATED: 11.5, Stamp.FIRST_STEP: 15.0})
    taken = {stage.stamp: stage.since_previous_s for stage in found if stage.at is not None}
    assert taken == {Stamp.DETECTED: None, Stamp.KILLED: 2.0, Stamp.ALLOCATED: 0.0, Stamp.FIRST_STEP: 3.0}
    assert found[0].at is None and found[-1].since_start_s is None


def test_without_the_last_stamp_the_steps_are_counted_at_their_pace() -> None:
    # 46 steps in 79 s; seven of them again after the first step at 90 s.
    item = only(recovered())
    assert Stamp.CAUGHT_UP not in item.stamps
    assert item.lost_s == pytest.approx(90 - 83 + 7 * 79 / 46, abs=0.1)


def test_a_hang_began_with_the_last_progress() -> None:
    run = Record().started(0, 0).steps(2, 0)
    run.add(160, "hang", attempt=0, idle_seconds=60.0, timeout_seconds=60.0)
    item = only(run.ended(161, 0, "unknown", "hangs").add(162, "restart_intent", attempt=0, how="in-place"))
    assert item.stamps[Stamp.FAULT] == T0 + 100
    assert (item.outcome, item.lost_s) == (Outcome.OPEN, None)


def test_a_batch_host_that_died_with_the_supervisor_is_an_incident_since_the_last_word() -> None:
    item = only(lost_with_its_host())
    assert not {Stamp.FAULT, Stamp.DETECTED, Stamp.DECIDED} & set(item.stamps)
    assert (item.at - T0, item.nodes, item.outcome) == (60, ("n001",), Outcome.RECOVERED)
    assert item.lost_s == pytest.approx(204 - 60 + 7 * 56 / 46, abs=0.1)
    told = only(lost_with_its_host(happened=T0 + 83))
    assert told.stamps[Stamp.FAULT] == T0 + 83
    assert (told.at - T0, told.seconds_to(Stamp.FIRST_STEP)) == (83, pytest.approx(121))


def test_a_fault_is_not_later_than_it_was_seen() -> None:
    run = Record().started(0, 0).steps(2, 0).add(83, "detected", attempt=0, nodes=["n003"], happened=T0 + 90)
    item = only(run.ended(84, 0, "hardware", "n003: XID79", blamed=["n003"]))
    assert item.stamps[Stamp.FAULT] == item.stamps[Stamp.DETECTED] == T0 + 83


def test_a_crash_happened_when_the_script_ended() -> None:
    run = Record().started(0, 0).steps(2, 0).add(50, "script_ended", attempt=0, exit_status=1)
    item = only(run.crashed(58, 0).add(58.1, "requeue_intent", attempt=0))
    assert (item.stamps[Stamp.FAULT], item.stamps[Stamp.DETECTED]) == (T0 + 50, T0 + 58)


def test_gpus_are_those_of_the_job_where_the_environment_did_not_tell() -> None:
    run = recovered()
    assert [item.gpus for item in account(run).incidents] == [None]
    run.events[0]["spares"] = ["n009", "n010"]
    # Six nodes with 8 GPUs each: the attempt had four of them, and the next one, in the same allocation, too.
    run.events.insert(1, {"seq": 1, "at": T0 + 1, "kind": "allocated", "attempt": 0, "gpus": 48})
    found = account(run)
    assert [item.gpus for item in found.incidents] == [32]
    assert [span.gpus for span in found.spans] == [32, 32]
    run.events[1]["gpus"] = 0
    assert [item.gpu_seconds_lost for item in account(run).incidents] == [0.0]


def test_in_its_own_allocation_nothing_was_queued() -> None:
    run = Record().started(0, 0).steps(2, 0).faulted(83, 0)
    run.add(84, "restarted", attempt=0, how="spare", nodes=[], dropped=["n003"]).started(85, 1, 40)
    run.add(86, "allocated", attempt=1, eligible_at=T0 - 50, allocated_at=T0 - 40, began_at=T0 - 39)
    item = only(run.steps(87, 1, loaded=40))
    assert item.how == "spare"
    assert not {Stamp.ELIGIBLE, Stamp.ALLOCATED, Stamp.PROLOG_DONE} & set(item.stamps)


def test_a_wish_is_no_incident_and_a_preemption_no_failure() -> None:
    run = Record().started(0, 0).steps(2, 0).ended(50, 0, "stopped").started(60, 1).ended(90, 1, "preempted")
    (item,) = account(run.started(200, 2)).incidents
    assert (item.culprit, item.failure) == (Culprit.PREEMPTED, False)


def test_time_that_counted() -> None:
    found = account(full(), now=190.0)
    first, second = found.spans
    # From the first step at 4 s to the fault at 83 s, without the seven of 47 steps that were done again.
    assert first.productive_s == pytest.approx(79 * 40 / 47, rel=1e-3)
    assert second.productive_s == pytest.approx(190 - 90, rel=1e-3)
    assert (first.ended_at - T0, second.ended_at - T0) == (83.0, 190.0)


def test_a_stop_at_the_start_counts_nothing_and_stalls_count_nothing() -> None:
    run = Record().started(0, 0).steps(10, 0).add(50, "checkpoint_saved", attempt=0, step=9, stall_seconds=5.0)
    run.ended(100, 0, "none", exit_status=0).add(100, "run_ended", outcome="finished")
    (span,) = account(run).spans
    assert span.productive_s == pytest.approx(100 - 12 - 5)
    silent = Record().started(0, 0).ended(40, 0, "unknown", "gone").add(40, "requeue_intent", attempt=0)
    assert account(silent).spans[0].productive_s == 0.0


def test_tries_that_led_on_and_tries_that_did_not() -> None:
    run = Record().started(0, 0).saved(60, 0, 40).crashed(80, 0).add(81, "requeue_intent", attempt=0)
    run.started(90, 1, 40).crashed(95, 1).add(96, "requeue_intent", attempt=1).started(100, 2, 40).saved(130, 2, 60)
    (chain,) = account(run).chains
    assert (chain.retries, chain.success, chain.culprit) == (2, True, Culprit.USER_CODE)
    assert chain.intervals_s == pytest.approx((10.0, 5.0))
    held = Record().started(0, 0).crashed(80, 0).add(81, "requeue_intent", attempt=0).started(90, 1)
    held.crashed(95, 1, "hold").add(96, "held", attempt=1, job_id="34", why="the same crash twice")
    (chain,) = account(held).chains
    assert (chain.retries, chain.success) == (1, False)
    assert [item.outcome for item in account(held).incidents] == [Outcome.RECOVERED, Outcome.HELD]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("n003: XID79 GPU 5 at 0000:64:00", "XID79"),
        ("n003: XID 79 on GPU 5", "XID79"),
        ("n003: GPU_COUNT 7 of 8", "GPU_COUNT"),
        ("slurmd does not answer", ""),
    ],
)
def test_the_code_in_the_evidence(words: str, code: str) -> None:
    assert code_of(words) == code


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=3))
_EVENTS = st.dictionaries(
    st.sampled_from(
        ["kind", "attempt", "at", "happened", "step", "culprit", "nodes", "gpus", "stall_seconds", "blamed"]
    ),
    _VALUES
    | st.sampled_from(["attempt_started", "attempt_ended", "hardware", "held", "allocated", "checkpoint_saved"]),
)


@given(st.lists(_EVENTS, max_size=12), st.dictionaries(st.sampled_from(["run_id", "job_id", "user"]), _VALUES))
def test_nonsense_of_a_user_is_no_error(events: list[dict[str, Any]], record: dict[str, Any]) -> None:
    found = run_account(record, events, T0)
    assert all(0 <= span.productive_s <= span.ended_at - span.began_at + 1e-6 for span in found.spans)
