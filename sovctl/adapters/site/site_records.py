"""What the whole site wrote down: every journal below the cluster journal directory, and what nodes show each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sovctl.adapters.journal import FileJournal
from sovctl.adapters.node.node_records import shared_ledgers
from sovctl.errors import SovctlError

_OF_THE_SITE = ("watch", "sweep", "hand", "spare")


class SiteRecordFiles:
    """Implements ports.SiteRecords."""

    def __init__(self, journal_dir: Path) -> None:
        self._directory = journal_dir

    def journals(self) -> dict[str, Path]:
        """Each journal by name: `watch`, `sweep`, `hand`, `spare` and `nodes/<node>`."""
        found = {name: self._directory / f"{name}.jsonl" for name in _OF_THE_SITE}
        try:
            nodes = sorted((self._directory / "nodes").glob("[!.]*.jsonl"))
        except OSError:
            nodes = []
        return found | {f"nodes/{path.stem}": path for path in nodes}

    def entries(self) -> tuple[list[dict[str, Any]], list[str]]:
        """(every entry of every journal, which could not be read)."""
        entries: list[dict[str, Any]] = []
        problems = []
        for name, path in self.journals().items():
            try:
                found = FileJournal(path).events()
            except SovctlError as error:
                problems.append(error.message)
                continue
            if name.startswith("nodes/"):
                node = name.removeprefix("nodes/")
                # A node speaks for itself only.
                found = [entry for entry in found if entry.setdefault("node", node) == node]
            entries += found
        return entries, problems

    def ledgers(self) -> list[Any]:
        """What each node knows of its GPUs."""
        return [record for _, record in shared_ledgers(self._directory / "ledgers")]

    def tallies(self) -> list[Any]:
        """How often the probes of each node were right."""
        return [record for _, record in shared_ledgers(self._directory / "probes")]
