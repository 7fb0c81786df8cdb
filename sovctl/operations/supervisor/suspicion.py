"""Asks slurmd only when something is wrong, and believes its silence only when it lasts.

A slurmd that is being restarted (an upgrade) is silent for a moment while its job runs on untouched.
"""

from __future__ import annotations

from collections.abc import Sequence

from sovctl.model.node import NodeView
from sovctl.model.pauses import due
from sovctl.ports.common import Clock
from sovctl.ports.slurm import NodePing

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class NodeSuspicion:
    """Which nodes of the allocation have been silent, and for how long."""

    def __init__(self, ping: NodePing, clock: Clock) -> None:
        self._ping = ping
        self._clock = clock
        self._silent_since: dict[str, float] = {}
        self._asked = 0.0
        self._pause = _FIRST_PAUSE_S

    @property
    def any(self) -> bool:
        """Some node was silent at the last look."""
        return bool(self._silent_since)

    def clear(self) -> None:
        """The ranks were heard of: whatever was silent does not matter."""
        self._silent_since.clear()
        self._asked, self._pause = 0.0, _FIRST_PAUSE_S

    def look(self, nodes: Sequence[NodeView]) -> None:
        """Ask them, unless it is too soon: every question leaves a line in the log of each slurmd."""
        now = self._clock.now()
        if not due(now, self._asked, self._pause):
            return
        silent = self._ping.silent(nodes)
        seen = self._clock.now()
        self._silent_since = {name: min(self._silent_since.get(name, seen), seen) for name in silent}
        self._pause = _FIRST_PAUSE_S if silent else min(2 * self._pause, _LONGEST_PAUSE_S)
        self._asked = seen

    def since(self, name: str) -> float | None:
        """Since when this node has not answered."""
        return self._silent_since.get(name)

    def silent_for(self, seconds: float) -> frozenset[str]:
        """Those that did not answer over at least this long, at two looks or more."""
        now = self._clock.now()
        return frozenset(name for name, since in self._silent_since.items() if now - since >= max(seconds, 0.001))
