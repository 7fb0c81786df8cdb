"""Nodes that need an eye come first, alike ones together, and our incidents are told apart from other people's."""

from __future__ import annotations

from typing import Any

import pytest
from node_fakes import NODE, NOW, FakeNode

from sovctl.errors import CommandFailed, NodeNotFound, SovctlError
from sovctl.health.drain import incident_id
from sovctl.health.ledger import Ledger, LedgerEntry, ledger_record
from sovctl.health.lemons import Lemons, lemons_record
from sovctl.model.node import NodeState, NodeView
from sovctl.operations.nodes import known_lemons, list_nodes, plainly_fine, show_node


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


def test_groups_with_the_troubled_first(node: FakeNode) -> None:
    node.views.clear()
    for name in ("n001", "n002", "n003", "n004", "n005"):
        node.put(name, "IDLE")
    node.put("n002", "MIXED", "DRAIN", reason="sovctl:i1 XID79 GPU 5")
    node.put("n004", "DOWN", "NOT_RESPONDING", reason="Not responding")
    node.put("n005", "DOWN", "NOT_RESPONDING", reason="Not responding")
    groups = list_nodes(node)
    assert [(str(group.state), group.nodes, group.fine, group.ours is not None) for group in groups] == [
        ("DOWN+NOT_RESPONDING", ("n004", "n005"), False, False),
        ("MIXED+DRAIN", ("n002",), False, True),
        ("IDLE", ("n001", "n003"), True, False),
    ]
    assert [group.nodes for group in list_nodes(node, apart=True)] == [
        ("n002",), ("n004",), ("n005",), ("n001",), ("n003",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "flags", "fine"),
    [
        ("IDLE", (), True),
        ("ALLOCATED", ("COMPLETING",), True),
        ("IDLE", ("PLANNED",), True),
        ("IDLE", ("DRAIN",), False),
        ("DOWN", (), False),
        ("IDLE", ("POWERED_DOWN",), False),
        ("FUTURE", (), False),
        ("UNKNOWN", (), False),
    ],
)
def test_what_is_plainly_fine(base: str, flags: tuple[str, ...], fine: bool) -> None:
    assert plainly_fine(NodeState(base, frozenset(flags))) is fine


def test_one_node_with_its_incident_and_its_last_words(node: FakeNode) -> None:
    incident = incident_id(NODE, "boot-1", NOW)
    node.put(NODE, "IDLE", "DRAIN", reason=f"sovctl:{incident} XID79 GPU 5 fell off the bus")
    for number in range(30):
        node.append("verdict", state=str(number))
    shown = show_node(NODE, node, node)
    assert shown.incident is not None
    assert (shown.incident.code, shown.incident.text) == ("XID79", "GPU 5 fell off the bus")
    assert shown.incident_at == NOW
    assert [entry["state"] for entry in shown.entries] == [str(number) for number in range(20, 30)]


def test_a_journal_that_cannot_be_read_is_not_an_empty_one(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[object]:
        raise SovctlError("permission denied")

    monkeypatch.setattr(node, "events", refuse)
    shown = show_node(NODE, node, node)
    assert (shown.entries, shown.journal_problem) == ((), "permission denied")


@pytest.mark.parametrize("answer", [(), (NodeView("n001", NodeState("IDLE")),), None])
def test_no_such_node(node: FakeNode, answer: tuple[NodeView, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def nodes(names: object = ()) -> tuple[NodeView, ...]:
        if answer is None:
            raise CommandFailed(["scontrol"], 1, "Node nope not found")
        return answer

    monkeypatch.setattr(node, "nodes", nodes)
    with pytest.raises(NodeNotFound):
        show_node("nope", node, node)


class Records:
    """What the nodes show each other, and the sweep's list."""

    def __init__(self, listed: Lemons | None, ledgers: dict[str, Ledger]) -> None:
        self.listed, self.ledgers = listed, ledgers

    def changed(self, since: float) -> bool:
        return True

    def all(self) -> dict[str, tuple[float, Any]]:
        return {name: (NOW, ledger_record(ledger)) for name, ledger in self.ledgers.items()}

    def lemons(self) -> Any:
        return lemons_record(self.listed) if self.listed else None

    def save_lemons(self, record: dict[str, Any]) -> None:
        raise AssertionError("only a sweep writes")


def bad(node: str) -> Ledger:
    failures = tuple(LedgerEntry(NOW - day * 86400, node, f"boot{day}", "FAILED XID79") for day in (1, 5, 9))
    return Ledger({"1": failures}, {"0000:0f:00": "1"})


def test_who_chooses_among_nodes_goes_by_the_list_of_the_last_sweep() -> None:
    listed = Lemons(NOW, {"n003": 7.5, "n001": 2.0}, {"n004": 1})
    assert known_lemons(Records(listed, {"n002": bad("n002")}), NOW) == {"n003", "n004"}


def test_where_no_sweep_acts_the_ledgers_tell() -> None:
    assert known_lemons(Records(None, {"n002": bad("n002"), "n003": Ledger()}), NOW) == {"n002"}
    assert known_lemons(None, NOW) == frozenset()
