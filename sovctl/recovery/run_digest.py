"""What a list of runs shows of one, made of its events: so little that it can be kept, and a thousand runs listed
without reading a thousand records. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sovctl.recovery.attempts import Event, newest_attempt, step_reached, text
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
    count, last = newest_attempt(events)
    return RunDigest(
        story=story_of(events),
        short=short_of(events),
        attempts=count,
        nodes=last.nodes if last else (),
        step=step_reached(last) if last else None,
    )


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
