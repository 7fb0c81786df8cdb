"""What became of the faults of a run, and the figures they make."""

from __future__ import annotations

from dataclasses import dataclass, field

from sovctl.lab.chaos.plan import ChaosSpec, Kind


@dataclass(slots=True)
class Struck:
    """One fault that was injected, and what became of it."""

    number: int
    kind: Kind
    node: str
    at: float
    attempt: int
    """The attempt that ran, or was starting."""
    during_recovery: bool = False
    back_at: float | None = None
    """First step of the attempt that went on after it."""
    problem: str = ""
    """What did not go as it should; empty: all did."""
    held: bool = False
    """Held as the budgets say; a person let it go on."""

    @property
    def back_s(self) -> float | None:
        return None if self.back_at is None else self.back_at - self.at


@dataclass(slots=True)
class Report:
    """What was measured."""

    spec: ChaosSpec
    struck: list[Struck] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)
    """Faults that were drawn and found nothing to break; they count in no figure."""
    lost: str = ""
    """Why the run did not get to its end; empty: it did."""
    attempts: int = 0
    on_blamed: list[str] = field(default_factory=list)
    """Attempts that got a node that had been blamed and not repaired."""
    on_unforgiven: list[str] = field(default_factory=list)
    """Attempts that got a node that the run's own journal still spoke against, whether or not anything was wrong with
    it: one that was mended, or was blamed though it was well, counts too."""
    steps_lost: int = 0
    """Beyond the last checkpoint that was proven when the attempt began."""
    misjudged: list[str] = field(default_factory=list)
    judged: int = 0
    """Stops whose blame was compared with what was injected."""
    chains: int = 0
    failed_chains: list[str] = field(default_factory=list)
    identical: bool = False
    compared_steps: int = 0
    seconds: float = 0.0

    @property
    def back_s(self) -> list[float]:
        """Seconds from each stopping fault to the run's next step; faults that met another recovery are left out."""
        alone = [item for item in self.struck if item.kind.stops and not item.during_recovery]
        return [item.back_s for item in alone if item.back_s is not None]

    @property
    def recovered_share(self) -> float:
        good = sum(not item.problem for item in self.struck)
        possible = self.spec.faults - len(self.impossible)
        return good / possible if possible else 0.0

    @property
    def chain_share(self) -> float:
        return 1.0 - len(self.failed_chains) / self.chains if self.chains else 0.0

    @property
    def blame_share(self) -> float:
        return 1.0 - len(self.misjudged) / self.judged if self.judged else 0.0
