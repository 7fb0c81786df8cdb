"""Compares the ranks of a run with each other while it moves, from their own progress files."""

from __future__ import annotations

from sovctl.model.blame import Blame, Culprit
from sovctl.model.progress import Phase, Progress
from sovctl.ports import Journal, RunFiles
from sovctl.recovery.straggler import Straggler, Windows

_WINDOW_S = 10.0
"""Between two windows; ranks write at most once a second, and the figures are smoothed over about five steps."""


class StragglerWatch:
    """One attempt's ranks."""

    def __init__(self, files: RunFiles, journal: Journal, *, restart: bool) -> None:
        """`restart`: end the attempt for a straggler instead of only writing it down."""
        self._files = files
        self._journal = journal
        self._restart = restart
        self._attempt = 0
        self._next = 0.0
        self._steps: dict[int, int] = {}
        self._windows = Windows()
        self._told: set[int] = set()

    def begin(self, attempt: int) -> None:
        """Another attempt, other nodes."""
        self._attempt = attempt
        self._windows.clear()
        self._steps.clear()
        self._told.clear()

    def look(self, now: float) -> Blame | None:
        """Write down a new straggler; its blame, if it is to be acted upon."""
        if now < self._next:
            return None
        self._next = now + _WINDOW_S
        words = [item for item in self._files.all_progress() if self._counts(item)]
        seconds = {item.rank: busy for item in words if (busy := busy_seconds(item)) is not None}
        # A window in which nobody did a step says nothing new.
        steps = {item.rank: item.step or 0 for item in words}
        if not seconds or steps == self._steps:
            return None
        self._steps = steps
        self._windows.add(seconds, {item.rank: item.node for item in words})
        found = [item for item in self._windows.stragglers() if item.rank not in self._told]
        for item in found:
            self._tell(item)
        if not found or not self._restart:
            return None
        worst = found[0]
        return Blame(
            Culprit.HARDWARE, (worst.node,), f"{worst.node}: STRAGGLER {worst.evidence}", signature="straggler"
        )

    def _counts(self, item: Progress) -> bool:
        return item.attempt == self._attempt and item.phase is Phase.RUNNING and item.step is not None

    def _tell(self, item: Straggler) -> None:
        self._told.add(item.rank)
        self._journal.append(
            "straggler",
            attempt=self._attempt,
            node=item.node,
            rank=item.rank,
            ratio=round(item.ratio, 3),
            evidence=item.evidence,
        )


def busy_seconds(item: Progress) -> float | None:
    """Seconds a step keeps this rank busy itself; where it does not say so, the time between its steps, which differs
    between ranks only where they do not wait for each other."""
    busy = getattr(item, "busy_seconds", None)
    return busy if isinstance(busy, float) and busy > 0 else item.step_seconds
