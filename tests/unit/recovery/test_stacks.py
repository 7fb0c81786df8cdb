"""Stacks of many ranks as a person reads them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.rank_look import NodeLook, RankLook, parse_looks
from sovctl.recovery.stacks import fold_ranks, group, looks_of, odd_groups, placed, stacks_record, stacks_text

WAIT = ("all_reduce (dist.py:9)", "main (train.py:3)")


def full(number: int) -> NodeLook:
    """A node with eight ranks that wait."""
    ranks = (RankLook(8 * number + local, local, "python", "S", stack=WAIT) for local in range(8))
    return NodeLook(f"n{number:03d}", tuple(ranks))


LOOKS = (full(0), full(1), NodeLook("n002", (RankLook(16, 7, "python", "T", stack=("load (data.py:1)",)),)))


def test_ranks_at_one_place_are_one_group() -> None:
    groups = group(placed(LOOKS))
    assert [(fold_ranks(item.ranks), item.nodes, item.state) for item in groups] == [
        ("0-15", ("n000", "n001"), ""),
        ("16", ("n002",), "T"),
    ]
    assert [item.ranks for item in odd_groups(groups)] == [(16,)]


def test_the_text_marks_the_odd_ones() -> None:
    text = stacks_text(LOOKS, ("n003",))
    assert "n003: no answer" in text
    assert "ranks 0-15 on n000, n001\n  all_reduce (dist.py:9)\n" in text
    assert "rank 16 on n002, stopped <- odd\n  load (data.py:1)" in text


def test_what_was_kept_is_read_back() -> None:
    record = json.loads(json.dumps(stacks_record(3, 1.0, LOOKS, ("n003",))))
    assert looks_of(record) == LOOKS
    assert [item["odd"] for item in record["groups"]] == [False, True]
    assert looks_of({"schema": "other"}) == ()
    assert looks_of(None) == ()


def test_an_answer_survives_srun_whatever_comes_between() -> None:
    deep = NodeLook(
        "n001",
        tuple(
            RankLook(rank, rank, stack=tuple(f"f{rank * frame} (a.py:1)" for frame in range(60))) for rank in range(16)
        ),
    )
    lines = [line for pair in zip(deep.to_lines(), reversed(deep.to_lines()), strict=True) for line in pair]
    looks, rest = parse_looks([*lines, "srun: error: n002: task 1: Killed", *LOOKS[0].to_lines()])
    assert looks == [deep, LOOKS[0]]
    assert rest == ["srun: error: n002: task 1: Killed"]
    assert max(len(line) for line in deep.to_lines()) < 1000
    assert parse_looks(deep.to_lines()[:-1])[0] == []


@given(st.text(max_size=200))
def test_a_line_that_is_no_answer_is_none(text: str) -> None:
    assert parse_looks([text, f"sovctl.look/1 n001 1/1 {text}"])[0] == []


@given(st.sets(st.integers(0, 300)))
def test_folding_loses_no_rank(ranks: set[int]) -> None:
    unfolded: set[int] = set()
    for part in filter(None, fold_ranks(ranks).split(",")):
        first, _, last = part.partition("-")
        unfolded |= set(range(int(first), int(last or first) + 1))
    assert unfolded == ranks
