"""The files around a submission: the user's script, and the directory its runs are recorded in."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

from sovctl.errors import RunDirUnusable, ScriptUnreadable

_SCRIPT_LIMIT = 64 << 20
"""Far above what slurmctld takes (max_script_size, 4 MB); bounds what is read from /dev/zero."""
_PROBE = b"x" * 4096


class LocalFiles:
    """Implements ports.SubmissionFiles."""

    def read_script(self, name: str, work_dir: str) -> bytes:
        """Find it as sbatch does: from the working directory, then along PATH."""
        path = _find(name, work_dir)
        try:
            with path.open("rb") as file:
                return file.read(_SCRIPT_LIMIT)
        except (OSError, ValueError) as error:
            raise ScriptUnreadable(name, hint=_look(path, name, work_dir)) from error

    def read_stdin(self) -> bytes:
        """All of it; nothing where it was closed (`<&-`), which sbatch refuses as an empty script."""
        return sys.stdin.buffer.read(_SCRIPT_LIMIT) if sys.stdin is not None else b""

    def claim(self, run_root: str, work_dir: str) -> None:
        """Make the directory; write and remove a file in it, so that a full disk is found out now."""
        try:
            root = Path(run_root)
            if root.is_relative_to(work_dir):
                # A mistyped --chdir must not come into being here.
                os.stat(work_dir)
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root) as file:
                file.write(_PROBE)
                file.flush()
        except (OSError, ValueError) as error:
            raise RunDirUnusable(run_root, getattr(error, "strerror", None) or str(error)) from error


def _find(name: str, work_dir: str) -> Path:
    if name.startswith((".", "/")):
        return Path(name)
    for directory in [work_dir, *filter(None, os.environ.get("PATH", "").split(":"))]:
        path = Path(work_dir, directory, name) if directory.startswith(".") else Path(directory, name)
        if _is_file(path):
            return path
    return Path(name)


def _look(path: Path, name: str, work_dir: str) -> str:
    """What to type where there is no such script; empty where something else keeps it from being read."""
    parent = Path(name).parent
    within = parent if name.startswith((".", "/")) else Path(work_dir, parent)
    try:
        path.lstat()
    except FileNotFoundError:
        near = _nearest(within, Path(name).name)
        if near:
            return f"did you mean {near if parent == Path() else parent / near}?"
        return f"See what is there: ls -l {shlex.quote(str(within) if work_dir != os.getcwd() else str(parent))}"  # noqa: PTH109
    except (OSError, ValueError):
        pass
    return ""


def _nearest(directory: Path, name: str) -> str | None:
    import difflib

    try:
        files = [entry.name for entry in os.scandir(directory) if entry.is_file()]
    except OSError:
        return None
    return next(iter(difflib.get_close_matches(name, files, n=1)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except OSError:
        # PATH may name a directory we may not look into (root's, after su without -l).
        return False
