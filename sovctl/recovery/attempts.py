"""A run's events, read back as attempts. Pure.

The record lies in a directory of the user and may have been written by another version: a value of the wrong type
counts as absent, and nothing here raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sovctl.model.blame import Culprit

Event = Mapping[str, Any]
_NOTHING: Event = {}
_MOST_GPUS = 1 << 20
_HUGE = 1 << 63
_YEAR_10000 = 253402214400


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
    confidence: str = ""
    """How sure the judgement is; empty: not recorded."""


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
    own: dict[int, _Said] = {}
    starts = []
    for event in events:
        attempt = number(event)
        if attempt is None:
            continue
        said = own.get(attempt)
        if said is None:
            said = own[attempt] = _Said()
        if said.add(event) == "attempt_started":
            starts.append((event, said))
    known, each = [], None
    for start, said in starts:
        # Told once for each execution of the job, which may see several attempts.
        told = _gpus_each(start, said.first.get("allocated", {}))
        each = each if told is None else told
        known.append(_attempt(start, said, each))
    return tuple(known)


@dataclass(slots=True)
class _Said:
    """What is kept of the events of one attempt. A month of a site is hundreds of thousands: each is looked at once."""

    first: dict[str, Event] = field(default_factory=dict)
    """Of each kind."""
    saved: Event = field(default_factory=dict)
    """The last checkpoint."""
    before_end: Event | None = None
    stall_s: float = 0.0

    def add(self, event: Event) -> str:
        """In the order of the record; returns its kind."""
        kind, first = text(event, "kind"), self.first
        if kind not in first:
            first[kind] = event
        if kind == "checkpoint_saved":
            self.saved = event
            self.stall_s += seconds(event, "stall_seconds") or 0.0
        if "attempt_ended" not in first:
            self.before_end = event
        return kind


def _gpus_each(start: Event, placed: Event) -> float | None:
    """On each node, in the mean."""
    each = whole(start, "gpus")
    if each is not None:
        return each
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
    value = event.get("attempt")
    return value if type(value) is int and -_HUGE < value < _HUGE else None


def text(event: Event, key: str) -> str:
    """A text; empty when it is none."""
    value = event.get(key)
    return value if isinstance(value, str) else ""


def whole(event: Event, key: str) -> int | None:
    """A whole number."""
    value = event.get(key)
    return value if type(value) is int and -_HUGE < value < _HUGE else None


def seconds(event: Event, key: str) -> float | None:
    """A time in seconds since the epoch, within the years 1970 to 9999."""
    value = event.get(key)
    if (type(value) is float or type(value) is int) and 0 <= value < _YEAR_10000:
        return float(value)
    return None


def names(event: Event, key: str) -> tuple[str, ...]:
    """A list of node names."""
    value = event.get(key)
    return tuple([item for item in value if isinstance(item, str)]) if isinstance(value, list | tuple) else ()


def _attempt(start: Event, said: _Said, gpus_each: float | None = None) -> Attempt:
    first, saved, nothing = said.first, said.saved, _NOTHING
    nodes, end = names(start, "nodes"), first.get("attempt_ended")
    loaded, stepped = first.get("checkpoint_loaded", nothing), first.get("first_step", nothing)
    placed = first.get("allocated", nothing)
    return Attempt(
        number=number(start) or 0,
        nodes=nodes,
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
        last_word_at=seconds(said.before_end, "at") if said.before_end is not None else None,
        stop=_stop(end) if end is not None else None,
        gpus=_times(gpus_each, len(nodes)),
        eligible_at=seconds(placed, "eligible_at"),
        allocated_at=seconds(placed, "allocated_at"),
        began_at=seconds(placed, "began_at"),
        caught_up_at=_happened(first.get("caught_up", nothing)),
        stall_s=said.stall_s,
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
        confidence=text(end, "confidence"),
    )


def _happened(event: Event) -> float | None:
    """The rank's own time; the journal learns of it up to a poll later."""
    return seconds(event, "happened") or seconds(event, "at")


def _culprit(value: object) -> Culprit:
    try:
        return Culprit(value) if isinstance(value, str) else Culprit.UNKNOWN
    except ValueError:
        return Culprit.UNKNOWN
