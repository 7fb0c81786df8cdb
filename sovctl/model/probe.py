"""How far a probe may go, as a site sets it in `[probes]` of sovctl.toml."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ProbeState(StrEnum):
    """What becomes of what a probe finds."""

    OFF = "off"
    """Not looked at."""
    SHADOW = "shadow"
    """Recorded only; what it would have drained is counted."""
    WARN = "warn"
    """Shown; degrades a node, never fails it."""
    DRAIN = "drain"
    """What it calls a failure fails the node."""


@dataclass(frozen=True, slots=True)
class ProbeSetting:
    """One line of `[probes]`, not yet checked against the probes there are."""

    name: str
    state: ProbeState
    source: str
    """File and line, or the variable, for an error to name."""
