from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.node import NodeState, NodeView
from sovctl.recovery.exclusion import (
    FORGET_AFTER_S,
    Exclusion,
    ExclusionList,
    choose,
    ever_against,
    exclusions,
    repaired,
)

NOW = 1_795_384_000.0


def ended(at: float, *nodes: str, culprit: str = "hardware") -> dict[str, Any]:
    return {"kind": "attempt_ended", "at": at, "culprit": culprit, "blamed": list(nodes), "evidence": "XID79"}


def node(name: str, *flags: str, base: str = "IDLE", partitions: tuple[str, ...] = ("main",)) -> NodeView:
    return NodeView(name, NodeState(base, frozenset(flags)), partitions=partitions)


def blamed(*names: str, at: float | None = None) -> list[Exclusion]:
    return [Exclusion(name, NOW - 100 + number if at is None else at) for number, name in enumerate(names)]


FOUR = [node(name) for name in ("n1", "n2", "n3", "n4")]


def test_blamed_nodes_oldest_first_each_once_with_its_newest_date() -> None:
    events = [ended(NOW - 30, "n1", "n2"), ended(NOW - 20, "n3"), ended(NOW - 10, "n1")]
    assert [(item.node, item.since) for item in exclusions(events, NOW)] == [
        ("n2", NOW - 30),
        ("n3", NOW - 20),
        ("n1", NOW - 10),
    ]


def test_only_hardware_condemns_a_node() -> None:
    assert exclusions([ended(NOW, "n1", culprit="user-code"), ended(NOW, "n2", culprit="time-limit")], NOW) == []


def test_a_forgiven_node_is_free_until_it_is_blamed_again() -> None:
    forgiven = {"kind": "forgiven", "nodes": ["n1"], "at": NOW - 5}
    assert exclusions([ended(NOW - 9, "n1"), forgiven], NOW) == []
    assert [item.node for item in exclusions([ended(NOW - 9, "n1"), forgiven, ended(NOW, "n1")], NOW)] == ["n1"]


def test_a_node_blamed_long_ago_is_tried_again() -> None:
    assert exclusions([ended(NOW - FORGET_AFTER_S, "n1")], NOW) == []
    assert exclusions([ended(NOW - FORGET_AFTER_S + 1, "n1")], NOW) != []


def test_with_room_everything_is_kept() -> None:
    assert choose(blamed("n1", "n2"), ["n9"], FOUR, "main", 2) == ExclusionList(("n9", "n1", "n2"))


def test_the_oldest_is_given_up_when_too_few_nodes_would_remain() -> None:
    assert choose(blamed("n1", "n2"), [], FOUR, "main", 3) == ExclusionList(("n2",), ("n1",))


def test_a_node_that_slurm_would_not_use_anyway_costs_nothing_to_exclude() -> None:
    nodes = [node("n1", "DRAIN"), node("n2"), node("n3"), node("n4")]
    assert choose(blamed("n1", "n2"), [], nodes, "main", 2) == ExclusionList(("n1", "n2"))
    assert choose(blamed("n2", "n1"), [], nodes, "main", 3) == ExclusionList(("n1",), ("n2",))


def test_a_job_that_could_never_start_excludes_no_node_that_is_out_of_service() -> None:
    nodes = [node("n1", "DRAIN"), node("n2", "DRAIN"), node("n3"), node("n4")]
    assert choose(blamed("n1", "n2"), [], nodes, "main", 3) == ExclusionList(("n2",), ("n1",))
    assert choose(blamed("n1", "n2"), [], nodes, "main", 4) == ExclusionList((), ("n1", "n2"))
    assert choose(blamed("n1", "n2"), ["n3"], nodes, "main", 4) == ExclusionList(("n3",), ("n1", "n2"))


def test_the_node_just_blamed_is_never_given_up() -> None:
    assert choose(blamed("n1"), [], FOUR, "main", 4) == ExclusionList(("n1",))


def test_nodes_blamed_together_are_all_just_blamed() -> None:
    assert choose(blamed("n1", "n2", at=NOW), [], FOUR, "main", 4) == ExclusionList(("n1", "n2"))


def test_nodes_of_other_partitions_are_no_replacement() -> None:
    nodes = [*FOUR, node("x1", partitions=("other",)), node("x2", partitions=("other",))]
    assert choose(blamed("n1", "n2"), [], nodes, "main", 3).given_up == ("n1",)


names = st.sampled_from([f"n{number}" for number in range(8)])
clusters = st.lists(st.booleans(), min_size=8, max_size=8).map(
    lambda healthy: [node(f"n{number}", *([] if up else ["DRAIN"])) for number, up in enumerate(healthy)]
)
wanted_lists = st.lists(names, unique=True, max_size=8).flatmap(
    lambda listed: st.lists(st.integers(0, 3), min_size=len(listed), max_size=len(listed)).map(
        lambda dates: [Exclusion(name, NOW + at) for name, at in zip(listed, sorted(dates), strict=True)]
    )
)


@given(wanted_lists, st.lists(names, unique=True, max_size=3), clusters, st.integers(1, 8))
def test_laws(wanted: list[Exclusion], own: list[str], nodes: list[NodeView], needed: int) -> None:
    chosen = choose(wanted, own, nodes, "main", needed)
    usable = {item.name for item in nodes if item.state.schedulable}
    newest = {item.node for item in wanted if item.since == wanted[-1].since}
    assert set(own) <= set(chosen.nodes), "the user's own exclusions are the user's"
    assert newest & usable <= set(chosen.nodes), "the nodes just blamed are never given back"
    assert set(chosen.nodes) | set(chosen.given_up) == set(own) | {item.node for item in wanted}
    assert len(set(chosen.nodes)) == len(chosen.nodes)
    room = len(usable - set(chosen.nodes)) >= needed
    old_and_usable = {item.node for item in wanted} & usable - newest - set(chosen.given_up)
    assert room or not old_and_usable, "it waits only when nothing more can be given up"
    given_up = [name for name in chosen.given_up if name in usable]
    if given_up:
        assert len(usable - set(chosen.nodes) - {given_up[-1]}) < needed, "no more is given up than needed"
    startable = len({item.name for item in nodes} - set(chosen.nodes)) >= needed
    assert startable or not set(chosen.nodes) - set(own) - usable, "no node out of service keeps it from ever starting"
    if set(chosen.given_up) - usable:
        assert len({item.name for item in nodes} - set(chosen.nodes) - {chosen.given_up[-1]}) < needed


def out(at: float, *nodes: str) -> dict[str, Any]:
    return {"kind": "out_of_service", "at": at, "nodes": list(nodes)}


def test_a_node_that_was_repaired_and_given_back_may_be_used_again() -> None:
    events = [ended(NOW, "n1", "n2")]
    wanted = exclusions(events, NOW)
    assert repaired(events, wanted, [node("n1", "DRAIN"), node("n2")]) == (["n1"], [])
    events.append(out(NOW + 5, "n1"))
    assert repaired(events, wanted, [node("n1", "DRAIN"), node("n2")]) == ([], [])
    assert repaired(events, wanted, [node("n1"), node("n2")]) == ([], ["n1"])


def test_a_node_blamed_again_after_it_came_back_is_not_forgiven_for_the_old_repair() -> None:
    events = [ended(NOW, "n1"), out(NOW + 5, "n1"), ended(NOW + 10, "n1")]
    assert repaired(events, exclusions(events, NOW + 20), [node("n1")]) == ([], [])


def test_every_node_ever_spoken_against_is_ours_and_not_the_users() -> None:
    events = [
        ended(NOW, "n1"),
        {"kind": "straggler", "at": NOW, "node": "n2"},
        {"kind": "attempt_ended", "at": NOW, "culprit": "unknown", "blamed": [], "suspects": ["n3"]},
        {"kind": "node_evidence", "at": NOW, "node": "n4"},
        {"kind": "forgiven", "at": NOW, "nodes": ["n1"]},
    ]
    assert ever_against(events) == {"n1", "n2", "n3", "n4"}


def checked(at: float, node: str, state: str) -> dict[str, Any]:
    return {"kind": "site_checked", "at": at, "node": node, "state": state, "evidence": "XID79"}


def test_what_the_site_found_on_a_suspected_node_counts() -> None:
    events = [ended(NOW - 50, "n1", culprit="unknown"), checked(NOW - 40, "n1", "failed")]
    assert [(item.node, item.suspected) for item in exclusions(events, NOW)] == [("n1", False)]
    events = [ended(NOW - 50, "n1"), checked(NOW - 40, "n1", "cleared"), checked(NOW - 40, "n2", "cleared")]
    assert [(item.node, item.suspected) for item in exclusions(events, NOW)] == [("n1", True)]
    events = [ended(NOW - 50, "n1"), checked(NOW - 40, "n1", "unknown")]
    assert [(item.node, item.suspected) for item in exclusions(events, NOW)] == [("n1", False)]
