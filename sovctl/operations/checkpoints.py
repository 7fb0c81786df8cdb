"""List, prove and pick checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovctl.checkpoint.complete import judge
from sovctl.checkpoint.find import candidates, latest_complete, scan, step_of
from sovctl.errors import CheckpointDirUnreadable, NoCheckpoint, UsageError
from sovctl.model.checkpoint import Checkpoint, CheckpointState

SCHEMA = "sovctl.checkpoints/1"


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: `proven` only when everything asked for could be checked and holds."""

    checkpoint: Checkpoint
    proven: bool
    why: str = ""


def list_checkpoints(directory: Path) -> tuple[Checkpoint, ...]:
    """Every checkpoint in a directory, newest step first. Raises CheckpointDirUnreadable."""
    _must_be_there(directory)
    return scan(directory)


def latest_checkpoint(directory: Path) -> Checkpoint:
    """The newest complete one. Raises NoCheckpoint, CheckpointDirUnreadable."""
    latest = latest_complete(directory)
    if latest is None:
        raise NoCheckpoint(str(directory), len(candidates(directory)))
    return latest


def verify_checkpoint(path: Path, *, deep: bool) -> Verification:
    """Prove one checkpoint; `deep` reads every byte. Raises UsageError when the path names none."""
    path = path.absolute()
    step = step_of(path.name)
    if step is None:
        raise UsageError(
            f"{path} is not a checkpoint: its name is not step-<N>", hint="List them with `sovctl ckpt ls DIR`."
        )
    if not os.path.lexists(path):
        raise UsageError(f"there is no checkpoint {path}", hint="List them with `sovctl ckpt ls DIR`.")
    checkpoint = judge(path, step, deep=deep)
    if checkpoint.state is not CheckpointState.COMPLETE:
        return Verification(checkpoint, proven=False, why=checkpoint.why)
    if deep and not checkpoint.checksums:
        return Verification(
            checkpoint, proven=False, why="its sizes are right, but its mark lacks checksums to compare"
        )
    return Verification(checkpoint, proven=True)


def checkpoint_record(checkpoint: Checkpoint) -> dict[str, Any]:
    """One checkpoint as `--json` prints it."""
    return {
        "path": str(checkpoint.path),
        "step": checkpoint.step,
        "state": checkpoint.state.value,
        "why": checkpoint.why,
        "format": checkpoint.format,
        "size_bytes": checkpoint.size_bytes,
        "saved_at": checkpoint.saved_at or None,
        "world_size": checkpoint.world_size,
        "checksums": checkpoint.checksums,
    }


def _must_be_there(directory: Path) -> None:
    if not directory.exists():
        raise CheckpointDirUnreadable(str(directory), "No such file or directory")
