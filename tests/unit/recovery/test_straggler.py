"""Who is slower than its peers, and who is not."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sovctl.recovery.straggler import Rule, Windows, outliers

RULE = Rule()


def windows(ranks: int, noise: float, slow: dict[int, float], seed: int, count: int = RULE.windows) -> Windows:
    """`count` windows of ranks around one second a step; `slow`: rank -> factor."""
    source = random.Random(seed)
    found = Windows()
    for _ in range(count):
        times = {rank: source.gauss(1.0, noise) * slow.get(rank, 1.0) for rank in range(ranks)}
        found.add({rank: max(0.01, time) for rank, time in times.items()}, {rank: f"n{rank:03d}" for rank in times})
    return found


@given(st.integers(4, 64), st.floats(0.0, 0.05), st.integers(0, 10**6))
def test_there_is_no_straggler_among_equals(ranks: int, noise: float, seed: int) -> None:
    assert windows(ranks, noise, {}, seed).stragglers() == ()


@given(st.integers(4, 64), st.floats(0.0, 0.015), st.integers(0, 10**6), st.data())
def test_a_rank_that_is_a_fifth_slower_is_found_at_once(
    ranks: int, noise: float, seed: int, data: st.DataObject
) -> None:
    victim = data.draw(st.integers(0, ranks - 1))
    found = windows(ranks, noise, {victim: 1.2}, seed).stragglers()
    assert [item.rank for item in found] == [victim]
    assert 1.1 < found[0].ratio < 1.3
    assert found[0].node == f"n{victim:03d}"


@given(st.floats(0.001, 1000.0), st.integers(0, 10**6))
def test_only_ratios_count(unit: float, seed: int) -> None:
    plain = windows(8, 0.01, {3: 1.3}, seed)
    scaled = Windows()
    for kept in plain._kept:
        scaled.add({rank: time * unit for rank, time in kept.items()}, {})
    assert [item.rank for item in scaled.stragglers()] == [item.rank for item in plain.stragglers()]


def test_a_hiccup_is_no_straggler() -> None:
    found = windows(8, 0.01, {}, 1)
    found.add({rank: 3.0 if rank == 2 else 1.0 for rank in range(8)}, {})
    assert found.stragglers() == ()


def test_a_few_windows_prove_nothing() -> None:
    assert windows(8, 0.01, {3: 2.0}, 1, count=RULE.windows - 1).stragglers() == ()


def test_of_three_nobody_is_the_odd_one() -> None:
    assert outliers({0: 1.0, 1: 1.0, 2: 5.0}, RULE) == {}


def test_the_evidence_names_rank_node_and_figures() -> None:
    said = windows(8, 0.0, {3: 1.5}, 1).stragglers()[0].evidence
    assert said == (
        "rank 3 on n003 takes 1.5 s a step, 50 % more than the median of 8 ranks (1 s), in 6 of the last 6 windows"
    )
