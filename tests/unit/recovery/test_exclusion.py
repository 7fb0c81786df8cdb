from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.node import NodeState, NodeView
from sovctl.operations.supervisor.allocation import free_nodes
from sovctl.recovery.exclusion import (
    FORGET_AFTER_S,
    Exclusion,
    ExclusionList,
    choose,
    ever_against,
    exclusions,
    once_more,
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


RESERVED = [node("n1"), node("n2"), *(node(name, "RESERVED") for name in ("n3", "n4"))]


def test_nodes_reserved_for_others_are_none_to_start_on() -> None:
    assert lists(choose(blamed("n1"), [], RESERVED, "main", 1)) == (("n1",), ())
    assert lists(choose(blamed("n1", "n2"), [], RESERVED, "main", 1)) == (("n2",), ("n1",))
    short = choose([], [], RESERVED, "main", 3).short
    assert short == "3 nodes are needed and 2 of partition main are left (n3, n4 kept from it by a reservation)"


def test_a_job_of_a_reservation_starts_on_its_nodes_alone() -> None:
    assert lists(choose(blamed("n3"), [], RESERVED, "main", 1, in_reservation=True)) == (("n3",), ())
    assert lists(choose(blamed("n3", "n1"), [], RESERVED, "main", 2, in_reservation=True)) == (("n1",), ("n3",))
    # Before it has begun nothing tells which they are.
    assert lists(choose(blamed("n3"), [], FOUR, "main", 3, in_reservation=True)) == (("n3",), ())


def test_the_count_of_free_nodes_keeps_reservations_apart() -> None:
    maintained = node("n5", base="MAINT")
    assert free_nodes([*RESERVED, maintained], "main", ["n1"]) == 1
    assert free_nodes([*RESERVED, maintained], "main", ["n1"], in_reservation=True) == 2


def test_with_room_everything_is_kept() -> None:
    assert choose(blamed("n1", "n2"), ["n9"], FOUR, "main", 2) == ExclusionList(("n9", "n1", "n2"))


def test_the_oldest_is_given_up_when_too_few_nodes_would_remain() -> None:
    assert choose(blamed("n1", "n2"), [], FOUR, "main", 3) == ExclusionList(("n2",), ("n1",))


def test_a_node_that_slurm_would_not_use_anyway_costs_nothing_to_exclude() -> None:
    nodes = [node("n1", "DRAIN"), node("n2"), node("n3"), node("n4")]
    assert choose(blamed("n1", "n2"), [], nodes, "main", 2) == ExclusionList(("n1", "n2"))
    assert choose(blamed("n2", "n1"), [], nodes, "main", 3) == ExclusionList(("n1",), ("n2",))


def lists(chosen: ExclusionList) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return chosen.nodes, chosen.given_up


def test_a_job_that_could_never_start_excludes_no_node_that_is_out_of_service() -> None:
    nodes = [node("n1", "DRAIN"), node("n2", "DRAIN"), node("n3"), node("n4")]
    assert lists(choose(blamed("n1", "n2"), [], nodes, "main", 3)) == (("n2",), ("n1",))
    assert lists(choose(blamed("n1", "n2"), [], nodes, "main", 4)) == ((), ("n1", "n2"))
    assert lists(choose(blamed("n1", "n2"), ["n3"], nodes, "main", 4)) == (("n3",), ("n1", "n2"))


def test_the_node_just_blamed_is_given_up_only_where_it_may_be_tried_again() -> None:
    assert lists(choose(blamed("n1"), [], FOUR, "main", 4)) == (("n1",), ())
    assert choose(blamed("n1"), [], FOUR, "main", 4, again={"n1"}) == ExclusionList((), ("n1",))
    assert choose(blamed("n1"), [], FOUR, "main", 3, again={"n1"}) == ExclusionList(("n1",))


def test_nodes_blamed_together_are_all_just_blamed() -> None:
    assert lists(choose(blamed("n1", "n2", at=NOW), [], FOUR, "main", 4)) == (("n1", "n2"), ())


def test_of_nodes_just_blamed_no_more_are_tried_again_than_needed() -> None:
    assert lists(choose(blamed("n1", "n2", at=NOW), [], FOUR, "main", 3, again={"n1", "n2"})) == (("n2",), ("n1",))


def test_a_node_that_stopped_the_run_too_often_keeps_it_from_starting_for_ever() -> None:
    chosen = choose(blamed("n1"), [], FOUR, "main", 4)
    assert chosen.never
    assert chosen.short == "4 nodes are needed and 3 of partition main are left (n1 blamed for 3 stops in a row)"


def test_a_run_that_waits_for_a_repair_says_so_and_starts_by_itself() -> None:
    nodes = [node("n1", "DRAIN"), *FOUR[1:]]
    chosen = choose(blamed("n1"), [], nodes, "main", 4)
    assert chosen == ExclusionList(
        (), ("n1",), "4 nodes are needed and 3 of partition main are left (n1 out of service)"
    )


def test_a_blamed_node_is_not_tried_again_while_the_run_has_to_wait_for_another_one_anyway() -> None:
    nodes = [node("n1", "DRAIN"), node("n2", "DRAIN"), node("n3"), node("n4")]
    chosen = choose(blamed("n3"), [], nodes, "main", 3, again={"n3"})
    assert (lists(chosen), chosen.never) == ((("n3",), ()), False)
    assert chosen.short == "3 nodes are needed and 1 of partition main are left (n1, n2 out of service; n3 blamed)"


def test_a_node_that_nodelist_names_is_never_excluded_but_for_good_reason() -> None:
    assert choose(blamed("n1"), [], FOUR, "main", 2, required={"n1"}, again={"n1"}) == ExclusionList((), ("n1",))
    away = choose(blamed("n1"), [], [node("n1", "DRAIN"), *FOUR[1:]], "main", 2, required={"n1"})
    assert away == ExclusionList((), ("n1",), "--nodelist asks for n1, out of service")
    worn = choose(blamed("n1"), [], FOUR, "main", 2, required={"n1"})
    assert worn.never
    assert worn.short == "--nodelist asks for n1, which stopped the run 3 times without a new checkpoint"


def test_what_the_user_excluded_or_the_partition_lacks_is_not_ours_to_hold_a_run_for() -> None:
    chosen = choose([], ["n1"], FOUR, "main", 4)
    assert not chosen.never
    assert chosen.short == "4 nodes are needed and 3 of partition main are left (n1 excluded by --exclude)"
    assert choose([], [], FOUR, "", 9).short == "9 nodes are needed and 4 are left"


def test_of_several_partitions_each_has_its_nodes() -> None:
    nodes = [*FOUR, node("x1", partitions=("other",))]
    assert choose([], [], nodes, "main,other", 5).short == ""


def stopped(node: str, step: int, culprit: str = "hardware") -> dict[str, Any]:
    return {**ended(NOW, node, culprit=culprit), "checkpoint_step": step}


def test_a_node_may_be_tried_again_until_it_stopped_the_run_three_times_without_a_gain() -> None:
    twice = [stopped("n1", 100), stopped("n1", 100)]
    assert once_more(twice) == {"n1"}
    assert once_more([*twice, stopped("n1", 100)]) == frozenset()
    assert once_more([*twice, stopped("n1", 200)]) == {"n1"}
    assert once_more([*twice, stopped("n2", 100)]) == {"n1", "n2"}
    assert once_more([]) == frozenset()


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


@given(wanted_lists, st.lists(names, unique=True, max_size=3), clusters, st.integers(1, 8), st.sets(names))
def test_laws(wanted: list[Exclusion], own: list[str], nodes: list[NodeView], needed: int, again: set[str]) -> None:
    chosen = choose(wanted, own, nodes, "main", needed, again=again)
    usable = {item.name for item in nodes if item.state.schedulable}
    newest = {item.node for item in wanted if item.since == wanted[-1].since}
    assert set(own) <= set(chosen.nodes), "the user's own exclusions are the user's"
    assert newest & usable - again <= set(chosen.nodes), "the nodes just blamed are not given back before their turn"
    assert set(chosen.nodes) | set(chosen.given_up) == set(own) | {item.node for item in wanted}
    assert len(set(chosen.nodes)) == len(chosen.nodes)
    room = len(usable - set(chosen.nodes)) >= needed
    assert room is not bool(chosen.short), "either enough nodes remain or a reason is returned"
    old_and_usable = {item.node for item in wanted} & usable - newest - set(chosen.given_up)
    assert room or not old_and_usable, "it waits only when nothing more can be given up"
    given_up = [name for name in chosen.given_up if name in usable]
    if given_up:
        assert len(usable - set(chosen.nodes) - {given_up[-1]}) < needed, "no more is given up than needed"
    startable = len({item.name for item in nodes} - set(chosen.nodes)) >= needed
    assert startable or not set(chosen.nodes) - set(own) - usable, "no node out of service keeps it from ever starting"
    assert startable or not set(chosen.nodes) - set(own) & again, "no node that may be tried again does"
    kept = {item.node for item in wanted} - set(chosen.given_up)
    assert chosen.never is (not startable and bool(kept & usable))
    if set(chosen.given_up) - usable - again:
        assert len({item.name for item in nodes} - set(chosen.nodes) - {chosen.given_up[-1]}) < needed


@given(wanted_lists, clusters, st.integers(1, 8), st.sets(names), st.sets(names))
def test_laws_of_nodelist(
    wanted: list[Exclusion], nodes: list[NodeView], needed: int, again: set[str], required: set[str]
) -> None:
    chosen = choose(wanted, [], nodes, "main", needed, again=again, required=required)
    usable = {item.name for item in nodes if item.state.schedulable}
    blocked = required & set(chosen.nodes)
    assert not blocked & again, "a named node is excluded only when it may not be tried again"
    assert blocked <= usable, "nor when it is out of service: the job waits for it anyway"
    assert not blocked or (chosen.never and chosen.short)
    assert required <= usable or chosen.short


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
