"""A reservation of nodes: what Slurm keeps for those who name it, from when to when."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reservation:
    """Times are seconds since the epoch. One that comes back (DAILY, WEEKLY) is shown with its next time."""

    name: str
    nodes: tuple[str, ...]
    """Empty where it is about licenses only."""
    begins_at: int
    ends_at: int | None
    """None: Slurm knows no end."""
    over_others: bool = False
    """For maintenance, or made to overlap (MAINT, OVERLAP): its nodes are taken out of other reservations too."""
