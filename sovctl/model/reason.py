"""The text sovctl leaves in a drained node's Reason: `sovctl:<incident id> <code> <short text>`.

The prefix is how sovctl knows its own drains; nobody else's reason is ever overwritten or resumed. An incident id
begins with the second in which the node was judged, in UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

PREFIX = "sovctl:"
_REASON = re.compile(r"sovctl:(?P<incident>[0-9A-Za-z_.-]+)(?: (?P<code>\S+)(?: (?P<text>.*))?)?\Z", re.DOTALL)
INCIDENT_STAMP = "%y%m%d-%H%M%S"
_STAMP_LENGTH = len("261122-214601")
_LONGEST = 200
"""Slurm takes more, but squeue and sinfo cut; the code and the node's own words come first."""


@dataclass(frozen=True, slots=True)
class DrainReason:
    """One of our own reasons, taken apart."""

    incident: str
    code: str
    text: str

    def __str__(self) -> str:
        words = " ".join(f"{PREFIX}{self.incident} {self.code} {self.text}".split())
        return words[:_LONGEST].rstrip()


def incident_time(incident: str) -> float | None:
    """Seconds since the epoch of an incident id; None when it is not one of ours."""
    try:
        return datetime.strptime(incident[:_STAMP_LENGTH], INCIDENT_STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def parse_reason(reason: str) -> DrainReason | None:
    """Take one of our reasons apart; `None` when it is somebody else's or empty."""
    match = _REASON.match(reason.strip())
    if match is None:
        return None
    return DrainReason(match["incident"], match["code"] or "", match["text"] or "")


def is_ours(reason: str) -> bool:
    """Whether this Reason was written by sovctl."""
    return reason.startswith(PREFIX)
