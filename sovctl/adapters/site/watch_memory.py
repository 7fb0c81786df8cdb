"""What the watch on the controller remembers over a restart, beside its journal."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from sovctl.adapters.node.verdict_file import replace_json

_LARGEST = 16 * 1024 * 1024
"""Bytes; 5,000 nodes with a job each are 150 KiB."""


class WatchMemoryFile:
    """`WatchMemory` in one file, replaced whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Any:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
                return None
            try:
                return json.loads(stream.read(_LARGEST + 1).decode("utf-8"))
            except (OSError, ValueError, RecursionError):
                return None

    def save(self, record: dict[str, Any]) -> None:
        # Not synced: it survives a kill, and after a crash of the whole machine Slurm's own state is older too.
        replace_json(self._path, record, durable=False)
