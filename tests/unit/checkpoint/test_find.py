"""The finder: newest complete step, whatever else lies in the directory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from checkpoint_builders import write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from sovctl.checkpoint.complete import judge
from sovctl.checkpoint.find import candidates, latest_complete, scan, step_of
from sovctl.checkpoint.mark import MARK
from sovctl.errors import CheckpointDirUnreadable
from sovctl.model.checkpoint import CheckpointState


def test_newest_complete_wins_over_newer_broken(tmp_path: Path) -> None:
    for step in (20, 100, 40):
        write_checkpoint(tmp_path, step)
    (tmp_path / "step-100" / "__0_0.distcp").unlink()
    latest = latest_complete(tmp_path)
    assert latest is not None
    assert latest.step == 40
    assert [(one.step, one.state.value) for one in scan(tmp_path)] == [
        (100, "incomplete"),
        (40, "complete"),
        (20, "complete"),
    ]


def test_garbage_is_skipped_or_reported(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 3)
    (tmp_path / "step-9").write_text("a file")
    (tmp_path / "step-8").symlink_to("nowhere")
    (tmp_path / "step-7").symlink_to(tmp_path)
    (tmp_path / "step-6").mkdir()
    os.mkfifo(tmp_path / "step-5")
    for name in ("step-", "step-x", "step-07", "step--1", "step-٣", "latest", ".tmp-step-50-0", "step-9\n", "STEP-9"):
        (tmp_path / name).mkdir()
    (tmp_path / os.fsdecode(b"step-\xff")).mkdir()
    assert [one.step for one in scan(tmp_path)] == [9, 8, 7, 7, 6, 5, 3]
    assert all(one.why for one in scan(tmp_path) if one.step != 3)
    assert latest_complete(tmp_path) == judge(tmp_path / "step-3", 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every directory")
def test_an_unreadable_checkpoint_is_reported(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 3)
    path.chmod(0)
    assert scan(tmp_path)[0].why == "it cannot be read: Permission denied"


def test_no_directory_has_no_checkpoints(tmp_path: Path) -> None:
    assert candidates(tmp_path / "none") == []
    assert latest_complete(tmp_path / "none") is None


def test_a_directory_that_cannot_be_listed_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointDirUnreadable, match="Not a directory"):
        latest_complete(tmp_path / "file")


@given(st.integers(0, 10**18 - 1))
def test_a_step_has_one_name(step: int) -> None:
    assert step_of(f"step-{step}") == step


FILES = (".metadata", "__0_0.distcp", "__1_0.distcp", MARK)
harms = st.lists(
    st.tuples(
        st.sampled_from((1, 2, 3)),
        st.sampled_from(FILES),
        st.sampled_from(("remove", "truncate", "grow", "empty", "link", "overwrite")),
        st.integers(0, 60),
        st.binary(max_size=40),
    ),
    max_size=6,
)


def _harm(path: Path, how: str, size: int, data: bytes) -> None:
    if how in ("remove", "link"):
        path.unlink(missing_ok=True)
    if how == "link":
        path.symlink_to("/dev/null")
    elif not path.is_symlink() and path.exists():
        if how == "truncate":
            os.truncate(path, min(size, path.stat().st_size))
        elif how == "grow":
            path.write_bytes(path.read_bytes() + data)
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "overwrite":
            path.write_bytes(data)


@settings(deadline=None, max_examples=60)
@given(harms)
def test_never_an_incomplete_one_whatever_is_done_to_the_files(
    actions: list[tuple[int, str, str, int, bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root)
        original = {}
        for step in (1, 2, 3):
            path = write_checkpoint(directory, step)
            original[step] = {name: (path / name).read_bytes() for name in FILES}
        for step, name, how, size, data in actions:
            _harm(directory / f"step-{step}" / name, how, size, data)
        intact = [step for step in (1, 2, 3) if _same_sizes(directory / f"step-{step}", original[step])]
        latest = latest_complete(directory)
        assert (latest.step if latest else None) == max(intact, default=None)
        assert all(one.state is CheckpointState.COMPLETE or one.why for one in scan(directory))


def _same_sizes(path: Path, original: dict[str, bytes]) -> bool:
    """The mark as it was (trailing blanks do not count), every other file a file of its size."""
    if any((path / name).is_symlink() or not (path / name).exists() for name in FILES):
        return False
    if (path / MARK).read_bytes().strip() != original[MARK].strip():
        return False
    return all((path / name).stat().st_size == len(original[name]) for name in FILES if name != MARK)
