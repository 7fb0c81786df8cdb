"""The user's list of submitted runs: one small JSON file a run below XDG_STATE_HOME."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sovctl.adapters.run_files import read_bounded
from sovctl.model.submitted import SubmittedRun

SCHEMA = "sovctl.submitted/1"
_LIMIT = 64 << 10
_FIELDS = tuple(item.name for item in fields(SubmittedRun))


def index_directory(environ: Mapping[str, str]) -> Path:
    """`${XDG_STATE_HOME:-~/.local/state}/sovctl/runs`."""
    state = environ.get("XDG_STATE_HOME") or ""
    home = Path(state) if state.startswith("/") else Path(environ.get("HOME") or "/nonexistent") / ".local" / "state"
    return home / "sovctl" / "runs"


class RunIndexFiles:
    """Implements ports.RunIndex. What cannot be read as an entry is passed over: the list is a convenience."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, run: SubmittedRun) -> None:
        """Write the entry; a reader sees all of it or nothing. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._directory / f"{run.job_id}-{run.submitted}.json"
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps({"schema": SCHEMA, **asdict(run)}) + "\n", "utf-8")
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise

    def load(self, job_id: str) -> tuple[SubmittedRun, ...]:
        """Every run with this job id, newest first."""
        return tuple(run for run in self.list() if run.job_id == job_id)

    def list(self) -> tuple[SubmittedRun, ...]:
        """All runs, newest first."""
        try:
            paths = [path for path in self._directory.iterdir() if path.name.endswith(".json")]
        except OSError:
            return ()
        found = (_read(path) for path in paths if not path.name.startswith("."))
        return tuple(sorted((run for run in found if run), key=lambda run: (run.submitted, run.job_id), reverse=True))


def _read(path: Path) -> SubmittedRun | None:
    try:
        entry = json.loads(read_bounded(path, _LIMIT) or b"")
    except (ValueError, RecursionError):
        return None
    return _entry(entry) if isinstance(entry, dict) and entry.get("schema") == SCHEMA else None


def _entry(entry: Mapping[str, Any]) -> SubmittedRun | None:
    values = {name: entry.get(name) for name in _FIELDS}
    submitted = values.pop("submitted")
    if isinstance(submitted, bool) or not isinstance(submitted, int):
        return None
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    return SubmittedRun(submitted=submitted, **texts) if texts.keys() == values.keys() else None
