"""Where the next attempt runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.blame import Blame, Culprit
from sovctl.recovery.place import TOO_SHORT_S, How, Room, choose_place, may_grow, swap_out

SIX = tuple(f"n{number}" for number in range(1, 7))
HARDWARE = Blame(Culprit.HARDWARE, ("n2",), "XID79")
CRASH = Blame(Culprit.USER_CODE, evidence="ended with status 1")


def room(size: int = 4, least: int = 0, free: int | None = 0, **more: object) -> Room:
    values = {"allocation": SIX, "batch_host": "n1", "running_on": SIX[:size], **more}
    return Room(size=size, least=least or size, free_elsewhere=free, **values)  # type: ignore[arg-type]


def test_a_crash_starts_again_on_the_same_nodes() -> None:
    place = choose_place(CRASH, (), room())
    assert (place.how, place.nodes, place.drop) == (How.HERE, SIX[:4], ())


def test_a_spare_takes_the_place_of_a_bad_node() -> None:
    place = choose_place(HARDWARE, {"n2"}, room())
    assert (place.how, place.nodes, place.drop) == (How.SPARE, ("n1", "n3", "n4", "n5"), ("n2",))


def test_a_bad_spare_is_dropped_as_well_and_never_taken() -> None:
    place = choose_place(HARDWARE, {"n2", "n5"}, room())
    assert (place.how, place.nodes, place.drop) == (How.SPARE, ("n1", "n3", "n4", "n6"), ("n2", "n5"))


def test_a_spare_with_a_bad_record_is_passed_over_while_there_is_a_better_one() -> None:
    place = choose_place(HARDWARE, {"n2"}, room(), {"n5"})
    assert (place.how, place.nodes, place.drop) == (How.SPARE, ("n1", "n3", "n4", "n6"), ("n2", "n5"))


def test_nodes_spoken_against_before_are_left_while_good_spares_can_take_over() -> None:
    assert swap_out(["n3"], (), room()) == {"n3"}
    assert swap_out(["n2", "n3", "n4"], (), room()) == {"n3", "n4"}, "the last two, for two spares"
    assert swap_out(["n2", "n3"], {"n4"}, room()) == {"n3"}, "one spare is needed for another node"
    assert swap_out(["n3", "n5"], (), room()) == {"n3"}
    assert swap_out(["n3", "n5", "n6"], (), room()) == frozenset(), "none that is spoken against itself takes over"


def test_nothing_spoken_before_costs_the_allocation() -> None:
    assert swap_out(["n1"], (), room()) == frozenset(), "the batch host cannot be dropped"
    assert swap_out(["n3"], (), room(size=6)) == frozenset(), "there is no spare"
    assert swap_out(["n5", "n9"], (), room()) == frozenset(), "the run is not on them"


def test_a_lemon_that_stands_behind_stays_a_spare() -> None:
    place = choose_place(HARDWARE, {"n2"}, room(), {"n6"})
    assert (place.how, place.nodes, place.drop) == (How.SPARE, ("n1", "n3", "n4", "n5"), ("n2",))


def test_a_lemon_is_taken_where_there_is_no_better_spare() -> None:
    place = choose_place(HARDWARE, {"n2"}, room(), {"n5", "n6"})
    assert (place.how, place.nodes, place.drop) == (How.SPARE, ("n1", "n3", "n4", "n5"), ("n2",))


def test_a_lemon_that_runs_is_not_moved_for_its_record_alone() -> None:
    place = choose_place(CRASH, (), room(), {"n2"})
    assert (place.how, place.nodes, place.drop) == (How.HERE, SIX[:4], ())


@given(st.sets(st.sampled_from(SIX[1:])), st.sets(st.sampled_from(SIX)), st.integers(1, 6))
def test_what_a_step_gets_are_the_first_nodes_left_whoever_is_a_lemon(
    bad: set[str], lemons: set[str], size: int
) -> None:
    place = choose_place(HARDWARE, bad, room(size=size, running_on=SIX[:size]), lemons)
    without = choose_place(HARDWARE, bad, room(size=size, running_on=SIX[:size]))
    assert place.how is without.how
    assert len(place.nodes) == len(without.nodes)
    assert not bad & set(place.nodes)
    if place.how is How.SPARE:
        left = [node for node in SIX if node not in place.drop]
        assert place.nodes == tuple(left[:size])
        assert len(lemons & set(place.nodes)) <= len(lemons & set(without.nodes))


def test_without_enough_spares_the_queue_gives_a_replacement() -> None:
    assert choose_place(HARDWARE, {"n2", "n3", "n4"}, room(free=5)).how is How.QUEUE
    assert choose_place(HARDWARE, {"n2"}, room(size=6)).how is How.QUEUE


def test_fewer_nodes_only_when_nothing_is_free_and_the_user_allows_it() -> None:
    short = {"size": 6, "running_on": SIX}
    assert choose_place(HARDWARE, {"n2"}, room(least=5, free=0, **short)).how is How.FEWER  # type: ignore[arg-type]
    assert choose_place(HARDWARE, {"n2"}, room(least=5, free=1, **short)).how is How.QUEUE  # type: ignore[arg-type]
    assert choose_place(HARDWARE, {"n2"}, room(least=5, free=None, **short)).how is How.QUEUE  # type: ignore[arg-type]
    assert choose_place(HARDWARE, {"n2", "n3"}, room(least=5, free=0, **short)).how is How.QUEUE  # type: ignore[arg-type]


@pytest.mark.parametrize("culprit", [Culprit.PREEMPTED, Culprit.TIME_LIMIT, Culprit.STOPPED])
def test_an_allocation_that_is_to_be_given_back_is_not_used_again(culprit: Culprit) -> None:
    assert choose_place(Blame(culprit, evidence="x"), (), room()).how is How.QUEUE


def test_the_batch_host_cannot_be_dropped() -> None:
    assert choose_place(HARDWARE, {"n1"}, room()).how is How.QUEUE
    assert choose_place(HARDWARE, {"n2"}, room(allocation=SIX[1:])).how is How.QUEUE


def test_shortly_before_the_time_limit_the_queue_gives_a_whole_slice() -> None:
    assert choose_place(CRASH, (), room(seconds_left=TOO_SHORT_S - 1)).how is How.QUEUE
    assert choose_place(CRASH, (), room(seconds_left=TOO_SHORT_S + 1)).how is How.HERE


def test_a_run_grows_back_only_when_all_it_wants_is_free() -> None:
    small = {"size": 6, "allocation": SIX[:4], "running_on": SIX[:4]}
    assert may_grow(room(free=2, **small))  # type: ignore[arg-type]
    assert not may_grow(room(free=1, **small))  # type: ignore[arg-type]
    assert not may_grow(room(free=None, **small))  # type: ignore[arg-type]
    assert not may_grow(room(size=4, free=9))


@given(
    avoid=st.sets(st.sampled_from(SIX)),
    size=st.integers(1, 6),
    slack=st.integers(0, 5),
    free=st.none() | st.integers(0, 6),
    culprit=st.sampled_from(Culprit),
)
def test_no_attempt_runs_on_a_node_to_avoid(
    avoid: set[str], size: int, slack: int, free: int | None, culprit: Culprit
) -> None:
    where = room(size=size, least=max(1, size - slack), free=free)
    place = choose_place(Blame(culprit, evidence="x"), avoid, where)
    if place.how is How.QUEUE:
        assert place.nodes == place.drop == ()
        return
    assert not set(place.nodes) & avoid
    assert where.batch_host == place.nodes[0]
    assert where.least <= len(place.nodes) <= where.size
    assert set(place.drop) == avoid
    # srun takes the first nodes that are left: the script must be told the same ones.
    left = [node for node in where.allocation if node not in place.drop]
    assert list(place.nodes) == left[: len(place.nodes)]
