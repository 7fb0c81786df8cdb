"""A run's events, read back as attempts. Pure.

The record lies in a directory of the user and may have been written by another version: a value of the wrong type
counts as absent, and nothing here raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovctl.model.blame import Culprit

Event = Mapping[str, Any]
_MOST_GPUS = 1 << 20


@dataclass(frozen=True, slots=True)
class Stop:
    """How an attempt ended, as the supervisor judged it."""

    at: float | None
    """When the judgement was written down."""
    culprit: Culprit
    blamed: tuple[str, ...]
    evidence: str
    signature: str
    step: int | None
    """Last training step known."""
    checkpoint: str
    """Newest complete checkpoint at that moment; empty: none."""
    checkpoint_step: int | None
    action: str
    why: str
    exit_status: int | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of the run. Times are seconds since the epoch; `None`: not recorded."""

    number: int
    nodes: tuple[str, ...]
    batch_host: str
    started_at: float | None
    excluded: tuple[str, ...]
    resume_from: str
    """The checkpoint it was given; empty: none."""
    resume_step: int | None
    rank_up_at: float | None
    """By the clock of the rank's own node, like the next ones."""
    loaded_at: float | None
    loaded_step: int | None
    first_step_at: float | None
    first_step: int | None
    saved_at: float | None
    saved_step: int | None
    """The last checkpoint this attempt completed."""
    detected_at: float | None
    """When a fault was seen while the script still ran."""
    fault_at: float | None
    """When it happened, as far as told: the fault that was seen, the end of the script, or its last step."""
    last_word_at: float | None
    """When this attempt last wrote something before its end."""
    stop: Stop | None
    """None: it runs, or its end was never written."""
    gpus: int | None = None
    """On its nodes together, where Slurm told."""
    eligible_at: float | None = None
    """Since when it might have started, by slurmctld's clock, like the next one."""
    allocated_at: float | None = None
    began_at: float | None = None
    """When its batch script began, which is when the prologs were done."""
    caught_up_at: float | None = None
    """When it had done again every step that earlier attempts had done."""
    stall_s: float = 0.0
    """How long the training stood still for checkpoints, as far as told."""


def attempts(events: Sequence[Event]) -> tuple[Attempt, ...]:
    """Every attempt that started, oldest first."""
    own: dict[int, list[Event]] = {}
    starts = []
    for event in events:
        attempt = number(event)
        if attempt is None:
            continue
        own.setdefault(attempt, []).append(event)
        if event.get("kind") == "attempt_started":
            starts.append((attempt, event))
    known, each = [], None
    for attempt, start in starts:
        # Told once for each execution of the job, which may see several attempts.
        told = _gpus_each(start, own[attempt])
        each = each if told is None else told
        known.append(_attempt(start, own[attempt], each))
    return tuple(known)


def _gpus_each(start: Event, own: Sequence[Event]) -> float | None:
    """On each node, in the mean."""
    each = whole(start, "gpus")
    if each is not None:
        return each
    placed = next((event for event in own if event.get("kind") == "allocated"), {})
    together, nodes = whole(placed, "gpus"), len(names(start, "nodes")) + len(names(start, "spares"))
    return together / nodes if together is not None and nodes else None


def _times(each: float | None, nodes: int) -> int | None:
    return None if each is None or not 0 <= each < _MOST_GPUS else round(each * nodes)


def furthest_step(events: Iterable[Event]) -> int | None:
    """The furthest step at which an attempt was when it stopped."""
    known = (whole(event, "step") for event in events if event.get("kind") == "attempt_ended")
    return max((step for step in known if step is not None), default=None)


def furthest_checkpoint(events: Iterable[Event]) -> int:
    """The highest step of a checkpoint that was complete at some time; 0: none was."""
    steps = (
        whole(event, "step" if event.get("kind") == "checkpoint_saved" else "checkpoint_step")
        for event in events
        if event.get("kind") in ("checkpoint_saved", "attempt_ended")
    )
    return max((step for step in steps if step is not None), default=0)


def number(event: Event) -> int | None:
    """The attempt an event belongs to."""
    return whole(event, "attempt")


def text(event: Event, key: str) -> str:
    """A text; empty when it is none."""
    value = event.get(key)
    return value if isinstance(value, str) else ""


def whole(event: Event, key: str) -> int | None:
    """A whole number."""
    value = event.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def seconds(event: Event, key: str) -> float | None:
    """A time in seconds since the epoch, within the years 1970 to 9999."""
    value = event.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 253402214400:
        return None
    return float(value)


def names(event: Event, key: str) -> tuple[str, ...]:
    """A list of node names."""
    value = event.get(key)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list | tuple) else ()


def _attempt(start: Event, own: Sequence[Event], gpus_each: float | None = None) -> Attempt:
    first: dict[str, Event] = {}
    last: dict[str, Event] = {}
    for event in own:
        kind = text(event, "kind")
        first.setdefault(kind, event)
        last[kind] = event
    nothing: Event = {}
    end = first.get("attempt_ended")
    words = own[: own.index(end)] if end is not None else own
    loaded, stepped = first.get("checkpoint_loaded", nothing), first.get("first_step", nothing)
    saved = last.get("checkpoint_saved", nothing)
    placed = first.get("allocated", nothing)
    return Attempt(
        number=number(start) or 0,
        nodes=names(start, "nodes"),
        batch_host=text(start, "batch_host"),
        started_at=seconds(start, "at"),
        excluded=names(start, "excluded"),
        resume_from=text(start, "resume_from"),
        resume_step=whole(start, "resume_step"),
        rank_up_at=_happened(first.get("rank_up", nothing)),
        loaded_at=_happened(loaded),
        loaded_step=whole(loaded, "step"),
        first_step_at=_happened(stepped),
        first_step=whole(stepped, "step"),
        saved_at=_happened(saved),
        saved_step=whole(saved, "step"),
        detected_at=seconds(first.get("detected", nothing), "at"),
        fault_at=_fault_at(first),
        last_word_at=seconds(words[-1], "at") if words else None,
        stop=_stop(end) if end is not None else None,
        gpus=_times(gpus_each, len(names(start, "nodes"))),
        eligible_at=seconds(placed, "eligible_at"),
        allocated_at=seconds(placed, "allocated_at"),
        began_at=seconds(placed, "began_at"),
        caught_up_at=_happened(first.get("caught_up", nothing)),
        stall_s=sum(seconds(event, "stall_seconds") or 0.0 for event in own if event.get("kind") == "checkpoint_saved"),
    )


def _fault_at(first: Mapping[str, Event]) -> float | None:
    """Never later than it was seen; a script that ended after that was ended for it."""
    seen = first.get("detected")
    if seen is not None:
        happened, at = seconds(seen, "happened"), seconds(seen, "at")
        return happened if happened is None or at is None else min(happened, at)
    ended = first.get("script_ended")
    return seconds(ended, "at") if ended is not None else seconds(first.get("attempt_ended", {}), "happened")


def _stop(end: Event) -> Stop:
    return Stop(
        at=seconds(end, "at"),
        culprit=_culprit(end.get("culprit")),
        blamed=names(end, "blamed"),
        evidence=text(end, "evidence"),
        signature=text(end, "signature"),
        step=whole(end, "step"),
        checkpoint=text(end, "checkpoint"),
        checkpoint_step=whole(end, "checkpoint_step"),
        action=text(end, "action"),
        why=text(end, "why"),
        exit_status=whole(end, "exit_status"),
    )


def _happened(event: Event) -> float | None:
    """The rank's own time; the journal learns of it up to a poll later."""
    return seconds(event, "happened") or seconds(event, "at")


def _culprit(value: object) -> Culprit:
    try:
        return Culprit(value) if isinstance(value, str) else Culprit.UNKNOWN
    except ValueError:
        return Culprit.UNKNOWN
