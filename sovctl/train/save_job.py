"""One checkpoint from host memory to its place, on the background thread of every rank at once.

The steps are the same on every rank whatever fails, so that no rank waits for one that gave up: an error becomes
words, the words are shared, and all decide alike.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovctl.checkpoint import commit
from sovctl.checkpoint.mark import Mark
from sovctl.train.background import SaveOutcome
from sovctl.train.layout import Share
from sovctl.train.local_tier import LocalTier
from sovctl.train.side_groups import SideGroup
from sovctl.train.staging import Staged
from sovctl.train.writer import FileFacts, RankWriter, problem_of


@dataclass(frozen=True)
class Target:
    """Where the checkpoints of a run go, and how many stay."""

    directory: Path
    attempt: int
    run_id: str
    keep: int | None
    checksums: bool
    jitter_s: float
    nodes: tuple[str, ...]
    """The node of each rank."""


@dataclass(frozen=True)
class _Start:
    """What a rank says before anything is written."""

    problem: str
    complete: bool
    saved_at: float
    local_problem: str


class SaveJob:
    """Runs once, on every rank."""

    def __init__(
        self,
        step: int,
        target: Target,
        share: Share,
        staged: Staged,
        group: SideGroup,
        tier: LocalTier | None,
        hurry: threading.Event,
        broken: frozenset[Path] = frozenset(),
    ) -> None:
        """`hurry` is set when somebody waits: then nothing is delayed on purpose. `broken`: checkpoints of this step
        that look complete and could not be loaded; they give way."""
        self._step, self._target, self._share, self._staged = step, target, share, staged
        self._group, self._tier, self._hurry = group, tier, hurry
        self._broken = broken
        self._began = time.monotonic()
        self._local_seconds: float | None = None
        self._local_problem = ""

    def run(self) -> SaveOutcome:
        """Write and commit both tiers. Never raises."""
        problem, lost = "", False
        try:
            problem = self._run()
        except Exception as error:
            problem, lost = f"the ranks lost each other: {type(error).__name__}: {error}", True
            self._discard()
        seconds = time.monotonic() - self._began
        return SaveOutcome(self._step, problem, seconds, self._local_seconds, self._local_problem, lost)

    def _run(self) -> str:
        self._staged.wait_for_device()
        starts = self._group.everyone(self._start())
        first = starts[0]
        if first.complete:
            return ""
        if self._tier is not None:
            self._save_locally(self._tier, starts, first.saved_at)
        if first.problem:
            return first.problem
        self._hurry.wait(jitter(self._target, self._group.rank, self._step))
        return self._save_shared(first.saved_at)

    def _discard(self) -> None:
        """Nobody will commit what was written: the storage gets its space back."""
        target = self._target
        if self._group.rank == 0:
            commit.discard(commit.temporary_path(target.directory, self._step, target.attempt))
        if self._tier is not None:
            self._tier.discard(self._step, target.attempt)

    def _start(self) -> _Start:
        target, step = self._target, self._step
        complete, problem, local_problem = False, "", ""
        if self._group.rank == 0:
            problem = problem_of(self._set_broken_aside, target.directory)
            complete = not problem and _quietly(lambda: commit.already_complete(target.directory, step))
        if self._group.rank == 0 and not complete and not problem:
            problem = problem_of(lambda: commit.begin(target.directory, step, target.attempt), target.directory)
        tier = self._tier
        if tier is not None:
            replace = commit.final_path(tier.path, step) in self._broken
            local_problem = problem_of(lambda: tier.begin(step, target.attempt, replace=replace), tier.path)
        return _Start(problem, complete, time.time(), local_problem)

    def _set_broken_aside(self) -> None:
        final = commit.final_path(self._target.directory, self._step)
        if final in self._broken and os.path.lexists(final):
            say(f"{final} could not be loaded and is replaced; it is kept as {commit.move_aside(final).name}")

    def _save_locally(self, tier: LocalTier, starts: list[_Start], saved_at: float) -> None:
        """This node's own tier. What goes wrong on one node costs only this step of that node."""
        facts: FileFacts = {}
        problem = starts[tier.ranks[0]].local_problem
        if not problem:
            problem = problem_of(
                lambda: facts.update(tier.write(self._step, self._target.attempt, self._share, self._staged)), tier.path
            )
        everyone = self._group.everyone((facts, problem))
        ours = [everyone[rank] for rank in tier.ranks]
        problem = next((words for _, words in ours if words), "")
        if not problem:
            mark = self._mark([facts for facts, _ in ours], len(ours), saved_at)
            problem = problem_of(lambda: tier.commit(mark), tier.path)
        if problem:
            tier.discard(self._step, self._target.attempt)
            self._local_problem = problem
        else:
            self._local_seconds = time.monotonic() - self._began

    def _save_shared(self, saved_at: float) -> str:
        target = self._target
        temporary = commit.temporary_path(target.directory, self._step, target.attempt)
        writer = RankWriter(temporary, self._group.rank, checksums=target.checksums)
        results: list[Any] = []
        problem = problem_of(lambda: results.extend(writer.write(self._share.shared, self._staged)), temporary)
        everyone = self._group.to_first((results, writer.facts(), problem))
        return self._group.from_first(lambda: self._commit(writer, temporary, everyone, saved_at))

    def _commit(self, writer: RankWriter, temporary: Path, everyone: list[Any], saved_at: float) -> str:
        """Rank 0: every file of every rank is on disk, or why not."""
        problem: str = next((words for _, _, words in everyone if words), "")
        if not problem:
            problem = problem_of(lambda: self._finish(writer, temporary, everyone, saved_at), temporary)
        if problem:
            commit.discard(temporary)
            return problem
        said = problem_of(self._tidy, temporary)
        if said:
            say(f"old checkpoints could not be removed: {said}")
        return ""

    def _finish(self, writer: RankWriter, temporary: Path, everyone: list[Any], saved_at: float) -> None:
        if self._share.metadata is None:
            raise RuntimeError("rank 0 got no metadata")
        writer.write_metadata(self._share.metadata, [results for results, _, _ in everyone])
        facts = [facts for _, facts, _ in everyone[1:]]
        mark = self._mark([writer.facts(), *facts], len(everyone), saved_at)
        commit.commit(temporary, self._target.directory, mark)

    def _mark(self, facts: list[FileFacts], ranks: int, saved_at: float) -> Mark:
        merged = {name: fact for part in facts for name, fact in part.items()}
        return Mark(
            step=self._step,
            world_size=ranks,
            files={name: size for name, (size, _) in merged.items()},
            saved_at=saved_at,
            attempt=self._target.attempt,
            run_id=self._target.run_id,
            sha256={name: digest for name, (_, digest) in merged.items() if digest},
        )

    def _tidy(self) -> None:
        directory = self._target.directory
        for path in commit.sweep(directory, self._target.attempt):
            say(f"removed {path}, left unfinished by an earlier attempt")
        if self._target.keep is not None:
            commit.retire(directory, self._step, self._target.keep)


def jitter(target: Target, rank: int, step: int) -> float:
    """Seconds the ranks of a node wait before they write to shared storage: the nodes are spread evenly over the
    window, in another order at each step."""
    nodes = list(dict.fromkeys(target.nodes))
    if len(nodes) < 2:
        return 0.0
    order = sorted(nodes, key=lambda node: zlib.crc32(f"{node}/{step}".encode()))
    return target.jitter_s * order.index(target.nodes[rank]) / len(nodes)


def say(text: str) -> None:
    """One line on stderr, if it takes one."""
    with suppress(OSError, ValueError):  # ValueError: it is closed
        sys.stderr.write(f"sovctl: {text}\n")


def _quietly(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:
        return False
