"""How long a run's own doings took so far, as its journal tells. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sovctl.recovery.attempts import Event, attempts
from sovctl.recovery.lead import save_seconds

_STARTUPS_KEPT = 8


@dataclass(frozen=True, slots=True)
class Paces:
    """In seconds, oldest first."""

    saves_s: tuple[float, ...] = ()
    startups_s: tuple[float, ...] = ()
    """From the start of the script to its first step."""


def paces(events: Sequence[Event]) -> Paces:
    """The newest ones."""
    took = (
        item.first_step_at - item.started_at
        for item in attempts(events)
        if item.first_step_at is not None and item.started_at is not None
    )
    return Paces(tuple(save_seconds(events)), tuple(item for item in took if item > 0)[-_STARTUPS_KEPT:])
