"""Watches when Slurm's main scheduler runs, by its count of passes."""

from __future__ import annotations

from sovctl.errors import SovctlError
from sovctl.ports.common import Clock
from sovctl.ports.slurm import ClusterView


class PassWatch:
    """Knows the last pass as closely as it was looked for."""

    def __init__(self, cluster: ClusterView, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._count: int | None = None
        self._looked = 0.0
        self.last: float | None = None
        """The last moment at which the newest pass had not run yet; None: no pass was seen so far."""
        self.sees = True
        """False when the count cannot be read."""

    def look(self) -> bool:
        """Read the count once; slurmctld not answering is no news. Returns whether it did."""
        before = self._clock.now()
        try:
            count = self._cluster.scheduler_passes()
        except SovctlError:
            return False
        self.sees = count is not None
        if count is not None and self._count is not None and count != self._count:
            self.last = self._looked
        self._count, self._looked = count, before
        return True

    def asked_for(self, at: float) -> None:
        """Slurm was asked for a pass at this moment, seconds since the epoch: the newest comes after it, whether it was
        seen or not."""
        self.last = max(at, self.last or at)
