"""The mark of completion survives the way to disk and back, and nothing else passes for one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.checkpoint.mark import LONGEST_BYTES, MARK, Mark, MarkError, encode_mark, parse_mark, read_mark

names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)
counts = st.integers(0, 2**63 - 1)
marks = st.builds(
    Mark,
    step=counts,
    world_size=counts,
    files=st.dictionaries(names, counts, min_size=1, max_size=5),
    saved_at=st.floats(0, 1e14),
    attempt=counts,
    run_id=st.text(max_size=20),
    sha256=st.dictionaries(names, st.text("0123456789abcdef", max_size=64), max_size=5),
    format=st.text(max_size=10),
)


@given(marks)
def test_what_is_written_is_read(mark: Mark) -> None:
    assert parse_mark(encode_mark(mark)) == mark


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_other_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(MarkError, match="its mark"):
        parse_mark(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "sovctl.checkpoint/2"),
        ("step", -1),
        ("step", True),
        ("step", "5"),
        ("world_size", None),
        ("saved_at", "yesterday"),
        ("saved_at", float("nan")),
        ("files", {}),
        ("files", ["a"]),
        ("files", {"../step-4/.metadata": 4}),
        ("files", {"..": 4}),
        ("files", {"a\0b": 4}),
        ("files", {"a": "4"}),
        ("sha256", {"/etc/passwd": "0"}),
        ("format", 3),
    ],
)
def test_a_wrong_field_is_refused(field: str, value: object) -> None:
    record = json.loads(encode_mark(Mark(step=5, world_size=1, files={"a": 4}, saved_at=1.0)))
    with pytest.raises(MarkError):
        parse_mark(json.dumps({**record, field: value}).encode())


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(MarkError):
        parse_mark(b"[" * 200_000)


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "huge"])
def test_only_a_regular_bounded_file_is_read(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / MARK
    if kind == "symlink":
        mark.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(mark)
    elif kind == "directory":
        mark.mkdir()
    else:
        with open(mark, "wb") as stream:
            stream.truncate(LONGEST_BYTES + 1)
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(MarkError):
            read_mark(directory_fd)
    finally:
        os.close(directory_fd)
