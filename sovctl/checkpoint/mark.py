"""The mark of a complete checkpoint: `.sovctl-complete.json`, the last file written into it.

It lists every file with its size (and, where wanted, its SHA-256), so that completeness can be proven later without
loading anything. Schema 1 is written by the training process as part of its save. Schema 2 is the record of a proof
that `sovctl` made afterwards of a checkpoint in any format: names may have `/` in them, and the time of each file is
kept, so that one that was written to since is noticed. Whoever reads it may be root and whoever wrote it any user:
the read is bounded, follows no link, and is JSON only.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MARK = ".sovctl-complete.json"
SCHEMA = "sovctl.checkpoint/1"
RECORD_SCHEMA = "sovctl.checkpoint/2"
LONGEST_BYTES = 32 * 1024 * 1024
"""A mark with 100,000 files and their checksums has about 12 MiB."""
BESIDE = ".{}.sovctl-complete.json"
"""The mark of a checkpoint that is no directory: hidden, beside it, with its name."""


class MarkError(ValueError):
    """The mark is there and cannot be trusted; the text is a clause that says why."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What was true when the checkpoint was committed."""

    step: int
    world_size: int
    """Ranks that wrote it; 0 in a record: nothing tells."""
    files: Mapping[str, int]
    """Name in the checkpoint directory -> bytes; without the mark itself. A record may have `/` in names."""
    saved_at: float
    """Seconds since the epoch."""
    attempt: int = 0
    run_id: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Name -> hex digest; may be empty."""
    format: str = "dcp"
    modified_ns: Mapping[str, int] = field(default_factory=dict)
    """Name -> time of last change as the file system gave it; of a record, all of its files."""

    @property
    def is_record(self) -> bool:
        """Whether sovctl proved it after the save, rather than the training process as part of it."""
        return bool(self.modified_ns)

    @property
    def size_bytes(self) -> int:
        return sum(self.files.values())


def encode_mark(mark: Mark) -> bytes:
    """The mark as JSON with a newline at the end."""
    record = {
        "schema": RECORD_SCHEMA if mark.is_record else SCHEMA,
        "format": mark.format,
        "step": mark.step,
        "world_size": mark.world_size,
        "files": dict(sorted(mark.files.items())),
        "sha256": dict(sorted(mark.sha256.items())),
        "saved_at": mark.saved_at,
        "attempt": mark.attempt,
        "run_id": mark.run_id,
    }
    if mark.is_record:
        record["modified_ns"] = dict(sorted(mark.modified_ns.items()))
    return json.dumps(record, indent=1).encode() + b"\n"


def parse_mark(data: bytes) -> Mark:
    """Read a mark. Raises MarkError."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise MarkError("its mark is not readable as JSON") from None
    if not isinstance(record, dict) or record.get("schema") not in (SCHEMA, RECORD_SCHEMA):
        raise MarkError(f"its mark is not of schema {SCHEMA}")
    proof = record["schema"] == RECORD_SCHEMA
    saved_at = record.get("saved_at")
    if isinstance(saved_at, bool) or not isinstance(saved_at, int | float) or not 0 <= saved_at < 1e15:
        raise MarkError("its mark has no usable saved_at")
    return Mark(
        step=_count(record, "step"),
        world_size=_count(record, "world_size"),
        files=_files(record.get("files"), proof),
        saved_at=float(saved_at),
        attempt=_count(record, "attempt"),
        run_id=_text(record, "run_id"),
        sha256=_digests(record.get("sha256", {}), proof),
        format=_text(record, "format"),
        modified_ns=_times(record) if proof else {},
    )


def read_mark(directory_fd: int, name: str = MARK) -> Mark | None:
    """The mark of an open checkpoint directory; `None` when there is none. Raises MarkError, OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        mark_fd = os.open(name, flags, dir_fd=directory_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise MarkError("its mark is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(mark_fd).st_mode):
        os.close(mark_fd)
        raise MarkError("its mark is not a regular file")
    with open(mark_fd, "rb") as stream:
        data = stream.read(LONGEST_BYTES + 1)
    if len(data) > LONGEST_BYTES:
        raise MarkError(f"its mark is longer than {LONGEST_BYTES} bytes")
    return parse_mark(data)


def _count(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise MarkError(f"its mark has no usable {key}")
    return value


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise MarkError(f"its mark has no usable {key}")
    return value


def _files(value: object, nested: bool) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise MarkError("its mark lists no files")
    return {_name(name, nested): _count(value, name) for name in value}


def _digests(value: object, nested: bool) -> dict[str, str]:
    if not isinstance(value, dict):
        raise MarkError("its mark has unusable checksums")
    return {_name(name, nested): _text(value, name) for name in value}


def _times(record: Mapping[str, Any]) -> dict[str, int]:
    times = record.get("modified_ns")
    if not isinstance(times, dict) or times.keys() != record["files"].keys():
        raise MarkError("its mark has no usable modified_ns")
    return {name: _count(times, name) for name in times}


def _name(name: str, nested: bool) -> str:
    """A plain name, or in a record several with `/` between: a mark must not make its reader look outside."""
    parts = name.split("/") if nested else [name]
    if any(not part or "/" in part or "\0" in part or part in (".", "..") for part in parts):
        raise MarkError("its mark names a file outside the checkpoint")
    return name
