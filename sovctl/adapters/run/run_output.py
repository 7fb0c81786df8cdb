"""Follows the output files of a job: only what is new, bounded, whatever happens to the files meanwhile."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sovctl.ports.supervised import WrittenFile

_MOST_BYTES = 256 * 1024
"""Of one file at one look; what lies further behind the end is skipped."""
_MOST_FILES = 64
_LONGEST_LINE = 8 * 1024
_PATTERN = re.compile(r"%\d{0,3}[A-Za-z]")


@dataclass(slots=True)
class _Place:
    """How far one file was read."""

    inode: int
    offset: int
    rest: bytes = b""


class OutputFiles:
    """ports.RunOutput on the job's own files, which may be pipes, absent, cut short or replaced."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._own: tuple[str, ...] = ()
        self._followed: dict[str, None] = {}

    def begin(self, paths: Iterable[str] = ()) -> None:
        """From here on only what is new counts: what earlier attempts appended is behind us. The files that this
        process itself writes to (stdout and stderr of the batch script) are followed too."""
        self._places.clear()
        self._own = tuple(dict.fromkeys(_target(descriptor) for descriptor in (1, 2)))
        for path in _expanded([*self._own, *self._followed, *paths]):
            self._begin_at_end(path)

    def follow(self, file: WrittenFile) -> None:
        """One more file; what was appended to it before does not count."""
        self._followed[file.path] = None
        # One that is not appended to has just been cut by this attempt.
        self._places.pop(file.path, None)
        if file.appended:
            self._begin_at_end(file.path)

    def _begin_at_end(self, path: str) -> None:
        status = _status(path)
        if status is not None:
            self._places[path] = _Place(status.st_ino, status.st_size)

    def read(self, paths: Iterable[str]) -> tuple[list[str], bool]:
        """The whole lines that are new, and whether any file grew. Carriage returns end lines too (progress bars)."""
        lines: list[str] = []
        grew = False
        seen: set[int] = set()
        for path in _expanded([*self._own, *self._followed, *paths]):
            data = self._new_bytes(path)
            # One file under two names (a link, stdout and stderr together) is one file.
            if data is None or self._places[path].inode in seen:
                continue
            seen.add(self._places[path].inode)
            grew = grew or bool(data)
            lines += self._lines(self._places[path], data)
        return lines, grew

    def _new_bytes(self, path: str) -> bytes | None:
        status = _status(path)
        if status is None:
            return None
        place = self._places.get(path)
        if place is None or place.inode != status.st_ino or status.st_size < place.offset:
            # New, replaced or truncated: its content is new.
            place = self._places[path] = _Place(status.st_ino, 0)
        if status.st_size - place.offset > _MOST_BYTES:
            place.offset, place.rest = status.st_size - _MOST_BYTES, b""
        if status.st_size == place.offset:
            return b""
        data = _read(path, place.offset)
        place.offset += len(data)
        return data

    def _lines(self, place: _Place, data: bytes) -> list[str]:
        whole = (place.rest + data).replace(b"\r", b"\n")
        *lines, rest = whole.split(b"\n")
        place.rest = rest[:_LONGEST_LINE]
        return [line[:_LONGEST_LINE].decode("utf-8", "replace") for line in lines if line.strip()]


def newest_change(directory: Path, most: int = 500) -> float:
    """When something right below a directory, or one level deeper, last changed; seconds since the epoch, 0: never."""
    newest, left = 0.0, most
    pending = [(directory, 0)]
    while pending and left > 0:
        place, depth = pending.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    left -= 1
                    newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
                    if depth == 0 and entry.is_dir(follow_symlinks=False):
                        pending.append((Path(entry.path), 1))
                    if left <= 0:
                        break
        except OSError:
            continue
    return newest


def _expanded(paths: Iterable[str]) -> list[str]:
    """A name with a pattern that Slurm fills in for each task (`%t`, `%N`) stands for all files it can become."""
    found: dict[str, None] = {}
    for path in paths:
        if not _PATTERN.search(path):
            found[path] = None
            continue
        directory, name = os.path.split(path)
        shape = re.compile(".{0,80}".join(re.escape(part) for part in _PATTERN.split(name)))
        try:
            names = sorted(entry for entry in os.listdir(directory or ".") if shape.fullmatch(entry))
        except OSError:
            continue
        found |= dict.fromkeys(str(Path(directory, entry)) for entry in names[:_MOST_FILES])
    return list(found)


def _target(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def _status(path: str) -> os.stat_result | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _read(path: str, offset: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, _MOST_BYTES, offset)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
