"""Whether a node is taken out of service."""

from __future__ import annotations

import pytest
from node_builders import NOW, snapshot, xid

from sovctl.health.drain import Drain, Nothing, decide_drain, incident_id, recent_drains
from sovctl.health.judge import judge
from sovctl.model.node import NodeState, NodeView
from sovctl.model.reason import incident_time, is_ours, parse_reason

INCIDENT = "261122-214640-n003-ab12"
FAILED = judge(snapshot(xid(79, index=5)))


def node(state: str = "IDLE", *flags: str, reason: str = "", name: str = "n003") -> NodeView:
    return NodeView(name, NodeState(state, frozenset(flags)), reason=reason)


def test_a_failed_node_is_drained_with_a_reason_a_person_can_read() -> None:
    decision = decide_drain(FAILED, node("MIXED"), 0, 4, INCIDENT)
    assert isinstance(decision, Drain)
    reason = str(decision.reason)
    assert reason.startswith(f"sovctl:{INCIDENT} XID79 GPU 5 at 0000:64:00: GPU has fallen off the bus")
    assert len(reason) <= 200
    assert decision.argv == ("scontrol", "update", "NodeName=n003", "State=DRAIN", f"Reason={reason}")


@pytest.mark.parametrize(
    ("view", "settled"),
    [
        (node("IDLE", "DRAIN", reason="sovctl:261122-200000-n003-0000 XID79 x"), True),
        (node("ALLOCATED", "DRAIN", reason="disk swap, ask Kim"), True),
        (node("DOWN", "DRAIN", reason="disk swap"), True),
        (node("DOWN", reason="Not responding"), False),
    ],
)
def test_a_node_out_of_service_is_left_as_it_is(view: NodeView, settled: bool) -> None:
    decision = decide_drain(FAILED, view, 0, 4, INCIDENT)
    assert isinstance(decision, Nothing)
    assert decision.settled is settled
    assert view.reason in decision.why


@pytest.mark.parametrize(
    "seen", [snapshot(), snapshot(xid(94)), snapshot(xid(31)), snapshot(gpus=(), blind=("nvml: x",))]
)
def test_only_a_failed_verdict_drains(seen: object) -> None:
    decision = decide_drain(judge(seen), node(), 0, 4, INCIDENT)  # type: ignore[arg-type]
    assert isinstance(decision, Nothing) and decision.settled


@pytest.mark.parametrize(("recent", "limit", "drains"), [(3, 4, True), (4, 4, False), (9, 4, False), (0, 0, False)])
def test_the_budget(recent: int, limit: int, drains: bool) -> None:
    decision = decide_drain(FAILED, node(), recent, limit, INCIDENT)
    assert isinstance(decision, Drain) is drains
    if isinstance(decision, Nothing):
        assert not decision.settled and f"{recent} nodes" in decision.why


def test_a_note_that_somebody_left_on_a_node_in_service_is_kept() -> None:
    decision = decide_drain(FAILED, node(reason="watch the fan"), 0, 4, INCIDENT)
    assert isinstance(decision, Drain)
    assert "[was: watch the fan]" in str(decision.reason) and is_ours(str(decision.reason))


def test_incident_ids_sort_differ_and_stay_short() -> None:
    first = incident_id("n003", "boot", NOW)
    assert first.startswith("261122-214640-n003-")
    later = incident_id("n003", "boot", NOW + 60)
    assert first < later
    assert incident_id("rack1-gpu-00003", "boot", NOW) != incident_id("rack2-gpu-00003", "boot", NOW)
    for name in ("n003", "rack1-gpu-00003.site.example", "ü", ""):
        made = incident_id(name, "boot", NOW)
        assert len(made) <= 24
        assert incident_time(made) == NOW
        parsed = parse_reason(f"sovctl:{made} XID79 text")
        assert parsed is not None and parsed.incident == made
    assert incident_time("somebody-elses") is None


def test_recent_drains_counts_ours_of_the_last_hour() -> None:
    def ours(age_s: float) -> str:
        return f"sovctl:{incident_id('n001', 'b', NOW - age_s)} XID79 text"

    nodes = [
        node("IDLE", "DRAIN", reason=ours(10)),
        node("DOWN", reason=ours(3000)),
        node("IDLE", "DRAIN", reason=ours(4000)),
        node("IDLE", "DRAIN", reason="somebody"),
        node("IDLE", reason=ours(10)),
        node("IDLE", "DRAIN", reason="sovctl:handmade x"),
    ]
    assert recent_drains(nodes, NOW) == 2
