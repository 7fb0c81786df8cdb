"""A checkpoint appears in one rename, nothing that is in the way is lost, and old ones go in the right order."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from checkpoint_builders import mark_of, shards, write_checkpoint, write_files

from sovctl.checkpoint import commit
from sovctl.checkpoint.find import latest_complete, scan
from sovctl.checkpoint.mark import MARK
from sovctl.model.checkpoint import CheckpointState


def _write(temporary: Path) -> None:
    for name, data in shards().items():
        (temporary / name).write_bytes(data)


def _save(root: Path, step: int, attempt: int = 0) -> Path:
    temporary = commit.begin(root, step, attempt)
    _write(temporary)
    return commit.commit(temporary, root, mark_of(step, shards()))


def test_begin_write_commit(tmp_path: Path) -> None:
    root = tmp_path / "new" / "checkpoints"
    temporary = commit.begin(root, 5, 2)
    assert temporary == root / ".tmp-step-5-2"
    _write(temporary)
    assert latest_complete(root) is None
    assert commit.commit(temporary, root, mark_of(5, shards())) == root / "step-5"
    assert latest_complete(root).step == 5  # type: ignore[union-attr]
    assert [path.name for path in root.iterdir()] == ["step-5"]


def test_a_crash_before_the_rename_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 1)
    temporary = commit.begin(tmp_path, 2, 0)
    _write(temporary)
    rename = Path.rename

    def crash(self: Path, target: Path) -> Path:
        if Path(target).name == "step-2":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        commit.commit(temporary, tmp_path, mark_of(2, shards()))
    assert (temporary / MARK).exists()
    assert [one.step for one in scan(tmp_path)] == [1]


def test_an_incomplete_one_in_the_way_is_moved_aside(tmp_path: Path) -> None:
    write_files(tmp_path / "step-3", {"half": b"x"})
    (tmp_path / ".aside-step-3-0").mkdir()
    _save(tmp_path, 3)
    assert (tmp_path / ".aside-step-3-1" / "half").read_bytes() == b"x"
    assert [(one.step, one.state) for one in scan(tmp_path)] == [(3, CheckpointState.COMPLETE)]


def test_a_complete_one_committed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    temporary = commit.begin(tmp_path, 3, 1)
    _write(temporary)
    other = _save(tmp_path, 3, 0)
    before = other.stat().st_ino
    assert commit.commit(temporary, tmp_path, mark_of(3, shards())) == other
    assert other.stat().st_ino == before
    assert not temporary.exists()


def test_a_clock_of_another_node_that_is_ahead_makes_no_checkpoint_incomplete(tmp_path: Path) -> None:
    temporary = commit.begin(tmp_path, 2, 0)
    _write(temporary)
    ahead = time.time() + 300
    os.utime(temporary / "__1_0.distcp", (ahead, ahead))
    path = commit.commit(temporary, tmp_path, mark_of(2, shards()))
    assert [(one.step, one.state, one.why) for one in scan(tmp_path)] == [(2, CheckpointState.COMPLETE, "")]
    assert (path / MARK).stat().st_mtime_ns == (path / "__1_0.distcp").stat().st_mtime_ns


def test_begin_clears_what_a_killed_save_left(tmp_path: Path) -> None:
    write_files(tmp_path / ".tmp-step-4-1", {"__7_0.distcp": b"stale"})
    assert list(commit.begin(tmp_path, 4, 1).iterdir()) == []


def test_sweep_takes_only_earlier_attempts(tmp_path: Path) -> None:
    for name in (
        ".tmp-step-4-0",
        ".tmp-step-5-1",
        ".tmp-step-6-2",
        ".retired-step-1",
        ".tmp-step-x-0",
        "step-9",
        "notes",
    ):
        (tmp_path / name).mkdir()
    assert [path.name for path in commit.sweep(tmp_path, 1)] == [".retired-step-1", ".tmp-step-4-0"]
    assert {path.name for path in tmp_path.iterdir()} == {
        ".tmp-step-5-1",
        ".tmp-step-6-2",
        ".tmp-step-x-0",
        "step-9",
        "notes",
    }


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_retention_keeps_the_newest_proven_ones(tmp_path: Path, keep: int) -> None:
    for step in (10, 20, 30, 40):
        write_checkpoint(tmp_path, step)
    (tmp_path / "step-30" / ".metadata").unlink()
    write_checkpoint(tmp_path, 99)  # of an earlier run that went further
    commit.retire(tmp_path, 40, keep)
    left = {one.step: one.state.value for one in scan(tmp_path)}
    assert left.pop(99) == "complete"
    assert left.pop(30) == "incomplete"  # never counted, never removed
    assert sorted(left) == [10, 20, 40][3 - keep :]
