"""What a list of runs shows of one, made of its events: so little that it can be kept, and a thousand runs listed
without reading a thousand records. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sovctl.recovery.attempts import Event, names, number, text, whole
from sovctl.recovery.story import Story, story_of

DIGEST = 1
"""Raise it when anything below makes something else of the same events: what was kept before is then forgotten."""


@dataclass(frozen=True, slots=True)
class RunDigest:
    """One run, as short as a line of a table."""

    story: Story = Story.WAITING
    short: str = ""
    """What the run was short of when it was put into the queue for the last time."""
    attempts: int = 0
    nodes: tuple[str, ...] = ()
    """Of the newest attempt."""
    step: int | None = None
    """The furthest that the newest attempt is known to have reached."""


def digest_of(events: Sequence[Event]) -> RunDigest:
    """Made of the events of one run."""
    starts = [event for event in events if event.get("kind") == "attempt_started" and number(event) is not None]
    last = starts[-1] if starts else {}
    return RunDigest(
        story=story_of(events),
        short=short_of(events),
        attempts=len(starts),
        nodes=names(last, "nodes"),
        step=_step_reached(events, number(last)) if starts else None,
    )


def _step_reached(events: Sequence[Event], attempt: int | None) -> int | None:
    """The furthest an attempt is known to have come; it is not taken apart: a thousand runs are waited for."""
    telling: dict[str, Event] = {}
    for event in events:
        kind = event.get("kind")
        if kind not in _TELL_STEPS or event.get("attempt") != attempt or number(event) is None:
            continue
        if kind == "checkpoint_saved" or kind not in telling:
            telling[kind] = event
    return max((step for event in telling.values() if (step := whole(event, "step")) is not None), default=None)


_TELL_STEPS = frozenset({"checkpoint_loaded", "first_step", "checkpoint_saved", "attempt_ended"})


def short_of(events: Sequence[Event]) -> str:
    """What the run was short of when it was put into the queue for the last time; empty: nothing."""
    kinds = ("requeued", "attempt_started", "held")
    last = next((event for event in reversed(events) if event.get("kind") in kinds), None)
    return text(last, "short") if last is not None else ""


def digest_record(digest: RunDigest) -> list[Any]:
    """As JSON can keep it."""
    return [digest.story.value, digest.short, digest.attempts, list(digest.nodes), digest.step]


def digest_from_record(record: Any) -> RunDigest | None:
    """Read back; None for anything else."""
    try:
        story, short, count, nodes, step = record
        return RunDigest(Story(story), str(short), int(count), tuple(map(str, nodes)), step and int(step))
    except (TypeError, ValueError):
        return None
