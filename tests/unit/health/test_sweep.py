"""What a pass decides: budgets, ownership, and that unknown decides nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.errors import RefusedError
from sovctl.health.by_hand import drain_by_hand, resume_by_hand
from sovctl.health.drain import Drain, Nothing, incident_id
from sovctl.health.node_reply import read_checked, read_stored
from sovctl.health.sweep import (
    Assessed,
    Free,
    Left,
    Retest,
    SweepPolicy,
    needs_confirmation,
    plan_pass,
    reason_not_to_ask,
    stuck_jobs,
)
from sovctl.model.job import JobView
from sovctl.model.node import NodeState, NodeView
from sovctl.model.verdict import Finding, Severity, Verdict, VerdictState

NOW = 1795384000.0
OURS = f"sovctl:{incident_id('n001', 'b', NOW - 90000)} XID79 GPU 5 fell off"
POLICY = SweepPolicy(drain_limit_per_hour=4, drain_share_per_hour=0.1)


def view(name: str = "n001", base: str = "IDLE", *flags: str, reason: str = "") -> NodeView:
    return NodeView(name, NodeState(base, frozenset(flags)), reason=reason, reason_by="alice" if reason else "")


def heard(
    name: str = "n001", state: VerdictState = VerdictState.HEALTHY, code: str = "", **changes: object
) -> Assessed:
    findings = (Finding(code, Severity.FAIL, "evidence"),) if code else ()
    return replace(Assessed(Verdict(name, "boot", NOW, state, findings=findings), confirmed=True), **changes)  # type: ignore[arg-type]


def failed(name: str, code: str = "XID79") -> Assessed:
    return heard(name, VerdictState.FAILED, code)


def decide(node: NodeView, assessed: Assessed, policy: SweepPolicy = POLICY, resumed: int = 0) -> object:
    return plan_pass([node], {node.name: assessed}, {}, {node.name: resumed}, policy, NOW).decisions[node.name]


def test_failed_in_service_is_drained() -> None:
    decision = decide(view(), failed("n001"))
    assert isinstance(decision, Drain)
    assert decision.reason.code == "XID79"


@pytest.mark.parametrize("state", [VerdictState.HEALTHY, VerdictState.DEGRADED, VerdictState.UNKNOWN])
def test_nothing_else_is(state: VerdictState) -> None:
    assert isinstance(decide(view(), heard(state=state)), Nothing)


def test_a_node_that_is_not_heard_is_not_drained_for_what_its_peers_say() -> None:
    odd = (Finding("PCIE_WIDTH", Severity.FAIL, "x8"),)
    assert isinstance(decide(view(), Assessed(None, True, odd)), Nothing)
    assert isinstance(decide(view(), heard(findings=odd)), Drain)


def test_an_old_verdict_does_not_drain() -> None:
    assert isinstance(decide(view(), replace(failed("n001"), confirmed=False)), Nothing)


@given(st.integers(1, 200), st.integers(0, 200), st.integers(1, 20), st.floats(0, 1))
def test_one_finding_never_takes_more_than_the_budget(nodes: int, sick: int, limit: int, share: float) -> None:
    policy = SweepPolicy(drain_limit_per_hour=limit, drain_share_per_hour=share)
    views = [view(f"n{number:03d}") for number in range(nodes)]
    assessed = {item.name: failed(item.name) if index < sick else heard(item.name) for index, item in enumerate(views)}
    plan = plan_pass(views, assessed, {}, {}, policy, NOW)
    drains = sum(isinstance(decision, Drain) for decision in plan.decisions.values())
    allowed = max(1, min(limit, int(share * nodes)))
    assert drains == min(sick, nodes, allowed)
    assert bool(plan.alarms) == (min(sick, nodes) > drains)


def test_the_budget_remembers_the_last_hour() -> None:
    early = [
        view(f"n{number:03d}", "IDLE", "DRAIN", reason=f"sovctl:{incident_id(str(number), 'b', NOW - 600)} XID79 x")
        for number in range(6)
    ]
    views = [*early, *(view(f"n{number:03d}") for number in range(6, 60))]
    plan = plan_pass(views, {"n010": failed("n010")}, {}, {}, SweepPolicy(drain_limit_per_hour=6), NOW)
    assert isinstance(plan.decisions["n010"], Nothing)
    assert "STOPPED draining for XID79" in plan.alarms[0]


def test_ours_is_retested_and_others_are_left() -> None:
    policy = replace(POLICY, retest=True)
    ours = view("n001", "IDLE", "DRAIN", reason=OURS)
    assert isinstance(decide(ours, heard(), policy), Retest)
    assert isinstance(decide(ours, heard(), POLICY), Left)
    assert isinstance(decide(ours, heard(), policy, resumed=2), Left)
    assert isinstance(decide(view("n001", "ALLOCATED", "DRAIN", reason=OURS), heard(), policy), Left)
    for state in (VerdictState.FAILED, VerdictState.UNKNOWN):
        assert isinstance(decide(ours, heard(state=state, code="X"), policy), Left)
    assert isinstance(decide(ours, Assessed(), policy), Left)
    assert isinstance(decide(ours, heard(confirmed=False), policy), Left)
    by_hand = view("n001", "IDLE", "DRAIN", reason=OURS.replace("XID79", "BY_HAND"))
    assert isinstance(decide(by_hand, heard(), policy), Left)
    left = decide(view("n001", "IDLE", "DRAIN", reason="new fan"), heard(), policy)
    assert left == Left("n001", "drained by alice, their reason stays: new fan")


def test_who_is_asked_and_who_twice() -> None:
    assert reason_not_to_ask(view()) == ""
    assert "NOT_RESPONDING" in reason_not_to_ask(view("n001", "IDLE", "NOT_RESPONDING"))
    assert "it is down" in reason_not_to_ask(view("n001", "DOWN", reason="fan"))
    assert reason_not_to_ask(view("n001", "DOWN", reason=OURS)) == ""
    healthy, sick = heard().verdict, failed("n001").verdict
    assert not needs_confirmation(view(), healthy, True)
    assert needs_confirmation(view(), healthy, False)
    assert needs_confirmation(view(), None, True)
    assert needs_confirmation(view(), sick, True)
    assert needs_confirmation(view("n001", "IDLE", "DRAIN", reason=OURS), healthy, True)
    assert not needs_confirmation(view("n001", "IDLE", "DRAIN", reason="fan"), sick, True)


def _job(job_id: str, *nodes: str, state: str = "COMPLETING") -> JobView:
    return JobView(job_id, "x", "u", 1000, state, nodes=nodes)


def test_stuck_jobs_are_those_on_one_node_only() -> None:
    jobs = [_job("1", "n001"), _job("2", "n002", "n003"), _job("3", "n004"), _job("4", "n005", state="RUNNING")]
    ended = {"1": NOW - 1000, "2": NOW - 1000, "3": NOW - 10, "4": NOW - 1000}
    by_node, notes = stuck_jobs(jobs, ended, POLICY, NOW)
    assert by_node == {"n001": ("1",)}
    assert notes == ("job 2 completes for 1000 s on 2 nodes: a shared cause, left",)


def test_a_node_that_holds_stuck_jobs_is_set_down_unless_it_is_somebody_elses() -> None:
    stuck = {"n001": ("1", "2")}
    plan = plan_pass([view("n001", "IDLE", "COMPLETING")], {"n001": Assessed()}, stuck, {}, POLICY, NOW)
    decision = plan.decisions["n001"]
    assert isinstance(decision, Free)
    assert decision.argv[3] == "State=DOWN"
    plan = plan_pass([view("n001", "IDLE", "DRAIN", reason="fan")], {"n001": Assessed()}, stuck, {}, POLICY, NOW)
    assert isinstance(plan.decisions["n001"], Left)


def test_by_hand() -> None:
    drained = drain_by_hand(view(), "new cable", "261122-214601-n001-ab12")
    assert isinstance(drained, Drain) and str(drained.reason).endswith("BY_HAND new cable")
    assert isinstance(drain_by_hand(view("n001", "IDLE", "DRAIN", reason=OURS), "x", "i"), Nothing)
    foreign = view("n001", "IDLE", "DRAIN", reason="fan")
    for force in (False, True):
        with pytest.raises(RefusedError, match="taken out of service by alice, not by sovctl: fan"):
            resume_by_hand(foreign, force=force)
    with pytest.raises(RefusedError, match="by alice already: fan"):
        drain_by_hand(foreign, "x", "i")
    gone = view("n001", "DOWN", "NOT_RESPONDING", reason=OURS)
    with pytest.raises(RefusedError, match="does not answer Slurm"):
        resume_by_hand(gone, force=False)
    assert resume_by_hand(gone, force=True) == ""
    assert resume_by_hand(view(), force=False) == "n001 is in service: IDLE"


@given(st.binary(max_size=300))
def test_no_answer_of_a_node_raises(answer: bytes) -> None:
    stored = read_stored("n001", answer, 0.0, 1.0)
    assert stored.verdict is None and not stored.fresh
    assert read_stored("n001", b"1.5\nboot\n" + answer, 0.0, 1.0).verdict is None
    assert read_checked("n001", answer).garbage
    read_checked("n001", b'{"schema": "sovctl.verdict/1", ' + answer)
