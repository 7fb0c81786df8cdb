"""Nodes with a bad record are taken last, never refused, and get their own weight back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.health.ledger import LEMON, Ledger, LedgerEntry, adopted, merged, node_scores, strangers
from sovctl.health.lemons import Lemons, Move, lemons_from_record, lemons_record, located, reweigh
from sovctl.model.gpu import GpuSample
from sovctl.model.node import NodeState, NodeView

NOW = 1795384000.0


def nodes(**weights: int) -> list[NodeView]:
    return [NodeView(name, NodeState("IDLE"), weight=weight) for name, weight in weights.items()]


def entry(node: str, what: str = "FAILED XID79", boot: str = "b1", sequence: int = -1) -> LedgerEntry:
    return LedgerEntry(NOW - 60, node, boot, what, sequence)


def test_a_lemon_gets_a_weight_above_all_others_once() -> None:
    site = nodes(n001=1, n002=1, n003=50)
    changes, taken_last = reweigh(site, {"n001": LEMON}, Lemons())
    assert [change.argv for change in changes] == [("scontrol", "update", "NodeName=n001", "Weight=51")]
    assert taken_last == {"n001": 1}
    after = [replace(node, weight=51) if node.name == "n001" else node for node in site]
    assert reweigh(after, {"n001": LEMON}, Lemons(taken_last=taken_last)) == ((), taken_last)
    # slurmctld read slurm.conf again and forgot it
    assert len(reweigh(site, {"n001": LEMON}, Lemons(taken_last=taken_last))[0]) == 1


def test_it_gets_its_own_weight_back_when_its_score_has_fallen_well_below() -> None:
    site, before = nodes(n001=51, n002=1), Lemons(taken_last={"n001": 7})
    assert reweigh(site, {"n001": 0.9 * LEMON}, before)[1] == {"n001": 7}
    changes, taken_last = reweigh(site, {"n001": 0.7 * LEMON}, before)
    assert [(change.node, change.weight) for change in changes] == [("n001", 7)] and taken_last == {}
    assert [change.weight for change in reweigh(site, {"n001": 9 * LEMON}, before, enabled=False)[0]] == [7]


@given(
    st.dictionaries(st.sampled_from(["n1", "n2", "n3", "n4"]), st.floats(0, 20)),
    st.lists(st.integers(1, 100), min_size=4, max_size=4),
)
def test_a_second_pass_changes_nothing(scores: dict[str, float], weights: list[int]) -> None:
    site = [NodeView(f"n{i}", NodeState("IDLE"), weight=weight) for i, weight in enumerate(weights, 1)]
    changes, taken_last = reweigh(site, scores, Lemons())
    new = {change.node: change.weight for change in changes}
    after = [replace(node, weight=new.get(node.name, node.weight)) for node in site]
    assert reweigh(after, scores, Lemons(taken_last=taken_last)) == ((), taken_last)
    plain = [node.weight for node in after if node.name not in taken_last]
    assert all(node.weight > max(plain, default=0) for node in after if node.name in taken_last)


def test_a_gpu_takes_its_record_to_its_next_node() -> None:
    old = Ledger({"s1": (entry("n001"), entry("n001", boot="b2"))}, {"0000:0f:00": "s9"})
    new = Ledger({}, {"0000:0f:00": "s1"})
    assert list(node_scores({"n001": old, "n002": new}, NOW)) == ["n002"]
    gpu = GpuSample(0, "GPU-1", "s1", "B200", "0000:0f:00.0")
    assert strangers(Ledger({}, {}), (gpu,)) == {"s1"} and strangers(new, (gpu,)) == frozenset()
    adopting = adopted(Ledger({}, {}), {"s1"}, merged([old]))
    assert [item.node for item in adopting.gpus["s1"]] == ["n001", "n001"]
    assert adopted(adopting, {"s1"}, merged([old])) == adopting
    both = {"n001": old, "n002": Ledger(adopting.gpus, new.places)}
    assert node_scores(both, NOW) == node_scores({"n001": old, "n002": new}, NOW), "nothing counts twice"


def test_a_move_is_seen_once_and_the_newest_word_counts() -> None:
    before = Lemons(where={"s1": "n001"})
    ledgers = {
        "n002": (20.0, Ledger({}, {"0000:0f:00": "s1"})),
        "n001": (10.0, Ledger({}, {"0000:0f:00": "s1"})),
    }
    where, moves = located(ledgers, before)
    assert where == {"s1": "n002"} and moves == (Move("s1", "n001", "n002"),)
    assert located(ledgers, Lemons(where=where))[1] == ()


@pytest.mark.parametrize("record", [None, {}, {"schema": "sovctl.lemons/1", "at": "x"}, "text"])
def test_a_broken_list_knows_nothing(record: object) -> None:
    assert lemons_from_record(record) == Lemons()
    whole = Lemons(1.0, {"n1": 7.5}, {"n1": 1}, {"s1": "n1"})
    assert lemons_from_record(json.loads(json.dumps(lemons_record(whole)))) == whole
