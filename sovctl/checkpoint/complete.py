"""The rule for "complete" where there is a mark; `prove.py` has the one for checkpoints that have none.

Complete means: a real directory named for its step; a mark that can be trusted and speaks of that step; a structure
that its format allows, with files of every rank; and every file of the mark there, regular, with the recorded size
(of a record also the recorded time). `deep` also compares checksums. Nothing is unpickled, no link is followed, and
whatever lies on disk gives an answer with a reason, never an exception.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from sovctl.checkpoint import dcp
from sovctl.checkpoint.mark import Mark, MarkError, read_mark
from sovctl.checkpoint.passing import is_passing
from sovctl.checkpoint.tree import Tree, TreeTooLarge, read_tree
from sovctl.model.checkpoint import Checkpoint, CheckpointState

STRUCTURE_RULES: Mapping[str, Callable[[Mark], str]] = {dcp.FORMAT: dcp.structure_problem}
"""Format name in the mark -> why its list of files cannot be whole, or empty."""

_BLOCK_BYTES = 1 << 20


class _Problem(NamedTuple):
    state: CheckpointState
    why: str
    unanswered: bool = False


def judge(directory: Path, step: int, *, deep: bool = False) -> Checkpoint:
    """Look at one checkpoint directory. `step` is what its name says. Never raises for what lies on disk."""
    try:
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return _incomplete(directory, step, _open_problem(error))
    try:
        return _judge_open(directory, directory_fd, step, deep=deep)
    finally:
        os.close(directory_fd)


def judge_mark(directory: Path, step: int, mark: Mark) -> Checkpoint:
    """The same with a mark of the training process that was read already. Raises OSError when it cannot be opened."""
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _with_mark(directory, directory_fd, step, mark, deep=False)
    finally:
        os.close(directory_fd)


def still_fits(mark: Mark, tree: Tree) -> bool:
    """Whether every file of a record has the size and the time it had at the proof, and there is no link among them."""
    return not tree.odd and all(
        tree.files.get(name) == (size, mark.modified_ns[name]) for name, size in mark.files.items()
    )


def sha256_of(path: str | Path, directory_fd: int | None = None) -> str:
    """Hex digest of a file. Follows no link. Raises OSError."""
    file_fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        return sha256_of_open(file_fd)
    finally:
        os.close(file_fd)


def sha256_of_open(file_fd: int) -> str:
    """The same of an open file, from where it stands. Raises OSError."""
    digest = hashlib.sha256()
    while block := os.read(file_fd, _BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _judge_open(directory: Path, directory_fd: int, step: int, *, deep: bool) -> Checkpoint:
    try:
        mark = read_mark(directory_fd)
    except MarkError as error:
        return _incomplete(directory, step, _Problem(CheckpointState.CORRUPT, str(error)))
    except OSError as error:
        return _incomplete(directory, step, _unreadable(error, "its mark"))
    if mark is None:
        return _incomplete(directory, step, _Problem(CheckpointState.INCOMPLETE, "it has no mark of completion"))
    return _with_mark(directory, directory_fd, step, mark, deep=deep)


def _with_mark(directory: Path, directory_fd: int, step: int, mark: Mark, *, deep: bool) -> Checkpoint:
    problem = _structure_problem(mark, step)
    if problem is None:
        problem = _record_problem(mark, directory) if mark.is_record else _files_problem(mark, directory_fd)
    if problem is None and deep:
        problem = _content_problem(mark, directory_fd)
    return Checkpoint(
        path=directory,
        step=step,
        format=mark.format,
        state=problem.state if problem else CheckpointState.COMPLETE,
        size_bytes=mark.size_bytes,
        saved_at=mark.saved_at,
        world_size=mark.world_size,
        checksums=mark.files.keys() == mark.sha256.keys(),
        recorded=True,
        why=problem.why if problem else "",
        unanswered=problem is not None and problem.unanswered,
    )


def _structure_problem(mark: Mark, step: int) -> _Problem | None:
    if mark.step != step:
        return _Problem(CheckpointState.CORRUPT, f"its mark is of step {mark.step}")
    if mark.is_record:
        return None
    rule = STRUCTURE_RULES.get(mark.format)
    why = rule(mark) if rule else f"its format {mark.format!r} is not known"
    return _Problem(CheckpointState.CORRUPT, why) if why else None


def _record_problem(mark: Mark, directory: Path) -> _Problem | None:
    try:
        fits = still_fits(mark, read_tree(directory))
    except (OSError, TreeTooLarge) as error:
        return _unreadable(error, "it")
    return None if fits else _Problem(CheckpointState.INCOMPLETE, "it was changed after it was proven complete")


def _files_problem(mark: Mark, directory_fd: int) -> _Problem | None:
    problems = [problem for name in sorted(mark.files) if (problem := _file_problem(name, mark, directory_fd))]
    return _first(problems)


def _file_problem(name: str, mark: Mark, directory_fd: int) -> _Problem | None:
    try:
        found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return _Problem(CheckpointState.INCOMPLETE, f"{name} is missing")
    except (OSError, ValueError) as error:
        return _unreadable(error, name)
    if not stat.S_ISREG(found.st_mode):
        return _Problem(CheckpointState.CORRUPT, f"{name} is not a regular file")
    if found.st_size == 0:
        return _Problem(CheckpointState.CORRUPT, f"{name} is empty")
    if found.st_size != mark.files[name]:
        return _Problem(CheckpointState.CORRUPT, f"{name} has {found.st_size} bytes, saved were {mark.files[name]}")
    return None


def _content_problem(mark: Mark, directory_fd: int) -> _Problem | None:
    problems = [problem for name in sorted(mark.sha256) if (problem := _digest_problem(name, mark, directory_fd))]
    return _first(problems)


def _digest_problem(name: str, mark: Mark, directory_fd: int) -> _Problem | None:
    if name not in mark.files:
        return _Problem(CheckpointState.CORRUPT, f"its mark has a checksum of {name}, which is not one of its files")
    try:
        same = sha256_of(name, directory_fd) == mark.sha256[name]
    except OSError as error:
        return _unreadable(error, name)
    return None if same else _Problem(CheckpointState.CORRUPT, f"{name} does not match its checksum")


def _first(problems: list[_Problem]) -> _Problem | None:
    if not problems:
        return None
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    first = min(problems, key=lambda problem: problem.unanswered)  # what is known to be wrong needs no other answer
    return first._replace(why=first.why + more)


def _open_problem(error: OSError) -> _Problem:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return _Problem(CheckpointState.INCOMPLETE, "it is not a directory")
    return _unreadable(error, "it")


def _unreadable(error: Exception, what: str) -> _Problem:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _Problem(CheckpointState.INCOMPLETE, f"{what} cannot be read: {words}", is_passing(error))


def _incomplete(directory: Path, step: int, problem: _Problem) -> Checkpoint:
    return Checkpoint(directory, step, "", problem.state, why=problem.why, unanswered=problem.unanswered)
