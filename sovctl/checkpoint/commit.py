"""How a checkpoint comes to be there: written beside its place, proven, then renamed into it.

`<dir>/.tmp-step-<N>-<attempt>` becomes `<dir>/step-<N>` in one rename after everything is on disk, so a crash at any
instant leaves either the whole checkpoint or none. What is in the way is moved aside, never overwritten. Every
function here is for one process (rank 0) and raises OSError.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
from pathlib import Path

from sovctl.checkpoint.complete import judge
from sovctl.checkpoint.find import candidates
from sovctl.checkpoint.mark import MARK, Mark, encode_mark
from sovctl.model.checkpoint import CheckpointState

_TEMPORARY = re.compile(r"\.tmp-step-\d{1,18}-(\d{1,9})", re.ASCII)
_RETIRED = ".retired-"


def final_path(directory: Path, step: int) -> Path:
    """Where the complete checkpoint of a step is."""
    return directory / f"step-{step}"


def temporary_path(directory: Path, step: int, attempt: int) -> Path:
    """Where an attempt writes the checkpoint of a step."""
    return directory / f".tmp-step-{step}-{attempt}"


def already_complete(directory: Path, step: int) -> bool:
    """Whether the checkpoint of this step is there and proven."""
    return judge(final_path(directory, step), step).state is CheckpointState.COMPLETE


def begin(directory: Path, step: int, attempt: int) -> Path:
    """Make the empty directory to write into."""
    temporary = temporary_path(directory, step, attempt)
    directory.mkdir(parents=True, exist_ok=True)
    _remove(temporary)
    temporary.mkdir()
    return temporary


def commit(temporary: Path, directory: Path, mark: Mark) -> Path:
    """Write the mark and rename the directory into its place; returns that place.

    Every file the mark lists must be on disk (fsync) before. A complete checkpoint of the same step that another
    attempt committed meanwhile is left alone and ours is dropped; an incomplete one is moved aside.
    """
    _write_mark(temporary, mark)
    final = final_path(directory, mark.step)
    if already_complete(directory, mark.step):
        _remove(temporary)
        return final
    if os.path.lexists(final):
        move_aside(final)
    temporary.rename(final)
    _fsync_directory(directory)
    return final


def move_aside(path: Path) -> Path:
    """Rename something that is in the way to `.aside-<name>-<n>`; nothing of it is lost."""
    for number in itertools.count():
        aside = path.with_name(f".aside-{path.name}-{number}")
        if not os.path.lexists(aside):
            path.rename(aside)
            return aside
    raise AssertionError("unreachable")


def discard(temporary: Path) -> None:
    """Drop a checkpoint that could not be written, so that a full disk gets its space back. Never raises."""
    shutil.rmtree(temporary, ignore_errors=True)


def retire(directory: Path, newest: int, keep: int) -> list[Path]:
    """Delete complete checkpoints older than step `newest` but the `keep - 1` newest of them; returns what went.

    The one just saved always stays, and so do higher steps of an earlier run; incomplete ones neither count nor go.
    Nothing goes unless step `newest` itself is proven complete: otherwise an older one may be the newest that is.
    A directory is renamed before it is emptied, so that half of one never looks like a checkpoint.
    """
    if not already_complete(directory, newest):
        return []
    complete = [
        path
        for step, path in candidates(directory)
        if step < newest and judge(path, step).state is CheckpointState.COMPLETE
    ]
    gone = complete[max(keep - 1, 0) :]
    for path in gone:
        retired = path.with_name(f"{_RETIRED}{path.name}")
        _remove(retired)
        path.rename(retired)
        _remove(retired)
    return gone


def sweep(directory: Path, attempt: int) -> list[Path]:
    """Delete what earlier attempts began to write or to delete and left; returns what went."""
    left = [path for path in sorted(directory.iterdir()) if _left_over(path.name, attempt)]
    for path in left:
        _remove(path)
    return left


def _left_over(name: str, attempt: int) -> bool:
    temporary = _TEMPORARY.fullmatch(name)
    return name.startswith(_RETIRED) or (temporary is not None and int(temporary[1]) < attempt)


def _write_mark(temporary: Path, mark: Mark) -> None:
    unfinished = temporary / f"{MARK}.tmp"
    with open(unfinished, "wb") as stream:
        stream.write(encode_mark(mark))
        stream.flush()
        _not_before(stream.fileno(), [temporary / name for name in mark.files])
        os.fsync(stream.fileno())
    unfinished.rename(temporary / MARK)
    _fsync_directory(temporary)


def _not_before(file_fd: int, files: list[Path]) -> None:
    """Give a file the time of the newest of others at least. Lustre takes the time of the node that writes, and a
    shard of a node whose clock is ahead would look like one that was written after the mark."""
    newest_ns = max(map(_modified_ns, files), default=0)
    if newest_ns > os.fstat(file_fd).st_mtime_ns:
        os.utime(file_fd, ns=(newest_ns, newest_ns))


def _modified_ns(path: Path) -> int:
    try:
        return os.lstat(path).st_mtime_ns
    except FileNotFoundError:  # another node wrote it, and this one's view of the directory lags behind
        return 0


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _fsync_directory(path: Path) -> None:
    directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no fsync of a directory
            raise
    finally:
        os.close(directory_fd)
