"""Which checkpoints lie in a directory, newest step first, and which of them is the newest complete one."""

from __future__ import annotations

import re
from pathlib import Path

from sovctl.checkpoint.complete import judge
from sovctl.errors import CheckpointDirUnreadable
from sovctl.model.checkpoint import Checkpoint, CheckpointState

_STEP_NAME = re.compile(r"step-(0|[1-9]\d{0,17})", re.ASCII)


def step_of(name: str) -> int | None:
    """The step a directory name speaks of; `None` when it is no checkpoint's name."""
    match = _STEP_NAME.fullmatch(name)
    return int(match[1]) if match else None


def candidates(directory: Path) -> list[tuple[int, Path]]:
    """(step, path) of everything named like a checkpoint, newest step first; a directory that is not there has none.

    Raises CheckpointDirUnreadable: a directory that cannot be listed must never look like an empty one.
    """
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointDirUnreadable(str(directory), error.strerror or str(error)) from error
    found = [(step, directory / name) for name in names if (step := step_of(name)) is not None]
    return sorted(found, reverse=True)


def scan(directory: Path) -> tuple[Checkpoint, ...]:
    """Judge every candidate, newest step first. Raises CheckpointDirUnreadable."""
    return tuple(judge(path, step) for step, path in candidates(directory))


def latest_complete(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is proven complete. Raises CheckpointDirUnreadable."""
    for step, path in candidates(directory):
        checkpoint = judge(path, step)
        if checkpoint.state is CheckpointState.COMPLETE:
            return checkpoint
    return None
