"""The directory of one run on the shared file system, owned by the user.

`run.json`, `events.jsonl` (see journal.py), `attempts/<n>/`, `progress/<rank>`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sovctl.adapters.journal import read_whole
from sovctl.adapters.run.run_output import newest_change
from sovctl.errors import RunDirUnusable
from sovctl.model.progress import LONGEST_BYTES, Progress, parse_progress
from sovctl.ports.supervised import WrittenFile

_LARGEST_RECORD = 256 * 1024
_LARGEST_KEPT = 64 * 1024 * 1024
_MOST_RANKS = 65536
_LONGEST_WORD = 64


_SCONTROL = r"""#!/bin/sh
# Stands before Slurm's scontrol in the PATH of a script that sovctl supervises. Lightning, submitit and NeMo-Run
# requeue their own job with `scontrol requeue JOBID`; two owners of one requeue kill each other's attempts. That one
# request is passed to sovctl, everything else to Slurm.
# As it stands in PATH: a name made otherwise (`..`, a link) would leave us in it, to find ourselves for ever.
here=${0%/*}
PATH=$(printf '%s' "$PATH" | tr ':' '
' | grep -vxF "$here" | tr '
' ':')
PATH=${PATH%:}
export PATH
own=" $SLURM_JOB_ID ${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID }"
asked= mine=
for word; do
    case $word in
        requeue | requeuehold) asked=$word ;;
        *) case $own in *" $word "*) mine=$asked ;; esac ;;
    esac
done
if [ "$mine" ]; then
    echo "sovctl: the $mine of job $SLURM_JOB_ID is left to sovctl, which supervises it" >&2
    mark=${here%/bin}/requeue
    # Never half of the word.
    printf '%s\n' "$mine" >"$mark.$$" && mv "$mark.$$" "$mark" || exit 1
    exit 0
fi
exec scontrol "$@"
"""


class RunDirectory:
    """ports.RunFiles on a real directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self, record: Mapping[str, Any]) -> None:
        """Make the directories; `run.json` is written once and never changed."""
        try:
            for directory in (self.root / "attempts", self.root / "progress"):
                directory.mkdir(parents=True, exist_ok=True)
            path = self.root / "run.json"
            if not path.exists():
                write_atomically(path, json.dumps(record, ensure_ascii=False, indent=1).encode() + b"\n")
        except OSError as error:
            raise RunDirUnusable(str(self.root), error.strerror or str(error)) from error

    def record(self) -> dict[str, Any]:
        """`run.json`, or an empty dict."""
        data = read_bounded(self.root / "run.json", _LARGEST_RECORD)
        with suppress(ValueError, RecursionError):
            record = json.loads(data or b"")
            if isinstance(record, dict):
                return record
        return {}

    def start_attempt(self, attempt: int, name: str, script: bytes) -> str:
        """Put the user's script into the attempt's directory, executable, under its own name."""
        directory = self.root / "attempts" / str(attempt)
        path = directory / (Path(name).name or "script")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(path, script, mode=0o755)
        except OSError as error:
            raise RunDirUnusable(str(directory), error.strerror or str(error)) from error
        return str(path)

    def guard_requeue(self, attempt: int) -> str:
        """Put our `scontrol` into the attempt's directory; a full disk must not keep the script from running."""
        directory = self.root / "attempts" / str(attempt) / "bin"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(directory / "scontrol", _SCONTROL.encode(), mode=0o755)
        except OSError:
            return ""
        return str(directory)

    def put_before(self, attempt: int, name: str, text: str) -> str:
        """Put a program beside it. Unlike the guard it is needed: without it a step would run outside its image."""
        directory = self.root / "attempts" / str(attempt) / "bin"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(directory / name, text.encode(), mode=0o755)
        except OSError as error:
            raise RunDirUnusable(str(directory), error.strerror or str(error)) from error
        return str(directory)

    def requeue_asked(self, attempt: int) -> str:
        """The mark that our `scontrol` leaves."""
        said = read_bounded(self.root / "attempts" / str(attempt) / "requeue", _LONGEST_WORD)
        if said is None:
            return ""
        return "requeuehold" if said.strip() == b"requeuehold" else "requeue"

    def ask_stop(self, attempt: int, why: str) -> None:
        """Leave the mark that RunContext.stop_requested looks for; a full disk must not stop the supervisor."""
        with suppress(OSError):
            (self.root / "attempts" / str(attempt) / "stop").write_text(f"{why}\n", "utf-8")

    def keep(self, attempt: int, name: str, data: bytes) -> str:
        """Put a file beside the script of an attempt; returns what went wrong, empty when nothing did."""
        try:
            write_atomically(self.root / "attempts" / str(attempt) / name, data[:_LARGEST_KEPT])
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def kept(self, attempt: int, name: str) -> Any:
        """The JSON in such a file; None when it is not there or no JSON."""
        data = read_bounded(self.root / "attempts" / str(attempt) / name, _LARGEST_KEPT)
        with suppress(ValueError, RecursionError):
            return json.loads(data) if data else None
        return None

    def changed(self, directory: str) -> float:
        """When something in a directory of checkpoints last changed."""
        return newest_change(Path(directory))

    def progress(self, rank: int) -> Progress | None:
        """The newest word of one rank."""
        data = read_bounded(self.root / "progress" / str(rank), LONGEST_BYTES)
        return parse_progress(data) if data else None

    def all_progress(self) -> tuple[Progress, ...]:
        """The newest word of every rank that has one."""
        try:
            names = [name for name in os.listdir(self.root / "progress") if name.isdigit()]
        except OSError:
            return ()
        found = (self.progress(int(name)) for name in sorted(names, key=int)[:_MOST_RANKS])
        return tuple(item for item in found if item is not None)


class FileTail:
    """ports.OutputTail: only regular files, only their end."""

    def __init__(self, size_bytes: int = 64 * 1024, own: Sequence[int] = (1, 2)) -> None:
        """`own`: the descriptors that are the job's output."""
        self._size = size_bytes
        self._own = own
        self._begun: dict[tuple[int, int], int] = {}
        self._followed: dict[str, None] = {}

    def follow(self, file: WrittenFile) -> None:
        """One more file; what was appended to it before is no word of this attempt."""
        self._followed[file.path] = None
        # One that is not appended to has just been cut by this attempt.
        self._begin_at_end(file.path, cut=not file.appended)

    def _begin_at_end(self, path: str, *, cut: bool = False) -> None:
        with suppress(OSError):
            status = os.stat(path)
            self._begun[status.st_dev, status.st_ino] = 0 if cut else status.st_size

    def begin(self) -> None:
        """From here on only what is new counts. Where the output was cut short since, all of it is new."""
        for path in self._followed:
            self._begin_at_end(path)
        for descriptor in self._own:
            with suppress(OSError):
                status = os.fstat(descriptor)
                self._begun[status.st_dev, status.st_ino] = status.st_size

    def read(self, path: str) -> str:
        """The end of the file, undecodable bytes replaced."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            return ""
        with suppress(OSError), os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return ""
            begun = self._begun.get((status.st_dev, status.st_ino), 0)
            file.seek(max(begun if begun <= status.st_size else 0, status.st_size - self._size))
            return file.read(self._size).decode("utf-8", "replace")
        return ""

    def size(self, path: str) -> int | None:
        """Its size in bytes, or None."""
        try:
            return os.stat(path).st_size
        except (OSError, ValueError):
            return None


def read_bounded(path: Path | str, longest: int) -> bytes | None:
    """A small regular file, no symlink followed; None when absent, larger than `longest` bytes or not regular."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        data = read_whole(descriptor, min(status.st_size, longest) + 1)
    except OSError:
        # ESTALE: another client has replaced it since it was opened; the next look finds the new one.
        return None
    finally:
        os.close(descriptor)
    return data if len(data) <= longest else None


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Temp file, fsync, rename: a reader sees the old content or the new, never half. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
