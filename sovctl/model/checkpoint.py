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
    WRITING = "writing"
    """Changed so recently that a job may still be at it."""


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
    recorded: bool = False
    """Whether its mark says so, so that the next look costs only a stat of each file."""
    unanswered: bool = False
    """Its storage failed while it was looked at: it may be whole."""


@dataclass(frozen=True, slots=True)
class Tracker:
    """A file beside the checkpoints in which a framework names its newest one."""

    name: str
    says: str
    """Its text, shortened."""
    step: int | None
    """The step of the checkpoint it names; `None` when that is not there."""
    problem: str = ""
    """Why a framework that reads it would not find a checkpoint; empty when it would."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """From where a run goes on."""

    checkpoint: Checkpoint | None
    """The newest proven complete one; `None`: from step 0."""
    skipped: tuple[Checkpoint, ...] = ()
    """Newer ones that are not proven, newest first."""

    @property
    def loses(self) -> str:
        """Why a start from step 0 would leave data behind, as a sentence; empty when it would not."""
        if self.checkpoint is not None or not self.skipped:
            return ""
        newest = self.skipped[0]
        count = len(self.skipped)
        others = f" (and {count - 1} more that are not)" if count > 1 else ""
        return f"there are checkpoints, but none is proven complete: {newest.path.name}: {newest.why}{others}"
