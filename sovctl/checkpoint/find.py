"""Which checkpoints lie in a directory, newest step first, which is the newest complete one, and what it skips."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sovctl.checkpoint.formats import lightning, nvrx, safetensors
from sovctl.checkpoint.formats.layout import Beside
from sovctl.checkpoint.formats.registry import AUTO, FORMATS, is_telling, is_temporary, recognise, says_step, step_in
from sovctl.checkpoint.mark import MARK
from sovctl.checkpoint.passing import is_passing
from sovctl.checkpoint.prove import QUIET_S, Candidate, Proof, Sibling, Terms, file_mark, prove
from sovctl.checkpoint.trackers import read_trackers
from sovctl.checkpoint.tree import file_tree, top_names
from sovctl.errors import CheckpointDirUnreadable, CheckpointUnanswered
from sovctl.model.checkpoint import Checkpoint, CheckpointState, ResumePoint, Tracker

_STEP_NAME = re.compile(r"step-(0|[1-9]\d{0,17})", re.ASCII)
_SIBLINGS_TRIED = 3
_PART = re.compile(r"-\d+-of-\d+\.safetensors$", re.ASCII)
"""A file of several, in the directory of one checkpoint."""


def step_of(name: str) -> int | None:
    """The step a directory of our own format speaks of; `None` when it is no such name."""
    match = _STEP_NAME.fullmatch(name)
    return int(match[1]) if match else None


def candidates(directory: Path) -> list[tuple[int, Path]]:
    """(step, path) of everything named `step-<N>`, newest step first; a directory that is not there has none.

    Raises CheckpointDirUnreadable: a directory that cannot be listed must never look like an empty one.
    """
    found = [(step, directory / name) for name in _names(directory) if (step := step_of(name)) is not None]
    return sorted(found, reverse=True)


def scan(directory: Path, terms: Terms | None = None) -> tuple[Checkpoint, ...]:
    """Judge every checkpoint of every format, newest step first. Raises CheckpointDirUnreadable."""
    shelf = Shelf(directory, terms)
    return tuple(shelf.checkpoint(at) for at in range(len(shelf.candidates)))


def latest_complete(directory: Path, checkpoint_format: str = AUTO, *, quiet_s: float = QUIET_S) -> Checkpoint | None:
    """The newest checkpoint that is proven complete; `quiet_s` 0: whoever wrote them is known to be over.

    Raises CheckpointDirUnreadable.
    """
    return resume_point(directory, checkpoint_format, quiet_s=quiet_s).checkpoint


def resume_point(
    directory: Path, checkpoint_format: str = AUTO, *, quiet_s: float = QUIET_S, record: bool = True
) -> ResumePoint:
    """From where a run goes on, which newer checkpoints it skips and why, and whether a start from step 0 loses any.

    Raises CheckpointDirUnreadable, also when the storage failed while a checkpoint was looked at that may be the one.
    """
    shelf = Shelf(directory, Terms(checkpoint_format, quiet_s, record=record))
    skipped: list[Checkpoint] = []
    for at in range(len(shelf.candidates)):
        found = shelf.checkpoint(at)
        if found.state is CheckpointState.COMPLETE:
            return ResumePoint(found, tuple(skipped))
        if found.unanswered:
            raise CheckpointUnanswered(str(found.path), found.why)
        skipped.append(found)
    return ResumePoint(None, tuple(skipped))


class Shelf:
    """A directory of checkpoints; each is judged when it is asked for, and once."""

    def __init__(self, directory: Path, terms: Terms | None = None) -> None:
        """Raises CheckpointDirUnreadable."""
        self._directory = directory
        self._terms = terms or Terms()
        self._names = frozenset(_names(directory))
        with _answering(directory):
            self.candidates = sorted(self._find(), key=lambda one: (one.step, one.path.name), reverse=True)
            self.trackers: tuple[Tracker, ...] = read_trackers(directory, self._names, self._by_name())
        self._tracked: Mapping[str, int | None] = {one.name: one.step for one in self.trackers}
        self._proofs: dict[int, Proof] = {}

    def checkpoint(self, at: int) -> Checkpoint:
        """The judgement of `candidates[at]`."""
        return self._proof(at).checkpoint

    def at_path(self, path: Path, step: int | None = None) -> int | None:
        """Which candidate this is; `step` tells those apart that share a directory (NVRx)."""
        for at, one in enumerate(self.candidates):
            if one.path.name == path.name and one.path == self._directory / path.name and step in (None, one.step):
                return at
            if one.path == self._directory == path and step == one.step:
                return at
        return None

    def _proof(self, at: int) -> Proof:
        if at not in self._proofs:
            one = self.candidates[at]
            self._proofs[at] = prove(one, self._beside(one), self._terms, self._sibling_of(at))
        return self._proofs[at]

    def _sibling_of(self, at: int) -> Callable[[], Sibling | None]:
        """Only the newest is compared: once training has gone on after a save, that save was over, and a run that
        changed its shape must not have every later checkpoint refused."""

        def find() -> Sibling | None:
            if at > 0:
                return None
            mine = self.candidates[at]
            alone = Terms(self._terms.format, 0.0, alone=True, record=False)
            for other in self.candidates[at + 1 : at + 1 + _SIBLINGS_TRIED]:
                found = prove(other, self._beside(other), alone, lambda: None).sibling
                if found is not None and other.step != mine.step:
                    return found
            return None

        return find

    def _beside(self, one: Candidate) -> Beside:
        names = frozenset(one.names) if one.format == nvrx.NAME else self._names
        return Beside(one.path.name, one.step, names, self._tracked)

    def _by_name(self) -> dict[str, int]:
        return {one.path.name: one.step for one in self.candidates}

    def _find(self) -> list[Candidate]:
        asked = self._terms.format
        found = [one for name in sorted(self._names) if (one := self._entry(name, asked)) is not None]
        if asked not in (AUTO, nvrx.NAME):
            return found
        steps = nvrx.iterations(self._directory, sorted(self._names))
        return found + [
            Candidate(step, self._directory, nvrx.NAME, tuple(names), file_mark(f"iter_{step:07d}"))
            for step, names in steps.items()
        ]

    def _entry(self, name: str, asked: str) -> Candidate | None:
        """What is gone since it was listed is none. Raises OSError: nothing else may vanish, or a start from 0 would
        look harmless."""
        path = self._directory / name
        if is_temporary(name):
            return None
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode) and (os.readlink(path) in self._names or not is_telling(name)):
                return None  # a second name of one that is judged under its own
        except FileNotFoundError:
            return None
        if stat.S_ISREG(mode) and (name.endswith(lightning.SUFFIX) or not is_telling(name)):
            return self._file(name, asked)
        return self._folder(name, asked)

    def _file(self, name: str, asked: str) -> Candidate | None:
        kind = next((kind for kind in (lightning, safetensors) if kind.owns(name, frozenset())), None)
        if kind is None or _PART.search(name) or asked not in (AUTO, kind.NAME):
            return None
        if kind is safetensors and asked == AUTO and not says_step(name):
            return None
        path, step = self._directory / name, step_in(name) if kind is safetensors else lightning.step_of_name(name)
        if step is None and kind is lightning:
            step = self._step_inside(name)
        return Candidate(step, path, kind.NAME, (name,), file_mark(name)) if step is not None else None

    def _step_inside(self, name: str) -> int:
        """What may not be read is kept with step 0. Raises OSError when the storage fails."""
        try:
            return lightning.step_inside(file_tree(self._directory, [name]), name) or 0
        except OSError as error:
            if is_passing(error):
                raise
            return 0

    def _folder(self, name: str, asked: str) -> Candidate | None:
        path, step = self._directory / name, step_in(name)
        chosen = "" if asked == AUTO else asked
        if step is None and name.endswith(lightning.SUFFIX):
            step = 0
        if step is None or asked == nvrx.NAME or (name.isdigit() and _holds_ranks(path)):
            return None
        if is_telling(name) or _owned(name, top_names(path), asked):
            return Candidate(step, path, chosen)
        return None


def _owned(name: str, top: frozenset[str], asked: str) -> bool:
    if asked != AUTO:
        return MARK in top or FORMATS[asked].owns(name, top)
    kind = recognise(name, top)
    # A model that training starts from often lies beside its checkpoints, with a number in its name.
    return bool(kind) and (kind != safetensors.NAME or says_step(name))


def _holds_ranks(path: Path) -> bool:
    return any(nvrx.is_file(name) for name in top_names(path))


def _names(directory: Path) -> list[str]:
    with _answering(directory):
        try:
            return os.listdir(directory)
        except FileNotFoundError:
            return []


@contextmanager
def _answering(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointDirUnreadable(str(directory), error.strerror or str(error)) from error
