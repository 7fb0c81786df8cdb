"""Storage that fails for a moment: nobody goes on from an older step, or from 0, because of an answer that was none."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_builders import write_checkpoint
from format_builders import age, dcp, deepspeed, torch_file

from sovctl.checkpoint.find import resume_point, scan
from sovctl.errors import CheckpointDirUnreadable, CheckpointUnanswered
from sovctl.model.checkpoint import CheckpointState
from sovctl.train.loading import content_problem, older_complete

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN)
Fail = Callable[..., None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Has a call of the system fail for one name."""

    def begin(call: str, name: str, code: int = errno.EIO) -> None:
        real = getattr(os, call)

        def call_or_fail(path: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(path, int) and Path(path).name == name:
                raise OSError(code, os.strerror(code))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, call, call_or_fail)

    return begin


@pytest.mark.parametrize("code", PASSING)
def test_the_newest_that_cannot_be_read_now_is_not_passed_over(
    tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for step in (10, 20):
        dcp(tmp_path / f"step-{step}")
    fail("open", "step-20", code)
    with pytest.raises(CheckpointUnanswered, match=f"step-20 may be complete.*{os.strerror(code)}"):
        resume_point(tmp_path)
    assert [(one.step, one.state.value, one.unanswered) for one in scan(tmp_path)] == [
        (20, "incomplete", True),
        (10, "complete", False),
    ]
    monkeypatch.undo()
    assert resume_point(tmp_path).checkpoint.step == 20  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("call", "name"),
    [("open", "step-20"), ("open", ".sovctl-complete.json"), ("stat", "__1_0.distcp"), ("lstat", "step-20")],
)
def test_one_with_a_mark_of_its_own(tmp_path: Path, fail: Fail, call: str, name: str) -> None:
    for step in (10, 20):
        write_checkpoint(tmp_path, step)
    fail(call, name)
    with pytest.raises(CheckpointDirUnreadable, match=r"step-20|cannot list"):
        resume_point(tmp_path)


def test_one_that_is_known_to_be_broken_is_passed_over(tmp_path: Path, fail: Fail) -> None:
    for step in (10, 20):
        write_checkpoint(tmp_path, step)
    (tmp_path / "step-20" / "__0_0.distcp").unlink()
    fail("stat", ".metadata")
    assert [one.why for one in scan(tmp_path)] == [
        "__0_0.distcp is missing (and 1 more)",
        ".metadata cannot be read: Input/output error",
    ]
    assert [one.unanswered for one in scan(tmp_path)] == [False, True]


@pytest.mark.parametrize("code", [*PASSING, errno.EACCES])
def test_nothing_vanishes_from_the_list(tmp_path: Path, fail: Fail, code: int) -> None:
    dcp(tmp_path / "step-20")
    fail("lstat", "step-20", code)
    with pytest.raises(CheckpointDirUnreadable, match=os.strerror(code)):
        resume_point(tmp_path)


def test_what_is_gone_since_it_was_listed_is_gone(tmp_path: Path, fail: Fail) -> None:
    for step in (10, 20):
        dcp(tmp_path / f"step-{step}")
    fail("lstat", "step-20", errno.ENOENT)
    point = resume_point(tmp_path)
    assert (point.checkpoint.step, point.skipped) == (10, ())  # type: ignore[union-attr]


def test_a_name_that_alone_does_not_tell(tmp_path: Path, fail: Fail) -> None:
    dcp(tmp_path / "global_step20_b5")
    fail("open", "global_step20_b5")
    with pytest.raises(CheckpointDirUnreadable):
        resume_point(tmp_path)


def test_the_folder_of_a_rank(tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "iter_0000020_0_local.pt").write_bytes(torch_file())
    fail("open", "0")
    with pytest.raises(CheckpointDirUnreadable):
        resume_point(tmp_path)


def test_a_file_whose_name_does_not_tell_its_step(tmp_path: Path, fail: Fail) -> None:
    for name in ("last.ckpt", "epoch=0-step=1.ckpt"):
        (tmp_path / name).write_bytes(torch_file())
    age(tmp_path)
    fail("open", "last.ckpt")
    with pytest.raises(CheckpointDirUnreadable):
        resume_point(tmp_path)


def test_a_tracker(tmp_path: Path, fail: Fail) -> None:
    for step in (10, 20):
        deepspeed(tmp_path, step)
    (tmp_path / "latest").write_text("global_step10")
    fail("open", "latest")
    with pytest.raises(CheckpointDirUnreadable):
        resume_point(tmp_path)


def test_what_may_not_be_read_is_passed_over(tmp_path: Path, fail: Fail) -> None:
    for step in (10, 20):
        dcp(tmp_path / f"step-{step}")
    fail("open", "step-20", errno.EACCES)
    point = resume_point(tmp_path)
    assert point.checkpoint.step == 10  # type: ignore[union-attr]
    assert [one.why for one in point.skipped] == ["it cannot be read: Permission denied"]


def test_a_script_does_not_take_it_for_a_broken_one(tmp_path: Path, fail: Fail) -> None:
    path = write_checkpoint(tmp_path, 20)
    assert content_problem(path, 20) == ""
    fail("open", "__1_0.distcp")
    assert content_problem(path, 20) == ""
    fail("stat", "__0_0.distcp")
    with pytest.raises(CheckpointUnanswered):
        older_complete(tmp_path, 30)
    assert scan(tmp_path)[0].state is CheckpointState.INCOMPLETE
