"""Whether the site wrote anything about a run's nodes: how the journals look from outside, without reading them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

_OF_ALL = ("watch.jsonl", "sweep.jsonl", "hand.jsonl")
"""Drains and deaths of any node; seldom written."""


class NodeNews:
    """The journals below the cluster journal that name these nodes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: dict[str, tuple[int, int]] = {}

    def about(self, nodes: Sequence[str]) -> bool:
        """Whether one of them changed since the last call; the first call about a node is no news."""
        changed = False
        for name in (*_OF_ALL, *(f"nodes/{node}.jsonl" for node in nodes)):
            look, before = _look(self._root / name), self._seen.get(name)
            changed |= before is not None and look != before
            self._seen[name] = look
        return changed


def _look(path: Path) -> tuple[int, int]:
    """Size and time of a file; a file that is not there, or not ours to see, looks empty."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
