"""Whether a checkpoint in any format is complete, and the record of that proof.

The order of questions: a mark that still fits the files answers at once. Else the format's own rules; every file by
its own structure; nothing newer than the format's own mark (an old mark with new shards); a writer that is still at
it; and, for the newest one, the size and files of a complete one beside it. What is proven is recorded as a mark,
written beside, fsync, renamed, where the directory lets us; the answer is the same where it does not.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from sovctl.checkpoint.complete import judge_mark, still_fits
from sovctl.checkpoint.content import content_problem
from sovctl.checkpoint.file_clock import file_now_ns
from sovctl.checkpoint.formats import dcp, nvrx, torchtitan
from sovctl.checkpoint.formats.layout import Beside, Implausible, Layout
from sovctl.checkpoint.formats.registry import AUTO, FORMATS, recognise
from sovctl.checkpoint.mark import BESIDE, MARK, Mark, MarkError, encode_mark, read_mark
from sovctl.checkpoint.passing import is_passing
from sovctl.checkpoint.tree import Tree, TreeTooLarge, file_tree, open_directory, read_tree
from sovctl.model.checkpoint import Checkpoint, CheckpointState

QUIET_S = 60.0
"""Files that nobody changed for so long have no writer, when nothing else tells."""
SKEW_S = 60.0
"""How far the clocks of two nodes may be apart on file systems that take the writer's time (Lustre does)."""
_SMALLEST_SHARE = 0.98
_MANY_FILES = 64
_THREADS = 16
_SIGNIFICANT = (".pt", ".pth", ".bin", ".pkl", ".safetensors", ".distcp", ".json")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a proof asks for."""

    format: str = AUTO
    quiet_s: float = QUIET_S
    """0: the job that wrote it is known to be over."""
    alone: bool = False
    """Judge it by itself: neither by the times of its files nor by its siblings. For copies and changed set-ups."""
    record: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something in a directory of checkpoints that may be one."""

    step: int
    path: Path
    """The directory or file; of the files of several ranks (NVRx) the directory that holds them all."""
    format: str
    """Empty: what is in it tells."""
    names: tuple[str, ...] = ()
    """Its files below `base`, when it is not a whole directory."""
    mark: str = MARK

    @property
    def base(self) -> Path:
        """What names in the mark are relative to."""
        return self.path if self.mark == MARK or self.format == nvrx.NAME else self.path.parent

    @property
    def directory(self) -> Path:
        """The directory of checkpoints it lies in."""
        return self.path if self.format == nvrx.NAME else self.path.parent

    def open_base(self) -> int:
        """A descriptor of `base`. Raises OSError."""
        return open_directory(self.base, may_be_link=bool(self.names))

    def is_of(self, mark: Mark) -> bool:
        """Whether a record speaks of this candidate; a format that was forced wins over the recorded one."""
        return mark.step == self.step and self.format in ("", mark.format)

    def own_mark(self) -> Mark | None:
        """Its mark; `None` when there is none. Raises MarkError, OSError."""
        base_fd = self.open_base()
        try:
            return read_mark(base_fd, self.mark)
        finally:
            os.close(base_fd)


class Sibling(NamedTuple):
    """A complete checkpoint beside the one that is judged."""

    name: str
    size_bytes: int
    world_size: int | None
    kinds: frozenset[str]
    """Its significant files, numbers replaced by `#`."""


class Proof(NamedTuple):
    """The outcome, and what its siblings can be compared with."""

    checkpoint: Checkpoint
    kinds: frozenset[str] = frozenset()

    @property
    def sibling(self) -> Sibling | None:
        one = self.checkpoint
        if one.state is not CheckpointState.COMPLETE:
            return None
        return Sibling(one.path.name, one.size_bytes, one.world_size, self.kinds)


class _Problem(NamedTuple):
    state: CheckpointState
    why: str
    unanswered: bool = False


def file_mark(name: str) -> str:
    """Name of the mark of a checkpoint that is a single file."""
    return BESIDE.format(name)


def prove(candidate: Candidate, beside: Beside, terms: Terms, sibling: Callable[[], Sibling | None]) -> Proof:
    """Judge one candidate. Never raises for what lies on disk; `sibling` is asked only when all else is well."""
    try:
        mark = candidate.own_mark()
        if mark is not None and not mark.is_record:
            return _by_own_mark(candidate, mark, terms)
        tree = tree_of(candidate)
        if mark is not None and candidate.is_of(mark) and still_fits(mark, tree):
            return Proof(_recorded(candidate, mark), _kinds(mark.files))
        return _by_structure(candidate, tree, beside, terms, sibling)
    except MarkError as error:
        return _unproven(candidate, _Problem(CheckpointState.CORRUPT, str(error)))
    except (TreeTooLarge, Implausible) as error:
        return _unproven(candidate, _Problem(CheckpointState.CORRUPT, str(error)))
    except OSError as error:
        return _unproven(candidate, _Problem(CheckpointState.INCOMPLETE, _words(error, candidate), is_passing(error)))


def record(candidate: Candidate, mark: Mark) -> bool:
    """Write the mark beside, fsync, rename it into place; False where that cannot be done. Never raises OSError.

    Only into a directory of the caller's own: root proves, and leaves nothing in a user's directory.
    """
    unfinished = f"{candidate.mark}.{os.urandom(6).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        base_fd = candidate.open_base()
    except OSError:
        return False
    try:
        if os.fstat(base_fd).st_uid != os.geteuid():
            return False
        with open(os.open(unfinished, flags, 0o644, dir_fd=base_fd), "wb") as stream:
            stream.write(encode_mark(mark))
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(unfinished, candidate.mark, src_dir_fd=base_fd, dst_dir_fd=base_fd)
        with suppress(OSError):  # some network file systems have no fsync of a directory
            os.fsync(base_fd)
    except OSError:  # a full disk, a read-only one
        with suppress(OSError):
            os.unlink(unfinished, dir_fd=base_fd)
        return False
    finally:
        os.close(base_fd)
    return True


def mark_of(checkpoint: Checkpoint, tree: Tree, sha256: dict[str, str] | None = None) -> Mark:
    """The record of a proof."""
    return Mark(
        step=checkpoint.step,
        world_size=checkpoint.world_size or 0,
        files={name: entry.size for name, entry in tree.files.items()},
        saved_at=checkpoint.saved_at,
        sha256=sha256 or {},
        format=checkpoint.format,
        modified_ns={name: entry.modified_ns for name, entry in tree.files.items()},
    )


def tree_of(candidate: Candidate) -> Tree:
    """The files of a candidate, without marks. Raises OSError, TreeTooLarge."""
    if candidate.names:
        return file_tree(candidate.base, list(candidate.names))
    tree = read_tree(candidate.path)
    # Ours: not a file of the checkpoint, and writing it must not look like a change of it.
    files = {name: entry for name, entry in tree.files.items() if not name.startswith(MARK)}
    touched = max((entry.modified_ns for entry in files.values()), default=tree.touched_ns)
    return replace(tree, files=files, touched_ns=touched)


def _by_own_mark(candidate: Candidate, mark: Mark, terms: Terms) -> Proof:
    """A mark of the training process: its sizes must be those on disk, and no file newer than the mark."""
    found = judge_mark(candidate.path, candidate.step, mark)
    if found.state is CheckpointState.COMPLETE and not terms.alone:
        tree = tree_of(candidate)
        closed = os.lstat(candidate.base / candidate.mark).st_mtime_ns
        late = _newer(tree, mark.files, closed)
        if late:
            why = f"{late}, which is its mark: the directory was written to again, or copied"
            found = replace(found, state=CheckpointState.INCOMPLETE, why=why)
    return Proof(found, _kinds(mark.files))


def _recorded(candidate: Candidate, mark: Mark) -> Checkpoint:
    return Checkpoint(
        path=candidate.path,
        step=candidate.step,
        format=mark.format,
        state=CheckpointState.COMPLETE,
        size_bytes=mark.size_bytes,
        saved_at=mark.saved_at,
        world_size=mark.world_size or None,
        checksums=mark.files.keys() == mark.sha256.keys(),
        recorded=True,
    )


def _by_structure(
    candidate: Candidate, tree: Tree, beside: Beside, terms: Terms, sibling: Callable[[], Sibling | None]
) -> Proof:
    name = candidate.format or _recognised(candidate.path.name, tree)
    layout = FORMATS[name].look(tree, beside) if name else Layout(_nothing_known(tree))
    size = sum(entry.size for entry in tree.files.values())
    problem = _odd_problem(tree) or _layout_problem(layout) or _content_problem(tree)
    problem = problem or (None if terms.alone else _late_problem(layout, tree))
    problem = _writer_problem(problem, layout, tree, candidate, terms)
    kinds = _kinds(tree.files)
    if problem is None and not terms.alone:
        problem = _sibling_problem(layout, size, kinds, sibling())
    found = Checkpoint(
        path=candidate.path,
        step=candidate.step,
        format=name,
        state=problem.state if problem else CheckpointState.COMPLETE,
        size_bytes=size,
        saved_at=_saved_at(layout, tree),
        world_size=layout.world_size,
        why=problem.why if problem else "",
    )
    if problem is None and terms.record:
        found = replace(found, recorded=record(candidate, mark_of(found, tree)))
    return Proof(found, kinds)


def _recognised(name: str, tree: Tree) -> str:
    found = recognise(name, frozenset(file.partition("/")[0] for file in (*tree.files, *tree.odd)))
    return torchtitan.NAME if found == dcp.NAME and torchtitan.wrote(name, tree) else found


def _nothing_known(tree: Tree) -> str:
    return "it holds nothing of a format that is known" if tree.files else "it is empty"


def _saved_at(layout: Layout, tree: Tree) -> float:
    closing = tree.files.get(layout.mark)
    newest = max((entry.modified_ns for entry in tree.files.values()), default=0)
    return (closing.modified_ns if closing else newest) / 1e9


def _odd_problem(tree: Tree) -> _Problem | None:
    for name in sorted(tree.odd):
        return _Problem(CheckpointState.CORRUPT, f"{name} is {tree.odd[name]}, which is not followed")
    return None


def _layout_problem(layout: Layout) -> _Problem | None:
    if not layout.problem:
        return None
    return _Problem(CheckpointState.CORRUPT if layout.corrupt else CheckpointState.INCOMPLETE, layout.problem)


def _content_problem(tree: Tree) -> _Problem | None:
    names = sorted(tree.files)

    def look(name: str) -> str:
        return content_problem(tree, name)

    if len(names) < _MANY_FILES:
        return _first(map(look, names))
    from concurrent.futures import ThreadPoolExecutor  # a network file system answers many at once

    with ThreadPoolExecutor(_THREADS) as pool:
        return _first(list(pool.map(look, names, chunksize=32)))


def _first(found: Iterable[str]) -> _Problem | None:
    problems = [why for why in found if why]
    if not problems:
        return None
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return _Problem(CheckpointState.CORRUPT, problems[0] + more)


def _late_problem(layout: Layout, tree: Tree) -> _Problem | None:
    closing = tree.files.get(layout.mark)
    late = _newer(tree, layout.closed, closing.modified_ns) if closing else ""
    if not late:
        return None
    return _Problem(CheckpointState.INCOMPLETE, f"{late}: a save over an older one was not finished, or it was copied")


def _newer(tree: Tree, names: Iterable[str], closed_ns: int) -> str:
    """`x is 2 h newer than ...`, of the newest one; empty when none is newer beyond any skew of clocks."""
    name = max(names, key=lambda one: tree.files[one].modified_ns if one in tree.files else 0, default="")
    late_s = (tree.files[name].modified_ns - closed_ns) / 1e9 if name in tree.files else 0.0
    return f"{name} is {_span(late_s)} newer than the mark of completion" if late_s > SKEW_S else ""


def _writer_problem(
    problem: _Problem | None, layout: Layout, tree: Tree, candidate: Candidate, terms: Terms
) -> _Problem | None:
    """Whether somebody may still be writing: it lacks something, or its format has no mark of its end."""
    if terms.quiet_s <= 0 or (problem is None and layout.mark) or terms.alone:
        return problem
    age = (file_now_ns(candidate.path.parent, time.time_ns()) - tree.touched_ns) / 1e9
    if age >= terms.quiet_s:
        return problem
    lacks = f"; so far {problem.why}" if problem else ", and its format does not mark the end of a save"
    return _Problem(CheckpointState.WRITING, f"it was changed {_span(max(age, 0.0))} ago{lacks}")


def _sibling_problem(layout: Layout, size: int, kinds: frozenset[str], sibling: Sibling | None) -> _Problem | None:
    if sibling is None:
        return None
    lost = sorted(sibling.kinds - kinds)
    if lost:
        return _Problem(CheckpointState.INCOMPLETE, f"it has no {lost[0]}, which {sibling.name} beside it has")
    ours, theirs = layout.world_size, sibling.world_size
    if ours and theirs and ours < theirs and not layout.mark:
        return _Problem(
            CheckpointState.INCOMPLETE, f"it has files of {ours} ranks, {sibling.name} beside it of {theirs}"
        )
    if ours == theirs and size < _SMALLEST_SHARE * sibling.size_bytes:
        share = f"{100 * size / sibling.size_bytes:.0f} %"
        return _Problem(CheckpointState.INCOMPLETE, f"it has only {share} of the size of {sibling.name} beside it")
    return None


def _kinds(names: Iterable[str]) -> frozenset[str]:
    return frozenset(re.sub(r"\d+", "#", name) for name in names if name.endswith(_SIGNIFICANT))


def _unproven(candidate: Candidate, problem: _Problem) -> Proof:
    path, step, state, why, unanswered = candidate.path, candidate.step, *problem
    return Proof(Checkpoint(path, step, candidate.format, state, why=why, unanswered=unanswered))


def _words(error: OSError, candidate: Candidate) -> str:
    with suppress(OSError):
        mode = os.lstat(candidate.path).st_mode
        if stat.S_ISLNK(mode):
            return "it is a symbolic link, which is not followed"
        if not stat.S_ISDIR(mode) and not candidate.names:
            return "it is not a directory"
    return f"it cannot be read: {error.strerror or error}"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
