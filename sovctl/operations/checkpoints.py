"""List, prove and pick checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovctl.checkpoint.complete import judge
from sovctl.checkpoint.find import Shelf, latest_complete, resume_point
from sovctl.checkpoint.formats.registry import AUTO
from sovctl.checkpoint.prove import QUIET_S, Candidate, Terms, mark_of, record, tree_of
from sovctl.errors import CheckpointDirUnreadable, NoCheckpoint, UsageError
from sovctl.model.checkpoint import Checkpoint, CheckpointState, Tracker

SCHEMA = "sovctl.checkpoints/1"


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a directory."""

    checkpoints: tuple[Checkpoint, ...]
    """Newest step first."""
    trackers: tuple[Tracker, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: `proven` only when everything asked for could be checked and holds."""

    checkpoint: Checkpoint
    proven: bool
    why: str = ""
    note: str = ""
    """What a person should know of a proof that holds."""


def list_checkpoints(directory: Path, checkpoint_format: str = AUTO, *, quiet_s: float = QUIET_S) -> Listing:
    """Every checkpoint in a directory. Raises CheckpointDirUnreadable."""
    _must_be_there(directory)
    shelf = Shelf(directory, Terms(checkpoint_format, quiet_s))
    return Listing(tuple(shelf.checkpoint(at) for at in range(len(shelf.candidates))), shelf.trackers)


def latest_checkpoint(directory: Path, checkpoint_format: str = AUTO, *, quiet_s: float = QUIET_S) -> Checkpoint:
    """The newest complete one. Raises NoCheckpoint, CheckpointDirUnreadable."""
    latest = latest_complete(directory, checkpoint_format, quiet_s=quiet_s)
    if latest is None:
        raise NoCheckpoint(str(directory), len(resume_point(directory, checkpoint_format, quiet_s=quiet_s).skipped))
    return latest


def find_checkpoint(path: Path, terms: Terms, step: int | None) -> tuple[Shelf, int]:
    """The directory of checkpoints a path is in, and its place there; with `step` the path may be that directory.

    Raises UsageError when the path names none.
    """
    path = path.absolute()
    if not os.path.lexists(path):
        raise UsageError(f"there is no checkpoint {path}", hint="List them with `sovctl ckpt ls DIR`.")
    if step is not None and path.is_dir():
        shelf = Shelf(path, terms)
        at = next((at for at, one in enumerate(shelf.candidates) if one.step == step), None)
        if at is not None:
            return shelf, at
    shelf = Shelf(path.parent, terms)
    at = shelf.at_path(path, step)
    if at is None:
        raise UsageError(
            f"{path} is not a checkpoint that sovctl knows"
            + ("" if step is None else f", and has none of step {step}"),
            hint="List them with `sovctl ckpt ls DIR`; force a format with --checkpoint-format.",
        )
    return shelf, at


def verify_checkpoint(
    path: Path, terms: Terms | None = None, *, step: int | None = None, deep: bool = False
) -> Verification:
    """Prove one checkpoint and record the proof; `deep` reads every byte.

    Raises UsageError when the path names none.
    """
    terms = terms or Terms()
    shelf, at = find_checkpoint(path, terms, step)
    found, candidate = shelf.checkpoint(at), shelf.candidates[at]
    if deep:
        return _verify_deep(candidate, found, terms)
    if found.state is not CheckpointState.COMPLETE:
        return Verification(found, proven=False, why=found.why)
    return Verification(found, proven=True, note=_unrecorded(found, terms))


def _verify_deep(candidate: Candidate, found: Checkpoint, terms: Terms) -> Verification:
    from sovctl.checkpoint.deep import archive_problem, changed, digests  # hashing is needed by nothing else here

    mark = candidate.own_mark()
    if mark is not None and not mark.is_record:
        return _verify_deep_own(candidate, found)
    if found.state is not CheckpointState.COMPLETE:
        return Verification(found, proven=False, why=found.why)
    tree = tree_of(candidate)
    known = dict(mark.sha256) if mark is not None else {}
    now = digests(tree)
    why = changed(now, known) or archive_problem(tree)
    if why:
        return Verification(found, proven=False, why=why)
    if known:
        return Verification(found, proven=True)
    kept = terms.record and record(candidate, mark_of(found, tree, now))
    said = "its checksums are recorded now" if kept else _unrecorded(found, terms)
    return Verification(found, proven=True, note=f"it had no checksums to compare; {said}" if said else "")


def _verify_deep_own(candidate: Candidate, found: Checkpoint) -> Verification:
    """By the checksums of the training process, which also prove a copy whose times mean nothing."""
    content = judge(candidate.path, candidate.step, deep=True)
    if content.state is not CheckpointState.COMPLETE:
        return Verification(content, proven=False, why=content.why)
    if not content.checksums:
        why = found.why or "its sizes are right, but its mark lacks checksums to compare"
        return Verification(found, proven=False, why=why)
    if found.state is not CheckpointState.COMPLETE:
        mark = candidate.own_mark()
        assert mark is not None
        record(candidate, mark_of(content, tree_of(candidate), dict(mark.sha256)))
    return Verification(content, proven=True)


def _unrecorded(found: Checkpoint, terms: Terms) -> str:
    if found.recorded or not terms.record:
        return ""
    return "the proof could not be recorded there, so it is made again each time"


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
        "recorded": checkpoint.recorded,
    }


def tracker_record(tracker: Tracker) -> dict[str, Any]:
    """One tracker file as `--json` prints it."""
    return {"name": tracker.name, "says": tracker.says, "step": tracker.step, "problem": tracker.problem}


def _must_be_there(directory: Path) -> None:
    if not directory.exists():
        raise CheckpointDirUnreadable(str(directory), "No such file or directory")
