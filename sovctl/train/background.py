"""One thread that writes checkpoints one after the other, and a limit on how many wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SaveOutcome:
    """How one save ended; the same on every rank."""

    step: int
    problem: str
    """Why it is not there; empty when it is complete on disk."""
    seconds: float
    """From the call to the rename into its place, or to giving up."""
    local_seconds: float | None = None
    """From the call until this node's own tier had it; `None`: there is none, or it failed."""
    local_problem: str = ""
    """Why this node's own tier does not have it."""
    lost: bool = False
    """Whether the ranks lost each other over it, so that their process group is of no more use."""


class BackgroundWriter:
    """Runs jobs in the order they came, on a daemon thread: a script that crashes is not held up by it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], SaveOutcome]] = deque()
        self._outcomes: list[SaveOutcome] = []
        self._in_flight = 0
        self._thread: threading.Thread | None = None

    @property
    def in_flight(self) -> int:
        """Jobs that are not done."""
        return self._in_flight

    def submit(self, job: Callable[[], SaveOutcome]) -> None:
        """Have it done after those before it. A job must not raise."""
        with self._changed:
            self._jobs.append(job)
            self._in_flight += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sovctl-checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait_until(self, at_most: int, timeout_s: float | None = None) -> float | None:
        """Wait until so many are in flight; returns the seconds it took, `None` when the time ran out."""
        began = time.monotonic()
        with self._changed:
            there = self._changed.wait_for(lambda: self._in_flight <= at_most, timeout_s)
        return time.monotonic() - began if there else None

    def ended(self) -> int:
        """How many outcomes wait to be taken."""
        return len(self._outcomes)

    def take(self, number: int) -> tuple[SaveOutcome, ...]:
        """The oldest outcomes, each once."""
        with self._changed:
            taken, self._outcomes = self._outcomes[:number], self._outcomes[number:]
        return tuple(taken)

    def forget(self, outcome: SaveOutcome) -> None:
        """Whoever waited for it knows it already."""
        with self._changed:
            self._outcomes = [other for other in self._outcomes if other is not outcome]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._jobs))
                job = self._jobs.popleft()
            outcome = job()
            del job
            with self._changed:
                self._outcomes.append(outcome)
                self._in_flight -= 1
                self._changed.notify_all()
