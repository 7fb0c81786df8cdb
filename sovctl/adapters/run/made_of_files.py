"""What was made of files, kept in one file as long as those are the same: a thousand records are listed without reading
a thousand files. It may be lost, broken or old at any time; the files themselves are always right."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sovctl.adapters.own_place import own_place
from sovctl.adapters.run.run_files import read_bounded

_LARGEST = 64 << 20
_MOST_FILES = 30_000
_SETTLED_S = 10.0
"""A file that changed just now may change again within one tick of its server's clock, and a clock may be off."""

Mark = tuple[int, int, int]
"""Inode, size and the time of the last change of any kind, which nobody can set."""


def cache_file(environ: Mapping[str, str]) -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/sovctl/runs.json`."""
    return own_place(environ, "XDG_CACHE_HOME", ".cache") / "sovctl" / "runs.json"


class MadeOfFiles:
    """Implements ports.MadeOfFiles. Whatever fails here makes a list slower, and never wrong."""

    def __init__(self, path: Path, made_by: str, *, now: Callable[[], float] = time.time) -> None:
        """`made_by`: who made it; what somebody else made is forgotten."""
        self._path, self._made_by, self._now = path, made_by, now
        self._kept: dict[str, list[Any]] | None = None
        self._marks: dict[str, Mark] = {}
        self._changed = False

    def recall(self, path: str) -> Any:
        """What was made of the file as it is now; None: nothing."""
        self._marks.pop(path, None)
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            return None
        mark = (status.st_ino, status.st_size, status.st_ctime_ns)
        known = self._load().get(path)
        if known is not None and len(known) == 4 and mark == tuple(known[:3]):
            return known[3]
        if status.st_ctime + _SETTLED_S < self._now():
            self._marks[path] = mark
        return None

    def keep(self, path: str, made: Any) -> None:
        """Remember it, made of the file as it was when it was recalled: what changed since then is noticed."""
        if (mark := self._marks.pop(path, None)) is not None:
            self._load()[path] = [*mark, made]
            self._changed = True

    def save(self) -> None:
        """Put it down for the next time, where it can be."""
        if not self._changed:
            return
        kept = list(self._load().items())[-_MOST_FILES:]
        data = json.dumps({"made_by": self._made_by, "files": dict(kept)}, separators=(",", ":"))
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh.write_text(data, "utf-8", "replace")
            fresh.replace(self._path)
        self._changed = False

    def _load(self) -> dict[str, list[Any]]:
        if self._kept is None:
            self._kept = _read(self._path, self._made_by)
        return self._kept


def _read(path: Path, made_by: str) -> dict[str, list[Any]]:
    """Only from a file of our own: what stands there is shown as the truth about runs."""
    try:
        if os.lstat(path).st_uid != os.geteuid():
            return {}
        whole = json.loads(read_bounded(path, _LARGEST) or b"")
        if whole["made_by"] == made_by and all(type(kept) is list for kept in whole["files"].values()):
            return dict(whole["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {}
