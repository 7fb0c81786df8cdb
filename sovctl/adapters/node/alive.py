"""The mark by which a node's watcher shows that it lives: one small file a node on the shared file system."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovctl.adapters.node.verdict_file import read_trusted, replace_json

_FORGOTTEN_S = 3600.0
"""A mark so old when it is first seen is of a watcher that was removed: nobody's silence."""


class AliveFile:
    """`AliveMark` as `<directory>/<node>.json`."""

    def __init__(self, directory: Path, node: str) -> None:
        self._path = directory / f"{node}.json"
        self._node = node

    def refresh(self, boot_id: str, at: float) -> None:
        """Not synced to disk: a mark that a crash loses is what a crash should do to it."""
        replace_json(self._path, {"node": self._node, "boot_id": boot_id, "at": round(at, 3)}, durable=False)


@dataclass(slots=True)
class _Seen:
    version: tuple[int, int]
    """Inode and time of change: a new one is a sign of life."""
    changed_at: float
    looked_at: float


class AliveMarks:
    """ports.AliveMarks: notices that marks change, by this machine's own clock, whatever the nodes' clocks say.

    Each file is opened, because only an open makes a network file system ask its server. `at_once`: so many marks are
    looked at a time, the rest the next time.
    """

    def __init__(self, directory: Path, at_once: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._at_once = at_once
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._next = 0

    def look(self, nodes: Sequence[str]) -> Mapping[str, float]:
        """For how many seconds, as of its last look, each node's mark has not changed; nodes without one are left
        out."""
        count = min(len(nodes), self._at_once)
        for offset in range(count):
            self._look_at(nodes[(self._next + offset) % len(nodes)])
        self._next = (self._next + count) % max(1, len(nodes))
        known = set(nodes)
        self._seen = {name: seen for name, seen in self._seen.items() if name in known}
        return {name: seen.looked_at - seen.changed_at for name, seen in self._seen.items()}

    def boot_id(self, node: str) -> str:
        """Of the boot that wrote the mark; empty when nobody knows."""
        record = read_trusted(self._directory / f"{node}.json")
        found = record.get("boot_id") if isinstance(record, dict) and record.get("node") == node else None
        return found if isinstance(found, str) else ""

    def _look_at(self, node: str) -> None:
        now = self._clock()
        try:
            descriptor = os.open(self._directory / f"{node}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            self._seen.pop(node, None)
            return
        except (OSError, ValueError):
            # The storage does not answer: that is no silence of the node.
            return
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if status.st_uid not in (0, os.geteuid()):
            return
        version = (status.st_ino, status.st_mtime_ns)
        seen = self._seen.get(node)
        if seen is None:
            if time.time() - status.st_mtime < _FORGOTTEN_S:
                self._seen[node] = _Seen(version, now, now)
        elif seen.version != version:
            self._seen[node] = _Seen(version, now, now)
        else:
            seen.looked_at = now


def read_alive(directory: Path) -> dict[str, float]:
    """When each node's watcher was last alive, in seconds since the epoch by the node's own clock."""
    marks: dict[str, float] = {}
    for path in directory.glob("[!.]*.json") if directory.is_dir() else ():
        record = read_trusted(path)
        if isinstance(record, dict) and isinstance(record.get("at"), int | float) and record.get("node") == path.stem:
            marks[path.stem] = float(record["at"])
    return marks
