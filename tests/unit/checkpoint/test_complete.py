"""What counts as complete, and the reason a person gets when something does not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_builders import mark_of, shards, write_checkpoint, write_files

from sovctl.checkpoint.complete import judge
from sovctl.checkpoint.mark import MARK, encode_mark
from sovctl.model.checkpoint import CheckpointState


def test_a_whole_checkpoint_is_complete(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 40)
    found = judge(path, 40, deep=True)
    assert (found.state, found.why) == (CheckpointState.COMPLETE, "")
    assert (found.step, found.world_size, found.size_bytes, found.format) == (40, 2, 241, "dcp")
    assert found.checksums


def _drop_mark(path: Path) -> None:
    (path / MARK).unlink()


def _drop_shard(path: Path) -> None:
    (path / "__1_0.distcp").unlink()


def _empty_shard(path: Path) -> None:
    (path / "__0_0.distcp").write_bytes(b"")


def _truncate_shard(path: Path) -> None:
    os.truncate(path / "__0_0.distcp", 7)


def _link_shard(path: Path) -> None:
    shard = path / "__0_0.distcp"
    shard.rename(path.parent / "elsewhere")
    shard.symlink_to(path.parent / "elsewhere")


def _damage_all(path: Path) -> None:
    _drop_shard(path)
    _truncate_shard(path)


def _garbage_mark(path: Path) -> None:
    (path / MARK).write_bytes(b"\x80\x04cos\nsystem\n")


def _mark_of_another_step(path: Path) -> None:
    (path / MARK).write_bytes(encode_mark(mark_of(39, shards())))


def _mark_of_more_ranks(path: Path) -> None:
    (path / MARK).write_bytes(encode_mark(mark_of(40, shards(), world_size=3)))


def _mark_without_metadata(path: Path) -> None:
    content = {name: data for name, data in shards().items() if name != ".metadata"}
    (path / MARK).write_bytes(encode_mark(mark_of(40, content)))


def _file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"")


def _link_instead(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


def _nothing(path: Path) -> None:
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("harm", "state", "why"),
    [
        (_drop_mark, "incomplete", "it has no mark of completion"),
        (_drop_shard, "incomplete", "__1_0.distcp is missing"),
        (_empty_shard, "corrupt", "__0_0.distcp is empty"),
        (_truncate_shard, "corrupt", "__0_0.distcp has 7 bytes, saved were 100"),
        (_link_shard, "corrupt", "__0_0.distcp is not a regular file"),
        (_damage_all, "corrupt", "__0_0.distcp has 7 bytes, saved were 100 (and 1 more)"),
        (_garbage_mark, "corrupt", "its mark is not readable as JSON"),
        (_mark_of_another_step, "corrupt", "its mark is of step 39"),
        (_mark_of_more_ranks, "corrupt", "its mark has files of 2 ranks, saved by 3"),
        (_mark_without_metadata, "corrupt", ".metadata is missing from its mark"),
        (_file_instead, "incomplete", "it is not a directory"),
        (_link_instead, "incomplete", "it is not a directory"),
        (_nothing, "incomplete", "it cannot be read: No such file or directory"),
    ],
)
def test_each_harm_has_its_reason(tmp_path: Path, harm: Callable[[Path], None], state: str, why: str) -> None:
    path = write_checkpoint(tmp_path, 40)
    harm(path)
    found = judge(path, 40)
    assert (found.state.value, found.why) == (state, why)


def test_a_flipped_bit_shows_only_when_looking_deep(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 40)
    (path / "__1_0.distcp").write_bytes(b"s" * 100 + b"t")
    assert judge(path, 40).state is CheckpointState.COMPLETE
    found = judge(path, 40, deep=True)
    assert (found.state, found.why) == (CheckpointState.CORRUPT, "__1_0.distcp does not match its checksum")


def test_an_unknown_format_is_not_trusted(tmp_path: Path) -> None:
    path = write_files(tmp_path / "step-1", shards())
    text = encode_mark(mark_of(1, shards())).replace(b'"dcp"', b'"zip"')
    (path / MARK).write_bytes(text)
    assert judge(path, 1).why == "its format 'zip' is not known"


def test_a_shard_missing_from_the_middle_is_noticed(tmp_path: Path) -> None:
    content = shards(3)
    content["__3_0.distcp"] = content.pop("__1_0.distcp")
    path = write_files(tmp_path / "step-1", content)
    (path / MARK).write_bytes(encode_mark(mark_of(1, content, world_size=3)))
    assert judge(path, 1).state is CheckpointState.CORRUPT
