"""Compares the ranks of a run with each other while it moves, and its GPUs when it has become slower than it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from sovctl.errors import SovctlError
from sovctl.model.blame import Blame, Confidence, Culprit
from sovctl.model.pauses import due
from sovctl.model.progress import Phase, Progress
from sovctl.ports.common import Journal
from sovctl.ports.supervised import JobLooks, RunFiles
from sovctl.recovery.straggler import SlowGpu, Windows, became_slower, slow_gpus

_LEAST_WINDOW_S, _MOST_WINDOW_S = 3.0, 60.0
_A_RANK_S = 0.01
"""Each rank's word is a file on a shared file system: no more than a hundred of them a second are read."""
_WINDOW_STEPS = 5.0
"""The figures of the ranks are smoothed over about so many steps."""
_LOOK_EVERY_S = 600.0
_CONFIRM_AFTER_S = 15.0
"""One look at the clocks of the GPUs is a moment; two that agree are a fact."""


@dataclass(frozen=True, slots=True)
class StragglerSettings:
    """Whom to compare, and what may be done."""

    nodes: tuple[str, ...]
    gpus: int | None
    restart: bool
    """End the attempt for a straggler instead of only writing it down."""


class StragglerWatch:
    """One attempt's ranks and GPUs."""

    def __init__(self, settings: StragglerSettings, files: RunFiles, looks: JobLooks, journal: Journal) -> None:
        self._settings = settings
        self._files = files
        self._looks = looks
        self._journal = journal
        self._attempt = 0
        self._began = self._compared = self._asked = 0.0
        self._compare_again_s = self._ask_again_s = 0.0
        self._ranks = 0
        """Whose words were read the last time."""
        self._steps: dict[int, int] = {}
        self._windows = Windows()
        self._told: set[str] = set()
        self._suspects: frozenset[tuple[str, int]] = frozenset()
        self._pace: deque[float] = deque(maxlen=240)
        self.asking = False
        """A look at the GPUs goes on."""

    def begin(self, attempt: int, now: float) -> None:
        """Another attempt, other nodes."""
        self._attempt, self._began, self._compared, self._compare_again_s = attempt, now, now, 0.0

    def look(self, now: float, step_s: float | None) -> Blame | None:
        """Write down a new straggler; its blame, if it is to be acted upon. `step_s`: seconds a step of the run."""
        if self.asking:
            return self._hear(now)
        if not due(now, self._compared, self._compare_again_s):
            return None
        window = min(max(_LEAST_WINDOW_S, _WINDOW_STEPS * (step_s or 0.0)), _MOST_WINDOW_S)
        self._compared, self._compare_again_s = now, max(window, _A_RANK_S * self._ranks)
        if step_s is not None:
            self._pace.append(step_s)
            if due(now, self._asked, self._ask_again_s) and (self._suspects or became_slower(self._pace)):
                self._ask(now)
        return self._compare_ranks()

    def stop_asking(self) -> None:
        """Somebody else needs the looks."""
        if self.asking:
            self.asking = False
            self._looks.cancel()

    def _compare_ranks(self) -> Blame | None:
        everyone = self._files.all_progress()
        self._ranks = len(everyone)
        words = [item for item in everyone if self._counts(item)]
        seconds = {item.rank: busy for item in words if (busy := busy_seconds(item)) is not None}
        # A window in which nobody did a step says nothing new.
        steps = {item.rank: item.step or 0 for item in words}
        if not seconds or steps == self._steps:
            return None
        self._steps = steps
        self._windows.add(seconds, {item.rank: item.node for item in words})
        blames = [
            self._tell(item.node, item.rank, item.ratio, item.evidence)
            for item in self._windows.stragglers()
            if f"rank {item.rank}" not in self._told
        ]
        # A rank that does not name its node can be told, but nobody knows where not to run.
        return _first(blame for blame in blames if blame.nodes[0]) if self._settings.restart else None

    def _counts(self, item: Progress) -> bool:
        return item.attempt == self._attempt and item.phase is Phase.RUNNING and item.step is not None

    def _ask(self, now: float) -> None:
        self._asked, self._ask_again_s = now, _LOOK_EVERY_S
        try:
            self._looks.begin(self._settings.nodes, since=self._began, stacks=False, gpus=self._settings.gpus)
            self.asking = True
        except SovctlError:
            # The ranks' own figures must do.
            self._suspects = frozenset()

    def _hear(self, now: float) -> Blame | None:
        answer = self._looks.poll()
        if answer is None:
            self.asking = self._looks.going_on
            return None
        self.asking = False
        found = {(item.node, item.gpu): item for item in slow_gpus(answer.looks)}
        confirmed = [found[key] for key in sorted(self._suspects & found.keys()) if _name(found[key]) not in self._told]
        self._suspects = frozenset(found) - self._suspects
        if self._suspects:
            self._asked, self._ask_again_s = now, _CONFIRM_AFTER_S
        blames = [self._tell(item.node, None, item.ratio, item.evidence) for item in confirmed]
        self._told |= {_name(item) for item in confirmed}
        return _first(blames) if self._settings.restart else None

    def _tell(self, node: str, rank: int | None, ratio: float, evidence: str) -> Blame:
        self._told.add(f"rank {rank}")
        self._journal.append(
            "straggler", attempt=self._attempt, node=node, rank=rank, ratio=round(ratio, 3), evidence=evidence
        )
        return Blame(
            Culprit.HARDWARE, (node,), f"{node}: STRAGGLER {evidence}", signature="straggler", at_most=Confidence.LIKELY
        )


def _name(item: SlowGpu) -> str:
    return f"gpu {item.node} {item.gpu}"


def _first(blames: Iterable[Blame]) -> Blame | None:
    return next(iter(blames), None)


def busy_seconds(item: Progress) -> float | None:
    """Seconds a step keeps this rank busy itself; where it does not say so, the time between its steps, which differs
    between ranks only where they do not wait for each other."""
    busy = getattr(item, "busy_seconds", None)
    return busy if isinstance(busy, float) and busy > 0 else item.step_seconds
