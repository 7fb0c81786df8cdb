"""What a shared file system really does: tried with scratch files, in a child with a deadline, nothing left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sovctl.adapters.forked import Nursery
from sovctl.model.site import FileTrial

_LINES = 200


def try_directory(directory: Path, timeout_s: float = 10.0) -> FileTrial:
    """One directory; a file server that hangs is a problem told, and never waited for."""
    kind, options = _mount_of(directory)
    nursery = Nursery()
    child = nursery.start(lambda: _try(directory), timeout_s)
    ended = child.receive(timeout_s)
    found: dict[str, Any] = {}
    for message in child.messages():
        found |= message
    nursery.end(child)
    problem = str(found.pop("fatal", found.pop("problem", "")))
    if not ended:
        problem = f"gave no answer within {timeout_s:g} s"
    if found.get("missing"):
        kind, options = "", ""  # those of another directory
    return FileTrial(str(directory), kind, options, problem, **found)


def _try(directory: Path) -> Iterator[dict[str, Any]]:
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".sovctl-doctor-", dir=directory))
    except FileNotFoundError as error:
        yield {"missing": True, "problem": f"cannot be written: {error.strerror}"}
        return
    except OSError as error:
        yield {"problem": f"cannot be written: {error.strerror}"}
        return
    try:
        yield {"renames": _renames(scratch)}
        yield {"syncs": _syncs(scratch)}
        yield {"clock_offset_s": _clock_offset(scratch)}
        yield {"appends": _appends(scratch)}
        yield {"locks": _locks(scratch)}
    except OSError as error:
        yield {"problem": error.strerror or str(error)}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _renames(scratch: Path) -> bool:
    old, new = scratch / "old", scratch / "new"
    old.write_text("old", "ascii")
    new.write_text("new", "ascii")
    new.rename(old)
    return old.read_text("ascii") == "new" and not new.exists()


def _syncs(scratch: Path) -> bool:
    for path, flags in ((scratch / "old", os.O_RDWR), (scratch, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError:
            return False
        finally:
            os.close(descriptor)
    return True


def _clock_offset(scratch: Path) -> float:
    """A file's time of birth is the server's; what the round trip took is given to neither."""
    before = time.time()
    path = scratch / "clock"
    path.write_text("", "ascii")
    modified, after = path.stat().st_mtime, time.time()
    # Kernels stamp files with the time of the last tick, up to 10 ms ago.
    return modified - after if modified > after else min(0.0, modified - before + 0.01)


def _appends(scratch: Path) -> bool:
    """As two writers of one journal would, one of them in another process."""
    path = scratch / "appended"
    path.touch()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            _append_lines(path, "child")
        os._exit(0)
    _append_lines(path, "parent")
    os.waitpid(pid, 0)
    wanted = {f"{who} {number:06d}" for who in ("child", "parent") for number in range(_LINES)}
    found = path.read_text("ascii", "replace").splitlines()
    return len(found) == len(wanted) and set(found) == wanted


def _append_lines(path: Path, who: str) -> None:
    for number in range(_LINES):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"{who} {number:06d}\n".encode())
        finally:
            os.close(descriptor)


def _locks(scratch: Path) -> bool:
    descriptor = os.open(scratch / "old", os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        pid = os.fork()
        if pid == 0:
            os._exit(_may_lock(scratch / "old"))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(descriptor)


def _may_lock(path: Path) -> int:
    try:
        other = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    except OSError:
        return 2
    return 1


def _mount_of(directory: Path) -> tuple[str, str]:
    """Type and options of the mount that holds it; the longest mount point wins, of equals the last."""
    best = ("", "", "")
    target = os.path.abspath(directory)  # noqa: PTH100 - resolving links would touch a server that may hang
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text("utf-8", "surrogateescape").splitlines():
            words = line.split(" ")
            if len(words) < 4:
                continue
            point = words[1].replace("\\040", " ").rstrip("/")
            if (target == point or target.startswith(point + "/")) and len(point) >= len(best[0]):
                best = (point, words[2], words[3])
    return best[1], best[2]
