"""Takes checkpoints out of a framework's sight: broken ones into quarantine, old ones by retention.

Nothing is deleted unless that was asked for in so many words, what is proven newest always stays, and a tracker file
that named what went is repaired, so that the framework does not fail on it or start from step 0.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from sovctl.checkpoint.find import Shelf
from sovctl.checkpoint.formats.registry import FORMATS
from sovctl.checkpoint.prove import Candidate, Terms
from sovctl.checkpoint.trackers import repaired_text, write_tracker
from sovctl.errors import RefusedError, SovctlError, UsageError
from sovctl.model.checkpoint import Checkpoint, CheckpointState, Tracker
from sovctl.operations.checkpoints import find_checkpoint

QUARANTINE = ".quarantine"
_SLUG = re.compile(r"[^a-z0-9]+")
_LONGEST_SLUG = 40


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to be done, or was."""

    moves: tuple[tuple[Path, Path], ...] = ()
    deletes: tuple[Path, ...] = ()
    writes: tuple[tuple[Path, str], ...] = ()
    """Tracker file and its new text."""
    notes: tuple[str, ...] = ()

    @property
    def commands(self) -> tuple[str, ...]:
        """The same as a person would type it."""
        made = dict.fromkeys(target.parent for _, target in self.moves)
        return (
            *(f"mkdir -p {shlex.quote(str(parent))}" for parent in made),
            *(f"mv -nT {shlex.quote(str(source))} {shlex.quote(str(target))}" for source, target in self.moves),
            *(f"rm -r {shlex.quote(str(path))}" for path in self.deletes),
            *(f"printf %s {shlex.quote(text)} > {shlex.quote(str(path))}" for path, text in self.writes),
        )


def plan_quarantine(
    path: Path, terms: Terms, *, step: int | None = None, reason: str = "", even_complete: bool = False
) -> Plan:
    """Rename one checkpoint into `.quarantine/<step>-<reason>` and repair the trackers.

    Raises UsageError, RefusedError for one that is complete or that a job may be writing.
    """
    shelf, at = find_checkpoint(path, terms, step)
    found, candidate = shelf.checkpoint(at), shelf.candidates[at]
    if found.state is CheckpointState.WRITING:
        raise RefusedError(f"{path} may still be written: {found.why}", hint="Look again in a minute: sovctl ckpt ls")
    if found.state is CheckpointState.COMPLETE and not even_complete:
        raise RefusedError(f"{path} is proven complete", hint="To set it aside all the same, add --even-complete.")
    directory = candidate.directory
    target = _free(directory / QUARANTINE / f"{candidate.step}-{_slug(reason or found.why or 'by-hand')}")
    writes, notes = _repairs(shelf, directory, gone={at})
    return Plan(_moves(candidate, target), writes=writes, notes=notes)


def plan_prune(directory: Path, terms: Terms, keep: int, *, delete: bool = False) -> Plan:
    """Keep the `keep` newest proven steps and what a tracker names; incomplete ones neither count nor go.

    Without `delete` the others are renamed into `.quarantine/<step>-pruned`.
    Raises UsageError, CheckpointDirUnreadable.
    """
    if keep < 1:
        raise UsageError(
            "--keep must be at least 1: the newest proven checkpoint always stays",
            hint="Type: sovctl ckpt prune --keep 1",
        )
    shelf = Shelf(directory, terms)
    proven = [at for at in range(len(shelf.candidates)) if shelf.checkpoint(at).state is CheckpointState.COMPLETE]
    steps = sorted({shelf.candidates[at].step for at in proven}, reverse=True)
    kept = set(steps[:keep]) | {tracker.step for tracker in shelf.trackers}
    old = [shelf.candidates[at] for at in proven if shelf.candidates[at].step not in kept]
    if delete:
        return Plan(deletes=tuple(path for one in old for path in _paths(one)))
    places = {one.step: _free(directory / QUARANTINE / f"{one.step}-pruned") for one in old}
    many = {step for step in places if sum(one.step == step for one in old) > 1}
    return Plan(
        tuple(
            move
            for one in old
            for move in _moves(one, places[one.step] / one.path.name if one.step in many else places[one.step])
        )
    )


def carry_out(plan: Plan) -> None:
    """Do it: renames first, then the trackers. Raises SovctlError where the file system refuses."""
    try:
        for source, target in plan.moves:
            _make(target.parent)
            source.rename(target)
        for path in plan.deletes:
            _delete(path)
        for path, text in plan.writes:
            write_tracker(path, text)
    except OSError as error:
        raise SovctlError(
            f"cannot change {error.filename or 'the directory'}: {error.strerror}",
            hint="What was done stands; see why with `df -h` and `ls -ld`, and the same command goes on from there.",
        ) from error


def _moves(candidate: Candidate, target: Path) -> tuple[tuple[Path, Path], ...]:
    if not candidate.names:
        return ((candidate.path, target),)
    return tuple((path, target / path.relative_to(candidate.base)) for path in _paths(candidate))


def _paths(candidate: Candidate) -> list[Path]:
    """Everything of a candidate that is there, with the mark beside it."""
    if not candidate.names:
        return [candidate.path]
    names = [*candidate.names, candidate.mark]
    return [candidate.base / name for name in names if os.path.lexists(candidate.base / name)]


def _repairs(shelf: Shelf, directory: Path, gone: set[int]) -> tuple[tuple[tuple[Path, str], ...], tuple[str, ...]]:
    """The new text of every tracker that names what goes, or nothing."""
    writes: list[tuple[Path, str]] = []
    notes: list[str] = []
    steps = {shelf.candidates[at].step for at in gone}
    for tracker in shelf.trackers:
        if tracker.step not in steps and not tracker.problem:
            continue
        newest = _newest_of(shelf, tracker, gone)
        if newest is None:
            notes.append(f"{tracker.name} is left as it is: there is no complete checkpoint that it could name")
        else:
            writes.append((directory / tracker.name, repaired_text(tracker.name, newest)))
    return tuple(writes), tuple(notes)


def _newest_of(shelf: Shelf, tracker: Tracker, gone: set[int]) -> Checkpoint | None:
    for at in range(len(shelf.candidates)):
        found = shelf.checkpoint(at)
        fits = found.format in FORMATS and tracker.name in FORMATS[found.format].TRACKERS
        if at not in gone and fits and found.state is CheckpointState.COMPLETE:
            return found
    return None


def _slug(words: str) -> str:
    return _SLUG.sub("-", words.lower())[:_LONGEST_SLUG].strip("-") or "by-hand"


def _free(target: Path) -> Path:
    number = 1
    found = target
    while os.path.lexists(found):
        number += 1
        found = target.with_name(f"{target.name}-{number}")
    return found


def _make(directory: Path) -> None:
    """The folders of the quarantine, none of them a link to somewhere else."""
    for parent in reversed([directory, *directory.parents]):
        if parent.name == QUARANTINE or QUARANTINE in parent.parts:
            parent.mkdir(exist_ok=True)
            if not stat.S_ISDIR(os.lstat(parent).st_mode):
                raise NotADirectoryError(20, "it is not a directory", str(parent))


def _delete(path: Path) -> None:
    """Renamed before it is emptied, so that half of one never looks like a checkpoint."""
    retired = _free(path.with_name(f".retired-{path.name.lstrip('.')}"))
    path.rename(retired)
    if retired.is_dir() and not retired.is_symlink():
        shutil.rmtree(retired)
    else:
        retired.unlink()
