"""Who or what stopped a run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Culprit(StrEnum):
    """`unknown` is an answer: it has a budget of its own and never condemns a node."""

    HARDWARE = "hardware"
    FABRIC = "fabric"
    STORAGE = "storage"
    USER_CODE = "user-code"
    PREEMPTED = "preempted"
    TIME_LIMIT = "time-limit"
    STOPPED = "stopped"
    """Somebody asked: scancel, scontrol requeue, a stop request the script honoured."""
    NONE = "none"
    """Nothing went wrong: the script finished."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Blame:
    """The culprit with its evidence."""

    culprit: Culprit
    nodes: tuple[str, ...] = ()
    """Nodes to keep the run away from."""
    evidence: str = ""
    """One sentence a person believes: what was seen, where."""
    signature: str = ""
    """For user code: equal for two crashes of the same kind."""
    step: int | None = None
    """Last training step known when it stopped."""
