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


class Confidence(StrEnum):
    """How sure a blame is."""

    SURE = "sure"
    """The culprit itself says so, or Slurm, or the site."""
    LIKELY = "likely"
    """Signs that seldom have another cause."""
    GUESS = "guess"
    """Nothing else was seen."""


_USUAL = {
    Culprit.FABRIC: Confidence.LIKELY,
    Culprit.STORAGE: Confidence.LIKELY,
    Culprit.USER_CODE: Confidence.LIKELY,
    Culprit.UNKNOWN: Confidence.GUESS,
}


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
    at_most: Confidence = Confidence.SURE
    """Where the evidence is weaker than is usual for such a culprit."""

    @property
    def confidence(self) -> Confidence:
        """How sure it is."""
        usual = _USUAL.get(self.culprit, Confidence.SURE)
        return max(usual, self.at_most, key=list(Confidence).index)
