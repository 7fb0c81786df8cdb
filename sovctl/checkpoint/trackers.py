"""Tracker files: the one line in which Megatron-LM and DeepSpeed name their newest checkpoint.

Both overwrite it in place, so a crash can leave it empty or ahead of the data. It is read with suspicion and repaired
with a rename.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from sovctl.checkpoint.formats import deepspeed, megatron
from sovctl.checkpoint.formats.registry import step_in
from sovctl.checkpoint.passing import is_passing
from sovctl.model.checkpoint import Checkpoint, Tracker

NAMES = (deepspeed.TRACKER, megatron.TRACKER)
_LONGEST = 4096
_RELEASE = "release"


def read_trackers(directory: Path, names: Iterable[str], steps: Mapping[str, int]) -> tuple[Tracker, ...]:
    """Every tracker in a directory of checkpoints. `steps`: name of each checkpoint there -> its step.

    Raises OSError when the storage fails.
    """
    there = set(names)
    return tuple(_read(directory / name, steps, there) for name in NAMES if name in there)


def repaired_text(tracker: str, checkpoint: Checkpoint) -> str:
    """What a tracker has to say so that the framework takes this checkpoint."""
    return str(checkpoint.step) if tracker == megatron.TRACKER else checkpoint.path.name


def write_tracker(path: Path, text: str) -> None:
    """Replace it whole: temporary file, fsync, rename. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _read(path: Path, steps: Mapping[str, int], names: set[str]) -> Tracker:
    try:
        tracker_fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if is_passing(error):
            raise
        return Tracker(path.name, "", None, f"it cannot be read: {error.strerror}")
    if not stat.S_ISREG(os.fstat(tracker_fd).st_mode):
        os.close(tracker_fd)
        return Tracker(path.name, "", None, "it is not a regular file")
    with open(tracker_fd, "rb") as stream:
        says = stream.read(_LONGEST).decode("utf-8", "replace").strip()
    return _judge(path.name, says, steps, names)


def _judge(name: str, says: str, steps: Mapping[str, int], names: set[str]) -> Tracker:
    shown = says[:80]
    if not says:
        return Tracker(name, "", None, "it is empty")
    if name == megatron.TRACKER:
        if says == _RELEASE:
            lost = "" if _RELEASE in names else "it names `release`, which is not there"
            return Tracker(name, shown, None, lost)
        step = int(says) if says.isascii() and says.isdigit() and len(says) < 19 else None
        if step is None:
            return Tracker(name, shown, None, "it names no iteration")
        there = step in steps.values()
        return Tracker(
            name, shown, step if there else None, "" if there else f"it names step {step}, which is not there"
        )
    if says in steps:
        return Tracker(name, shown, steps[says])
    lost = "" if says in names and step_in(says) is None else "it names a checkpoint that is not there"
    return Tracker(name, shown, None, lost)
