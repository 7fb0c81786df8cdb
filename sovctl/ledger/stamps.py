"""The moments of one incident, from the fault to the step at which nothing is done twice any more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from sovctl.recovery.timeline import Timeline


class Stamp(StrEnum):
    """In the order in which they happen."""

    FAULT = "fault"
    """It broke: by the driver's own line, or since when nothing moved."""
    DETECTED = "detected"
    """It was seen."""
    DECIDED = "decided"
    """What to do about it was on disk."""
    KILLED = "killed"
    """The script and its steps were gone."""
    EPILOGS_DONE = "epilogs done"
    """On every node but the batch host, whose own epilog waits for the supervisor."""
    READY = "allocation ready"
    """The job was back in the queue with its terms, or its own allocation ready for it again."""
    ELIGIBLE = "eligible"
    """Slurm might start it: its begin time had come."""
    ALLOCATED = "allocated"
    """Slurm gave it nodes; in whole seconds."""
    PROLOG_DONE = "prolog done"
    """The batch script began."""
    STARTED = "script started"
    FIRST_RANK_UP = "first rank up"
    CHECKPOINT_LOADED = "checkpoint loaded"
    FIRST_STEP = "first step"
    CAUGHT_UP = "caught up"
    """Every step done before was done again."""


_ORDER = tuple(Stamp)
_FIRST = (Stamp.FAULT, Stamp.DETECTED, Stamp.DECIDED)

Stamps = Mapping[Stamp, float]
"""Seconds since the epoch; what is not known is not in it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stamp with what it took to get there; `None`: not known."""

    stamp: Stamp
    at: float | None
    since_previous_s: float | None
    """Since the last stamp before it whose time is known, never below 0: clocks differ a little."""
    since_start_s: float | None
    """Since the fault, or since it was seen where the fault itself left no time."""


def stamps_of(found: Timeline) -> dict[Stamp, float]:
    """What the run's own record tells."""
    again = found.resumed
    through_queue = again is not None and not found.how
    marks = {
        Stamp.FAULT: found.fault_at,
        Stamp.DETECTED: found.detected_at,
        Stamp.DECIDED: found.decided_at,
        Stamp.KILLED: found.killed_at,
        Stamp.EPILOGS_DONE: found.epilogs_done_at,
        Stamp.READY: found.requeued_at,
        # In its own allocation the job was eligible and allocated long before the fault.
        Stamp.ELIGIBLE: again.eligible_at if again and through_queue else None,
        Stamp.ALLOCATED: again.allocated_at if again and through_queue else None,
        Stamp.PROLOG_DONE: again.began_at if again and through_queue else None,
        Stamp.STARTED: again.started_at if again else None,
        Stamp.FIRST_RANK_UP: again.rank_up_at if again else None,
        Stamp.CHECKPOINT_LOADED: again.loaded_at if again else None,
        Stamp.FIRST_STEP: again.first_step_at if again else None,
        Stamp.CAUGHT_UP: again.caught_up_at if again else None,
    }
    return {stamp: at for stamp, at in marks.items() if at is not None}


def began(stamps: Stamps) -> float | None:
    """From where on the incident counts: the fault, else when it was seen, else when it was judged."""
    for stamp in _FIRST:
        if stamp in stamps:
            return stamps[stamp]
    return None


def steps(stamps: Stamps) -> Iterable[tuple[Stamp, float]]:
    """Each stamp that is known, but the first, with the seconds since the known one before it."""
    before: float | None = None
    for stamp in _ORDER:
        at = stamps.get(stamp)
        if at is None:
            continue
        if before is not None:
            yield stamp, at - before if at > before else 0.0
        before = at if before is None or at > before else before


def stages(stamps: Stamps) -> tuple[Stage, ...]:
    """All of them in their order, those without a time included."""
    start, before, result = began(stamps), None, []
    for stamp in Stamp:
        at = stamps.get(stamp)
        result.append(Stage(stamp, at, _since(at, before), _since(at, start)))
        before = before if at is None else max(at, before or at)
    return tuple(result)


def _since(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else max(0.0, round(later - earlier, 3))
