"""Two silent witnesses make a dead node; one does not."""

from __future__ import annotations

import pytest

from sovctl.health.death import Down, Left, decide_dead, suspects, unheard
from sovctl.model.node import NodeState, NodeView
from sovctl.model.reason import parse_reason

NOW = 1000.0


def node(name: str = "n001", base: str = "ALLOCATED", *flags: str, reason: str = "") -> NodeView:
    return NodeView(name, NodeState(base, frozenset(flags)), reason=reason)


@pytest.mark.parametrize(
    ("view", "alive", "suspected"),
    [
        (node(), {"n001": NOW - 7}, True),
        (node(), {"n001": NOW - 5}, False),
        (node(), {}, False),  # a watcher that never reported is no witness
        (node("n001", "DOWN"), {"n001": NOW - 99}, False),
        (node("n001", "IDLE", "DRAIN"), {"n001": NOW - 99}, True),
    ],
)
def test_suspects(view: NodeView, alive: dict[str, float], suspected: bool) -> None:
    assert bool(suspects([view], alive, NOW, 6.0)) is suspected


@pytest.mark.parametrize(
    ("view", "silent_s", "expected"),
    [
        (node("n001", "ALLOCATED", "NOT_RESPONDING"), 12.0, True),
        (node("n001", "ALLOCATED", "NOT_RESPONDING"), 11.0, False),
        (node("n001"), 99.0, False),  # one witness
    ],
)
def test_a_node_that_takes_connections_and_answers_nothing(view: NodeView, silent_s: float, expected: bool) -> None:
    assert unheard(view, silent_s, 6.0) is expected


def test_a_dead_node_is_set_down_with_our_reason() -> None:
    decision = decide_dead(node(), 8.0, "inc-1", 0, 4)
    assert isinstance(decision, Down)
    reason = parse_reason(decision.reason)
    assert reason is not None
    assert (reason.incident, reason.code) == ("inc-1", "NODE_DEAD")


def test_somebody_elses_drain_is_left() -> None:
    decision = decide_dead(node("n001", "IDLE", "DRAIN", reason="dimm swap, kim"), 8.0, "inc-1", 0, 4)
    assert isinstance(decision, Left)
    assert "dimm swap" in decision.why


def test_our_own_drain_is_kept_in_the_new_reason() -> None:
    decision = decide_dead(node("n001", "IDLE", "DRAIN", reason="sovctl:a XID79 gone"), 8.0, "inc-2", 0, 4)
    assert isinstance(decision, Down)
    assert "XID79" in decision.reason


def test_many_dead_nodes_are_a_switch_and_not_ours_to_drain() -> None:
    decision = decide_dead(node(), 8.0, "inc-1", 4, 4)
    assert isinstance(decision, Left)
    assert "a person has to look" in decision.why
