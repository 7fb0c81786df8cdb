"""The small files a node keeps for its own checks: what it learnt, counted and remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sovctl.adapters.verdict_file import read_trusted, replace_json, replace_text

_JOB = "job-"


class NodeRecordFiles:
    """`NodeRecords`: what belongs to this boot lies in `run_dir`, everything else in `state_dir`."""

    def __init__(self, run_dir: Path, state_dir: Path, inventory: Path | None = None) -> None:
        """`inventory`: a file of the site's own, in place of the one in `state_dir`."""
        self._paths = {
            "memory": run_dir / "memory.json",
            "facts": run_dir / "facts.json",
            "ledger": state_dir / "ledger.json",
            "probes": state_dir / "probes.json",
            "burn-in": state_dir / "burn-in.json",
            "inventory": inventory or state_dir / "inventory.json",
        }
        self._jobs = run_dir / "jobs"

    def path(self, name: str) -> Path:
        """Where a record lies."""
        return self._paths[name] if name in self._paths else self._jobs / f"{name.removeprefix(_JOB)}.json"

    def load(self, name: str) -> Any:
        return read_trusted(self.path(name))

    def present(self, name: str) -> bool:
        return self.path(name).exists()

    def save(self, name: str, record: dict[str, Any]) -> None:
        replace_json(self.path(name), record, durable=name in ("ledger", "inventory", "burn-in"))

    def drop(self, name: str) -> None:
        try:
            self.path(name).unlink()
        except OSError:
            return

    def notice(self, line: str) -> None:
        path = self._jobs.parent / "notice"
        if line or path.exists():
            replace_text(path, line)

    def jobs(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(path.stem for path in self._jobs.glob("[0-9]*.json")))
        except OSError:
            return ()
