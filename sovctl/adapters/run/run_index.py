"""The user's list of submitted runs: one small JSON file a run below XDG_STATE_HOME."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.adapters.own_place import own_place
from sovctl.adapters.run.run_files import read_bounded
from sovctl.model.submitted import SubmittedRun

if TYPE_CHECKING:
    from sovctl.ports.runs import MadeOfFiles

SCHEMA = "sovctl.submitted/1"
_LIMIT = 64 << 10
_FIELDS = tuple(item.name for item in fields(SubmittedRun))


def index_directory(environ: Mapping[str, str]) -> Path:
    """`${XDG_STATE_HOME:-~/.local/state}/sovctl/runs`."""
    return own_place(environ, "XDG_STATE_HOME", ".local/state") / "sovctl" / "runs"


class RunIndexFiles:
    """Implements ports.RunIndex. What cannot be read as an entry is passed over: the list is a convenience."""

    def __init__(self, directory: Path, kept: MadeOfFiles | None = None) -> None:
        """`kept`: what was read of entries before; whoever lists saves it."""
        self._directory = directory
        self._kept = kept

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
            names = os.listdir(self._directory)
        except OSError:
            return ()
        found = (
            self._entry(f"{self._directory}/{name}") for name in names if name.endswith(".json") and name[0] != "."
        )
        return tuple(sorted((run for run in found if run), key=lambda run: (run.submitted, run.job_id), reverse=True))

    def _entry(self, path: str) -> SubmittedRun | None:
        entry = self._kept.recall(path) if self._kept else None
        if isinstance(entry, dict):
            return _entry(entry)
        entry = _read(path)
        if self._kept and entry:
            self._kept.keep(path, entry)
        return _entry(entry)


def _read(path: str) -> dict[str, Any]:
    try:
        entry = json.loads(read_bounded(path, _LIMIT) or b"")
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) and entry.get("schema") == SCHEMA else {}


def _entry(entry: Mapping[str, Any]) -> SubmittedRun | None:
    values = {name: entry.get(name) for name in _FIELDS}
    submitted = values.pop("submitted")
    if isinstance(submitted, bool) or not isinstance(submitted, int):
        return None
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    return SubmittedRun(submitted=submitted, **texts) if texts.keys() == values.keys() else None
