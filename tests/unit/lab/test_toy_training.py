"""The toy's arithmetic and its meeting of ranks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.lab.toy_training import Group, advance
from sovctl.train import RunContext

SHARE = st.floats(0.0, 1.0)


@given(SHARE, SHARE)
def test_a_state_stays_between_0_and_1(state: float, mean: float) -> None:
    assert 0.0 <= advance(state, mean) <= 1.0


def test_a_difference_in_the_last_bit_becomes_another_curve() -> None:
    first = second = 0.3
    second += 2**-54
    for _ in range(200):
        first, second = advance(first, first), advance(second, second)
    assert abs(first - second) > 1e-3


def test_every_rank_gets_the_values_of_all_in_the_order_of_ranks(tmp_path: Path) -> None:
    got: dict[int, list[int]] = {}

    def rank(number: int) -> None:
        group = Group.meet(RunContext(rank=number, world_size=4), tmp_path / "port")
        group.exchange(0)
        got[number] = group.exchange(number * 10)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == {number: [0, 10, 20, 30] for number in range(4)}


def test_a_rank_that_dies_ends_the_others(tmp_path: Path) -> None:
    def leaves() -> None:
        for peer in Group.meet(RunContext(rank=1, world_size=2), tmp_path / "port")._peers:
            peer.close()

    thread = threading.Thread(target=leaves)
    thread.start()
    group = Group.meet(RunContext(rank=0, world_size=2), tmp_path / "port")
    thread.join(30)
    with pytest.raises(ConnectionError, match="rank 1"):
        group.exchange(1)
