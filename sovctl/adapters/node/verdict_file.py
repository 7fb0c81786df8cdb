"""`verdict.json` and `cursor.json` of a node: replaced whole, read with distrust."""

from __future__ import annotations

import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sovctl.errors import SovctlError
from sovctl.model.verdict import Verdict
from sovctl.model.verdict_json import verdict_from_record, verdict_record

LARGEST = 256 * 1024
"""Bytes; a verdict is a few hundred, so a larger file is not one."""


class NodeFileUnusable(SovctlError):
    """A file that sovctl keeps on the node cannot be written."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"cannot write {path}: {cause}", hint="Run as root, or set node.run_dir and node.state_dir.")


class VerdictFile:
    """`VerdictStore` in a directory that a reboot empties: both belong to one boot."""

    def __init__(self, run_dir: Path, state_dir: Path, boot_id: str) -> None:
        """`boot_id`: of the running kernel; a verdict of another boot is not loaded."""
        self._verdict = run_dir / "verdict.json"
        # Not in state_dir, whose disk may be full: what cannot be written down is read and acted on again and again.
        self._cursor = run_dir / "cursor.json"
        self._older = state_dir / "cursor.json"
        """Where it was up to 1.0; to be read until the next reboot."""
        self._boot_id = boot_id

    def load(self) -> Verdict | None:
        verdict = verdict_from_record(read_trusted(self._verdict))
        return verdict if verdict is not None and verdict.boot_id == self._boot_id else None

    def save(self, verdict: Verdict, valid_for_s: float) -> None:
        replace_json(self._verdict, verdict_record(verdict, valid_for_s))

    def cursor(self, boot_id: str) -> int:
        return max(_sequence(read_trusted(path), boot_id) for path in (self._cursor, self._older))

    def save_cursor(self, boot_id: str, sequence: int) -> None:
        replace_json(self._cursor, {"boot_id": boot_id, "sequence": sequence})


def _sequence(record: Any, boot_id: str) -> int:
    if not isinstance(record, dict) or record.get("boot_id") != boot_id:
        return 0
    sequence = record.get("sequence")
    return sequence if type(sequence) is int and sequence >= 0 else 0


def replace_json(path: Path, record: dict[str, Any], *, durable: bool = True) -> None:
    """Write one JSON object, see replace_text."""
    replace_text(path, json.dumps(record, ensure_ascii=False), durable=durable)


def replace_text(path: Path, line: str, *, durable: bool = False) -> None:
    """Write a file of mode 0644 in one step: readers see the old content or the new. Raises NodeFileUnusable."""
    temporary = ""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, temporary = _new_file(path)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(f"{line}\n" if line else "")
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        Path(temporary).rename(path)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                Path(temporary).unlink()
        raise NodeFileUnusable(path, error.strerror or str(error)) from error


def _new_file(path: Path) -> tuple[int, str]:
    """A file beside `path` that nobody else has. The import of tempfile costs a prolog as much as its checks."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        name = f"{path.parent}/.{path.name}.{os.getpid()}-{time.monotonic_ns():x}"
        with suppress(FileExistsError):
            return os.open(name, flags, 0o600), name


def read_trusted(path: Path) -> Any:
    """The JSON in a file that root or we wrote, or None: absent, a link, somebody else's, too large, not JSON."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_size > LARGEST:
                return None
            return json.loads(stream.read(LARGEST + 1).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
