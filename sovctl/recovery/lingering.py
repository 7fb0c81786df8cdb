"""Which steps of a running job only wait for a node it lost, by the words of its run. Pure.

The record is a file of some user: whatever it says, it can only name steps of the user's own job, and being named only
means that a slurmstepd of that step which has no process left is ended.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovctl.recovery.attempts import names, seconds, whole
from sovctl.recovery.requeue import LINGER_S

_STEP = re.compile(r"[0-9_]{1,32}\.([0-9]{1,9})")
_MOST = 64


@dataclass(frozen=True, slots=True)
class Lingering:
    """What a run said last."""

    seq: int
    steps: tuple[int, ...]
    until: float
    """Slurm itself gives them up then."""


def said_to_linger(events: Sequence[Any], now: float) -> Lingering | None:
    """The newest word; None: there is none, or it is too old."""
    said = [event for event in events if isinstance(event, Mapping) and event.get("kind") == "restarted"]
    if not said:
        return None
    seq, at = whole(said[-1], "seq"), seconds(said[-1], "at")
    found = [match for step in names(said[-1], "lingering")[:_MOST] if (match := _STEP.fullmatch(step))]
    if seq is None or at is None or not found or not abs(now - at) < LINGER_S:
        return None
    return Lingering(seq, tuple(sorted({int(match[1]) for match in found})), at + LINGER_S)
