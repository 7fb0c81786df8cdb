"""The mark by which a node's watcher shows that it lives: one small file a node on the shared file system."""

from __future__ import annotations

from pathlib import Path

from sovctl.adapters.verdict_file import read_trusted, replace_json


class AliveFile:
    """`AliveMark` as `<directory>/<node>.json`."""

    def __init__(self, directory: Path, node: str) -> None:
        self._path = directory / f"{node}.json"
        self._node = node

    def refresh(self, boot_id: str, at: float) -> None:
        """Not synced to disk: a mark that a crash loses is what a crash should do to it."""
        replace_json(self._path, {"node": self._node, "boot_id": boot_id, "at": round(at, 3)}, durable=False)


def read_alive(directory: Path) -> dict[str, float]:
    """When each node's watcher was last alive, in seconds since the epoch by the node's own clock."""
    marks: dict[str, float] = {}
    if not directory.is_dir():
        return marks
    for path in directory.glob("[!.]*.json"):
        record = read_trusted(path)
        if isinstance(record, dict) and isinstance(record.get("at"), int | float) and record.get("node") == path.stem:
            marks[path.stem] = float(record["at"])
    return marks
