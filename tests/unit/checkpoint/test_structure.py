"""Pickles by their opcodes, archives and safetensors by their own arithmetic: laws that hold for any content."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from format_builders import table_of_contents, torch_file
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sovctl.checkpoint.content import content_problem, torch_pickle
from sovctl.checkpoint.opcodes import NotAPickle, atoms, number_after, shard_lengths, shard_names
from sovctl.checkpoint.tree import Entry, Tree

leaves = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.integers(-(2**40), 2**40)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("ab", max_size=3), inner), max_leaves=20
)
on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def _flat(value: Any) -> Iterator[str | int]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _flat(one)
    else:
        yield value


def _tree(path: Path, data: bytes) -> Tree:
    path.write_bytes(data)
    return Tree(path.parent, {path.name: Entry(len(data), 0)})


@given(trees, st.integers(2, 5))
def test_a_walk_yields_what_was_pickled(value: Any, protocol: int) -> None:
    assert list(atoms(pickle.dumps(value, protocol))) == list(_flat(value))


@given(st.binary(max_size=300))
def test_a_walk_ends_whatever_it_is_given(data: bytes) -> None:
    with suppress(NotAPickle):
        assert len(list(atoms(data))) <= len(data)


@given(trees, st.integers(0, 400))
def test_a_pickle_cut_short_is_none(value: Any, cut: int) -> None:
    data = pickle.dumps(value, 4)
    with pytest.raises(NotAPickle):
        list(atoms(data[: max(len(data) - 1 - cut, 0)]))


@given(
    st.dictionaries(st.integers(0, 500), st.integers(3, 2**40), min_size=1, max_size=30),
    st.integers(1, 4),
    st.text("aXx_.-0é", max_size=90),
)
@example({**dict.fromkeys(range(10), 3), 100: 3}, 4, "")
def test_a_table_of_contents_tells_the_length_of_each_shard(sizes: dict[int, int], pieces: int, prefix: str) -> None:
    shards = {f"{prefix}__{rank}_0.distcp": size for rank, size in sizes.items()}
    for protocol in (2, 4):
        table = table_of_contents(shards, pieces, protocol)
        assert shard_lengths(table) == shards
        assert shard_names(table) == frozenset(shards)


def test_a_number_by_its_name() -> None:
    data = pickle.dumps({"global_step": 7, "other": "global_step", "x": 1}, 2)
    assert number_after(data, "global_step") == 7
    assert number_after(data, "missing") is None


@on_disk
@given(cut=st.integers(1, 500))
def test_an_archive_cut_short_is_found(tmp_path: Path, cut: int) -> None:
    data = torch_file(b"\x80\x02}q\x00.")
    assert content_problem(_tree(tmp_path / "whole.pt", data), "whole.pt") == ""
    short = data[:-cut] if cut < len(data) else b""
    assert content_problem(_tree(tmp_path / "cut.pt", short), "cut.pt")


@on_disk
@given(sizes=st.lists(st.integers(0, 200), max_size=6), cut=st.integers(1, 100), more=st.integers(1, 100))
def test_safetensors_must_have_exactly_the_length_of_their_header(
    tmp_path: Path, sizes: list[int], cut: int, more: int
) -> None:
    header, at = {}, 0
    for number, size in enumerate(sizes):
        header[f"t{number}"] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + b"x" * at
    path = tmp_path / "m.safetensors"
    assert content_problem(_tree(path, data), path.name) == ""
    assert content_problem(_tree(path, data[:-cut]), path.name)
    assert content_problem(_tree(path, data + b"x" * more), path.name)


@on_disk
@given(
    data=st.lists(
        st.binary(max_size=60)
        | st.sampled_from([b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"\xff" * 12]),
        max_size=8,
    ).map(b"".join)
)
def test_no_content_raises(tmp_path: Path, data: bytes) -> None:
    for name in ("a.pt", "a.safetensors", "a.json", "a.ckpt", "a.txt"):
        tree = _tree(tmp_path / name, data)
        assert isinstance(content_problem(tree, name), str)
        torch_pickle(tree, name)


def test_the_pickle_of_an_archive_is_found(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "a.pt", torch_file(pickle.dumps({"step": 9}, 2)))
    assert number_after(torch_pickle(tree, "a.pt"), "step") == 9
