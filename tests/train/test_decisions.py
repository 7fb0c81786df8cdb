"""What the training library decides without any process: who writes, who waits, who is where."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.errors import UsageError
from sovctl.train.context import RunContext, task_counts
from sovctl.train.data_position import DataPosition
from sovctl.train.layout import node_owners
from sovctl.train.mesh import mesh_rows, place_of
from sovctl.train.own_time import summary
from sovctl.train.save_job import Target, jitter


@given(st.dictionaries(st.integers(), st.lists(st.integers(0, 7), min_size=1, unique=True), max_size=40), st.data())
def test_each_thing_is_written_by_one_of_its_holders_and_nobody_has_much_more(
    holders: dict[int, list[int]], data: st.DataObject
) -> None:
    sizes = {key: data.draw(st.integers(1, 100)) for key in holders}
    load: dict[int, int] = {}
    owners = node_owners(holders, sizes, load)
    assert all(owners[key] in holders[key] for key in holders)
    assert sum(load.values()) == sum(sizes.values())
    everywhere = {key: list(range(8)) for key in holders}
    load = {}
    node_owners(everywhere, sizes, load)
    assert max(load.values(), default=0) - min((load.get(rank, 0) for rank in range(8)), default=0) <= 100


def test_rows_of_a_mesh() -> None:
    assert mesh_rows(["a", "a", "b", "b"]) == [[0, 1], [2, 3]]
    assert mesh_rows(["a", "b", "a", "b"]) == [[0, 2], [1, 3]]
    assert mesh_rows(["a", "b", "a", "b"], 4) == [[0, 2, 1, 3]]
    assert mesh_rows(["a"] * 4, 2) == [[0, 1], [2, 3]]
    assert mesh_rows(["a", "a", "a", "a", "b", "b"], 2) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(("nodes", "shard"), [("aab", None), ("aabb", 3), ("aabb", 0), ("aaabbb", 2), ("aabb", -2)])
def test_rows_that_do_not_come_out_even_are_refused(nodes: str, shard: int | None) -> None:
    with pytest.raises(UsageError):
        mesh_rows(list(nodes), shard)


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"SLURMD_NODENAME": "n004", "GROUP_RANK": "1"}, "n004"),
        ({"GROUP_RANK": "1"}, "host/1"),  # torchrun, two agents on one machine
        ({}, "host"),
    ],
)
def test_the_place_of_a_rank(environ: dict[str, str], place: str) -> None:
    assert place_of(RunContext(node="host", environ=environ)) == place


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 50))
def test_the_data_is_the_same_on_any_number_of_ranks(ranks: int, share: int, steps: int) -> None:
    batch = ranks * share
    positions = [DataPosition(batch, rank, ranks) for rank in range(ranks)]
    seen = [number for _ in range(steps) for position in positions for number in position.next_batch()]
    assert seen == list(range(batch * steps))
    later = DataPosition(batch, 0, 1)
    later.load_state_dict(positions[-1].state_dict())
    assert later.next_batch() == range(batch * steps, batch * (steps + 1))


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="3 ranks cannot share 8 samples"):
        DataPosition(8, 0, 3)


@pytest.mark.parametrize(
    ("text", "counts"), [("4(x2),3", [4, 4, 3]), ("8", [8]), ("", []), ("x", []), ("2(x3)", [2, 2, 2]), ("1,2", [1, 2])]
)
def test_tasks_of_each_node(text: str, counts: list[int]) -> None:
    assert task_counts(text) == counts


def test_ranks_on_this_node() -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_TASKS_PER_NODE": "4,3"}
    assert RunContext.from_env({**step, "SLURM_NODEID": "1"}).local_world_size == 3
    assert RunContext.from_env({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}).local_world_size == 2
    assert RunContext.from_env({}).local_world_size == 1


def _target(nodes: tuple[str, ...]) -> Target:
    return Target(Path("c"), 0, "r", 3, True, 6.0, nodes)


def test_nodes_are_spread_over_the_window_in_an_order_that_changes() -> None:
    target = _target(tuple(f"n{rank // 2}" for rank in range(6)))
    waits = [[jitter(target, rank, step) for rank in range(6)] for step in range(20)]
    assert all(sorted(set(row)) == [0.0, 2.0, 4.0] for row in waits)
    assert all(row[0] == row[1] and row[2] == row[3] for row in waits), "the ranks of a node go together"
    assert len({tuple(row) for row in waits}) > 1
    assert jitter(_target(("n0", "n0")), 1, 5) == 0.0


@given(st.lists(st.floats(0.001, 10), min_size=4, max_size=64))
def test_the_mean_of_the_middle_is_between_the_quartiles(samples: list[float]) -> None:
    found = summary(samples)
    assert found is not None
    assert min(samples) <= found.seconds <= max(samples) * (1 + 1e-12)
    assert 0 <= found.spread <= max(samples) - min(samples)
    assert summary(samples[:3]) is None


def test_one_slow_step_moves_nothing() -> None:
    found = summary([0.1] * 20 + [60.0])
    assert found is not None
    assert found.seconds == pytest.approx(0.1)
