"""Nodes without a watcher: their slurmd is asked now and then, one after the other, whether it is there.

A question leaves a line in slurmd's log, so it is rare; a node that does not answer is suspected, and asked on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sovctl.model.node import NodeView
from sovctl.ports.common import Clock
from sovctl.ports.slurm import NodePing

_SUSPECTED_S = 15.0
"""How long one silence counts: it is asked again meanwhile."""
_AT_ONCE = 64


class UnwatchedNodes:
    """Goes round them once in `every_s`; 0: never."""

    def __init__(self, ping: NodePing, clock: Clock, every_s: float) -> None:
        self._ping = ping
        self._clock = clock
        self._every_s = every_s
        self._due: dict[str, float] = {}
        self._silent: dict[str, float] = {}

    def silent(self, nodes: Sequence[NodeView], suspected: Collection[str]) -> frozenset[str]:
        """Which of them to suspect. `suspected`: those that are, and stay so while they are silent."""
        if self._every_s <= 0:
            return frozenset()
        now = self._clock.now()
        # Spread over the round: a site whose watchers are all stopped at once is not asked all at once.
        first = {node.name: now + self._every_s * at / len(nodes) for at, node in enumerate(nodes, 1)}
        self._due = {name: self._due.get(name, at) for name, at in first.items()}
        due = [node for node in nodes if self._due[node.name] <= now][:_AT_ONCE]
        self._due |= {node.name: now + self._every_s for node in due}
        self._silent |= dict.fromkeys(self._ping.silent(due) if due else (), now)
        known = {name: at for name, at in self._silent.items() if name in self._due}
        self._silent = {name: at for name, at in known.items() if now - at < _SUSPECTED_S or name in suspected}
        return frozenset(self._silent)
