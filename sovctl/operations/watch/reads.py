"""Slurm as the watch reads it: all of it only when something changed, and never so often that it costs much."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sovctl.model.job import JobView
from sovctl.model.node import NodeView
from sovctl.model.pauses import due
from sovctl.operations.watch.site import Site
from sovctl.ports.common import ChangeMark, Clock

_AT_LATEST_S = 10.0
"""What no mark of change tells: that a node does not answer, why a job waits."""
_AT_LEAST_S = 60.0
"""The same where nothing depends on it."""
_SHARE = 20
"""At most one part in so many of the time is spent reading; the more nodes, the less often."""
_BLIND_SHARE = 50
"""The same where nothing tells whether anything changed."""


@dataclass(slots=True)
class SlurmReads:
    """The last reading of the nodes and the queue."""

    site: Site
    changes: ChangeMark
    clock: Clock
    nodes: tuple[NodeView, ...] = ()
    jobs: tuple[JobView, ...] = ()
    read_at: float = -1e9
    _mark: tuple[int, ...] | None = None
    _rests_from: float = field(default=-1e9)
    _rests_s: float = 0.0
    _took_s: float = math.inf
    """How long the last reading took."""

    def refresh(self, *, busy: bool, calm: bool = False) -> bool:
        """Read again where it is worth it; True when it was read. `busy`: something is going on that Slurm itself
        may not have saved yet; `calm`: no decision waits for what Slurm does not save. Raises SovctlError when Slurm
        does not answer."""
        now = self.clock.now()
        mark = self.changes.mark()
        changed = busy or mark is None or mark != self._mark
        calm = calm and not any(job.pending or job.completing for job in self.jobs)
        rested = due(now, self._rests_from, self._rests_s)
        if not rested or not (changed or due(now, self.read_at, _AT_LEAST_S if calm else _AT_LATEST_S)):
            return False
        nodes, jobs = self.site.nodes(), self.site.jobs()
        ended = self.clock.now()
        share = _BLIND_SHARE if mark is None and not busy else _SHARE
        self.nodes, self.jobs, self.read_at, self._mark = nodes, jobs, now, mark
        # One slow reading is a slurmctld that was just being restarted; resting for it would be blindness at the very
        # moment at which runs need to be brought back. Two are a slurmctld with much to do.
        took, before = ended - now, self._took_s
        self._took_s = took
        self._rests_from, self._rests_s = ended, min(took, before) * share
        return True

    def outdated(self) -> None:
        """Something was changed just now: the next pass reads, whatever that costs."""
        self._mark, self._rests_s, self.read_at = None, 0.0, -1e9

    @property
    def by_name(self) -> dict[str, NodeView]:
        return {node.name: node for node in self.nodes}
