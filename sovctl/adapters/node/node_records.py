"""The small files a node keeps for its own checks: what it learnt, counted and remembered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sovctl.adapters.node.verdict_file import read_trusted, replace_json, replace_text

_JOB = "job-"
_SHOWN_EVERY_S = 600.0


class NodeRecordFiles:
    """`NodeRecords`: what belongs to this boot lies in `run_dir`, everything else in `state_dir`."""

    def __init__(
        self, run_dir: Path, state_dir: Path, inventory: Path | None = None, shared: Path | None = None
    ) -> None:
        """`inventory`: a file of the site's own, in place of the one in `state_dir`. `shared`: where this node's ledger
        is shown to the others, `<journal_dir>/ledgers/<node>.json`."""
        self._paths = {
            "memory": run_dir / "memory.json",
            "facts": run_dir / "facts.json",
            "ledger": state_dir / "ledger.json",
            "probes": state_dir / "probes.json",
            "burn-in": state_dir / "burn-in.json",
            "inventory": inventory or state_dir / "inventory.json",
        }
        self._jobs = run_dir / "jobs"
        self._shared = shared

    def path(self, name: str) -> Path:
        """Where a record lies."""
        return self._paths[name] if name in self._paths else self._jobs / f"{name.removeprefix(_JOB)}.json"

    def load(self, name: str) -> Any:
        return read_trusted(self.path(name))

    def present(self, name: str) -> bool:
        return self.path(name).exists()

    def save(self, name: str, record: dict[str, Any]) -> None:
        replace_json(self.path(name), record, durable=name in ("ledger", "inventory", "burn-in"))
        if name == "ledger" and self._shared is not None:
            replace_json(self._shared, record, durable=False)
        if name == "probes" and self._shared is not None:
            self._show_tally(self._shared.parent.parent / "probes" / self._shared.name, record)

    def _show_tally(self, path: Path, record: dict[str, Any]) -> None:
        """For `sovctl report`. Saved at each look, shown seldom: a shared file system has better things to do."""
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < _SHOWN_EVERY_S:
                return
        with suppress(OSError):
            replace_json(path, record, durable=False)

    def drop(self, name: str) -> None:
        try:
            self.path(name).unlink()
        except OSError:
            return

    def notice(self, line: str) -> None:
        path = self._jobs.parent / "notice"
        if line or path.exists():
            replace_text(path, line)

    def ledgers(self) -> tuple[Any, ...]:
        if self._shared is None:
            return ()
        return tuple(record for path, record in shared_ledgers(self._shared.parent) if path != self._shared)

    def jobs(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(path.stem for path in self._jobs.glob("[0-9]*.json")))
        except OSError:
            return ()


class LedgerFiles:
    """`Ledgers`: what the nodes show each other in `<journal_dir>/ledgers/`, and the list of lemons made of it."""

    def __init__(self, journal_dir: Path) -> None:
        self._directory = journal_dir / "ledgers"
        self._lemons = journal_dir / "lemons.json"

    def changed(self, since: float) -> bool:
        """A replaced file changes its directory; one second for file systems that round."""
        try:
            return self._directory.stat().st_mtime >= since - 1.0
        except OSError:
            return False

    def all(self) -> dict[str, tuple[float, Any]]:
        found = {}
        for path, record in shared_ledgers(self._directory):
            with suppress(OSError):
                found[path.stem] = (path.stat().st_mtime, record)
        return found

    def lemons(self) -> Any:
        return read_trusted(self._lemons)

    def save_lemons(self, record: dict[str, Any]) -> None:
        replace_json(self._lemons, record, durable=False)


def shared_ledgers(directory: Path) -> Iterator[tuple[Path, Any]]:
    """Every ledger that can be read."""
    try:
        paths = sorted(directory.glob("[!.]*.json"))
    except OSError:
        return
    for path in paths:
        record = read_trusted(path)
        if record is not None:
            yield path, record
