"""A checkpoint on disk, as far as it can be known without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath


class CheckpointState(StrEnum):
    """Only `complete` may be resumed from."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One candidate to resume from."""

    path: PurePath
    step: int
    format: str
    state: CheckpointState
    size_bytes: int = 0
    saved_at: float = 0.0
    """Seconds since the epoch."""
    world_size: int | None = None
    checksums: bool = False
    """Whether every file of it has a recorded checksum, so that `verify --deep` can prove the content."""
    why: str = ""
    """Why it is not complete; empty when it is."""
