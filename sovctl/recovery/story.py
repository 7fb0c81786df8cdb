"""How far a run is, from its events alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from sovctl.recovery.attempts import Event, number, text


class Story(StrEnum):
    """How far the run is, as its own record tells it."""

    WAITING = "waiting"
    """Not started yet."""
    RUNNING = "running"
    """Its first attempt runs."""
    RECOVERED = "recovered"
    """It stopped and runs again."""
    RECOVERING = "recovering"
    """It stopped and is on its way back."""
    HELD = "held"
    """It waits for a person."""
    FINISHED = "finished"
    CANCELLED = "cancelled"
    ENDED = "ended"
    """Over without being finished: a time limit, --no-requeue, a state Slurm gave it."""

    @property
    def over(self) -> bool:
        return self in (Story.FINISHED, Story.CANCELLED, Story.ENDED)


def story_of(events: Sequence[Event]) -> Story:
    """How far a run is, from its events alone."""
    last = next((event for event in reversed(events) if text(event, "kind") in _TURNS), None)
    kind = last.get("kind") if last is not None else ""
    if last is None:
        return Story.WAITING
    if kind == "run_ended":
        return _ENDS.get(text(last, "outcome"), Story.ENDED)
    if kind == "attempt_started":
        return Story.RUNNING if number(last) == 0 else Story.RECOVERED
    if kind == "held" or text(last, "action") == "hold":
        return Story.HELD
    return Story.RECOVERING


_TURNS = frozenset({"run_ended", "run_reopened", "attempt_started", "attempt_ended", "held"})
_ENDS = {
    "finished": Story.FINISHED,
    "completed": Story.FINISHED,
    "cancelled": Story.CANCELLED,
}
