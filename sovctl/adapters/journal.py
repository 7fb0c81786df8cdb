"""The append-only record: JSON lines, each on disk before `append` returns.

One file has one writer at a time: the lock is taken for each append and not for the life of the process, because on
a shared file system the lock of a host that died is released only after a lease, and the next attempt of a run must
not wait for that. A line torn by a crash is skipped by readers and cut by the next writer.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sovctl.errors import SovctlError, TryLaterError

LONGEST_LINE = 256 * 1024
"""Bytes; evidence is sentences, so a longer record is a mistake of the caller."""
LARGEST_READ = 64 * 1024 * 1024
"""Bytes; of a larger file only the newest part is read, where nothing else is said."""
_LOCK_WAIT_S = 10.0
_LOCKS_UNSUPPORTED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""Lustre without `-o flock` answers so; the single writer is then by arrangement only."""


class JournalError(SovctlError):
    """The record cannot be read or written; nothing half-written is left behind."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"cannot use the journal {path}: {problem}",
            hint=f"Check free space, quota and the owner: df -h {path.parent}; ls -ld {path.parent}",
        )


class FileJournal:
    """`Journal` on one file. Fields `seq` (from 1, no gaps) and `at` (seconds since the epoch) are added."""

    def __init__(self, path: Path, *, lock_wait_s: float = _LOCK_WAIT_S, most_bytes: int = LARGEST_READ) -> None:
        """`most_bytes`: of a larger file only the newest part is read."""
        self.path = path
        self._lock_wait_s = lock_wait_s
        self._most_bytes = most_bytes

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Write one record and return it. Raises JournalError, TryLaterError when another writer holds the file."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, created = _open_for_append(self.path)
        except OSError as error:
            raise JournalError(self.path, _words(error)) from error
        try:
            with lock(descriptor, self.path, self._lock_wait_s):
                record = self._append_locked(descriptor, kind, fields)
            if created:
                _sync_directory(self.path.parent)
        except OSError as error:
            raise JournalError(self.path, _words(error)) from error
        finally:
            os.close(descriptor)
        return record

    def events(self, newest_only: str = "") -> list[dict[str, Any]]:
        """Every whole record, oldest first; a file that is not there yet has none. `newest_only`: of this kind the
        newest is enough."""
        try:
            data = newest_part(self.path, self._most_bytes)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise JournalError(self.path, _words(error)) from error
        lines = data.split(b"\n")[:-1]
        return _parse_all(_without_older(lines, newest_only) if newest_only else lines)

    def _append_locked(self, descriptor: int, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        last, end = _mend_tail(descriptor)
        record = {"seq": last + 1, "at": round(time.time(), 3), "kind": kind, **fields}
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        if len(data) > LONGEST_LINE:
            raise JournalError(self.path, f"a record of {len(data)} bytes is larger than {LONGEST_LINE}")
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        except OSError:
            # Disk full in the middle of a line: take the half back, so that the file stays whole for its readers.
            with suppress(OSError):
                os.ftruncate(descriptor, end)
            raise
        return record


class ChangeMark:
    """Whether a file was written to since one looked last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def changed(self) -> bool:
        """True the first time, too, where there is a file."""
        try:
            status = self._path.stat()
        except OSError:
            return False
        now = (status.st_size, status.st_mtime_ns)
        if now == self._seen:
            return False
        self._seen = now
        return True


@contextmanager
def lock(descriptor: int, path: Path, wait_s: float) -> Iterator[None]:
    """Hold the exclusive lock of an open file. Raises TryLaterError when it stays taken for `wait_s` seconds."""
    locked = _take(descriptor, path, wait_s)
    try:
        yield
    finally:
        if locked:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)


class FileTurn:
    """One actor of the cluster at a time, by a lock on a file of the shared file system.

    A turn that cannot be had in `wait_s` seconds is taken anyway: the lock keeps a budget exact when many nodes act
    in the same second, and must not keep a sick node in service when the shared file system is what broke.
    """

    def __init__(self, path: Path, wait_s: float = 5.0) -> None:
        self._path = path
        self._wait_s = wait_s

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for the turn and hold it for the block."""
        descriptor = -1
        try:
            with suppress(OSError, SovctlError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
                _take(descriptor, self._path, self._wait_s)
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _take(descriptor: int, path: Path, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TryLaterError(
                    f"another process has been writing {path} for {wait_s:g} s",
                    hint=f"Look who has it open: fuser -v {path}",
                ) from None
            time.sleep(0.01)
        except OSError as error:
            if error.errno in _LOCKS_UNSUPPORTED:
                return False
            raise


def _open_for_append(path: Path) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor, created = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
        descriptor, created = os.open(path, flags), False
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor, created


def _mend_tail(descriptor: int) -> tuple[int, int]:
    """Cut what a crash left after the last whole line. Returns (last sequence number, length in bytes)."""
    size = os.fstat(descriptor).st_size
    window = LONGEST_LINE * 2
    while True:
        start = max(0, size - window)
        tail = os.pread(descriptor, size - start, start)
        whole = tail.rfind(b"\n") + 1
        last = _last_sequence(tail[:whole])
        if last is not None or start == 0:
            break
        window *= 4
    end = start + whole
    if end < size:
        os.ftruncate(descriptor, end)
    return last or 0, end


def _last_sequence(data: bytes) -> int | None:
    for line in reversed(data.split(b"\n")):
        record = _parse(line)
        if record is not None:
            return int(record["seq"])
    return None


def _parse_all(lines: list[bytes]) -> list[dict[str, Any]]:
    """As _parse for each line, but in one go where every line is a record: five times as fast.

    A line break inside a record would not be JSON, so that no two halves of torn lines become one record.
    """
    try:
        records = json.loads(b"[" + b",\n".join(lines) + b"]")
    except (ValueError, RecursionError):
        records = []
    if len(records) == len(lines) and {type(item) for item in records} <= {dict}:
        kinds = {(type(item.get("seq")), type(item.get("kind"))) for item in records}
        if kinds <= {(int, str)}:
            return list(records)
    return [record for line in lines if (record := _parse(line)) is not None]


def _without_older(lines: list[bytes], kind: str) -> list[bytes]:
    """As `append` writes them; quotes inside a text have a backslash before them, so no evidence looks like this."""
    mark = f'"kind":"{kind}"'.encode()
    newest = next((line for line in reversed(lines) if mark in line), b"")
    return [line for line in lines if mark not in line or line is newest]


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and type(record.get("seq")) is int and isinstance(record.get("kind"), str)


def _parse(line: bytes) -> dict[str, Any] | None:
    """A record, or None for a blank, torn or foreign line."""
    if not line.strip(b" \t\r\0"):
        return None
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def whole_records(data: bytes) -> list[dict[str, Any]]:
    """Those in the text of a journal, oldest first."""
    return _parse_all(data.split(b"\n")[:-1])


def newest_part(path: Path, limit: int, owner: int | None = None) -> bytes:
    """The text of a regular file from the beginning of a line on; `owner`: it must be this user's. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if owner is not None and status.st_uid != owner:
            raise OSError(errno.EPERM, "somebody else's")
        if status.st_size <= limit:
            return read_whole(descriptor, status.st_size)
        os.lseek(descriptor, status.st_size - limit, os.SEEK_SET)
        return read_whole(descriptor, limit).partition(b"\n")[2]
    finally:
        os.close(descriptor)


def read_whole(descriptor: int, most: int) -> bytes:
    """Up to so many bytes from here; where a thousand runs are listed, a file object costs more than the reading."""
    data = os.read(descriptor, most)
    while len(data) < most and (more := os.read(descriptor, most - len(data))):
        data += more
    return data


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_directory(directory: Path) -> None:
    """A new file survives a power cut only once its directory entry is on disk too."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems refuse to fsync a directory; their servers do it by themselves.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _words(error: OSError) -> str:
    return error.strerror or str(error)
