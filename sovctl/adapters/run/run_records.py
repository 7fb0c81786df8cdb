"""Reads the directories of runs that others wrote, with bounds and distrust."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sovctl.adapters.journal import FileJournal
from sovctl.adapters.run.run_files import RunDirectory
from sovctl.errors import SovctlError
from sovctl.model.progress import Progress

_MOST_RUNS = 100_000


class RunRecordFiles:
    """Implements ports.RunRecords."""

    def below(self, run_root: str) -> tuple[str, ...]:
        """Directories that look like runs: no symlinks, none hidden."""
        try:
            with os.scandir(run_root) as entries:
                found = [entry.path for entry in entries if not entry.name.startswith(".") and looks_like_run(entry)]
        except (OSError, ValueError):
            return ()
        return tuple(sorted(found)[:_MOST_RUNS])

    def owner(self, run_dir: str) -> int | None:
        """The uid of its events; None: there are none."""
        try:
            return os.lstat(Path(run_dir, "events.jsonl")).st_uid
        except (OSError, ValueError):
            return None

    def record(self, run_dir: str) -> dict[str, Any]:
        """`run.json`, or an empty dict."""
        return RunDirectory(Path(run_dir)).record() if _named(run_dir) else {}

    def events(self, run_dir: str, newest_only: str = "") -> list[dict[str, Any]]:
        """Every whole line of events.jsonl; none when it cannot be read."""
        try:
            return FileJournal(Path(run_dir) / "events.jsonl").events(newest_only)
        except (SovctlError, ValueError):
            return []

    def progress(self, run_dir: str) -> tuple[Progress, ...]:
        """The newest word of every rank."""
        return RunDirectory(Path(run_dir)).all_progress() if _named(run_dir) else ()

    def kept(self, run_dir: str, attempt: int, name: str) -> Any:
        """The JSON in a file of an attempt, or None."""
        return RunDirectory(Path(run_dir)).kept(attempt, name) if _named(run_dir) else None


def looks_like_run(entry: os.DirEntry[str]) -> bool:
    """By its name; a link is none."""
    try:
        return entry.is_dir(follow_symlinks=False) and entry.name.count("-") >= 2
    except OSError:
        return False


def _named(path: str) -> bool:
    return bool(path) and "\0" not in path
