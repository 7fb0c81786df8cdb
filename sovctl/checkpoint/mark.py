"""The mark of a complete checkpoint: `.sovctl-complete.json`, the last file written into it.

It lists every file with its size (and, where wanted, its SHA-256), so that completeness can be proven later without
loading anything. Whoever reads it may be root and whoever wrote it any user: the read is bounded, follows no link,
and is JSON only.
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
LONGEST_BYTES = 32 * 1024 * 1024
"""A mark with 100,000 files and their checksums has about 12 MiB."""


class MarkError(ValueError):
    """The mark is there and cannot be trusted; the text is a clause that says why."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What was true when the checkpoint was committed."""

    step: int
    world_size: int
    """Ranks that wrote it."""
    files: Mapping[str, int]
    """Name in the checkpoint directory -> bytes; without the mark itself."""
    saved_at: float
    """Seconds since the epoch."""
    attempt: int = 0
    run_id: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Name -> hex digest; may be empty."""
    format: str = "dcp"

    @property
    def size_bytes(self) -> int:
        return sum(self.files.values())


def encode_mark(mark: Mark) -> bytes:
    """The mark as JSON with a newline at the end."""
    record = {
        "schema": SCHEMA,
        "format": mark.format,
        "step": mark.step,
        "world_size": mark.world_size,
        "files": dict(sorted(mark.files.items())),
        "sha256": dict(sorted(mark.sha256.items())),
        "saved_at": mark.saved_at,
        "attempt": mark.attempt,
        "run_id": mark.run_id,
    }
    return json.dumps(record, indent=1).encode() + b"\n"


def parse_mark(data: bytes) -> Mark:
    """Read a mark. Raises MarkError."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise MarkError("its mark is not readable as JSON") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise MarkError(f"its mark is not of schema {SCHEMA}")
    saved_at = record.get("saved_at")
    if isinstance(saved_at, bool) or not isinstance(saved_at, int | float) or not 0 <= saved_at < 1e15:
        raise MarkError("its mark has no usable saved_at")
    return Mark(
        step=_count(record, "step"),
        world_size=_count(record, "world_size"),
        files=_files(record.get("files")),
        saved_at=float(saved_at),
        attempt=_count(record, "attempt"),
        run_id=_text(record, "run_id"),
        sha256=_digests(record.get("sha256", {})),
        format=_text(record, "format"),
    )


def read_mark(directory_fd: int) -> Mark | None:
    """The mark of an open checkpoint directory; `None` when there is none. Raises MarkError, OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        mark_fd = os.open(MARK, flags, dir_fd=directory_fd)
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


def _files(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise MarkError("its mark lists no files")
    return {_name(name): _count(value, name) for name in value}


def _digests(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise MarkError("its mark has unusable checksums")
    return {_name(name): _text(value, name) for name in value}


def _name(name: str) -> str:
    """A plain file name: a mark must not make its reader look outside the checkpoint."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise MarkError("its mark names a file outside the checkpoint")
    return name
