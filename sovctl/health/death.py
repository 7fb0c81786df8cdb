"""Which nodes are dead, judged from the controller. Pure.

Two independent witnesses: the node's own watcher has not renewed its mark, and slurmd does not take a connection, or
takes it and answers nothing, not even slurmctld (a node that stands still: its kernel still takes connections).
A slurmd that is being restarted still has its watcher; a watcher that died still has its slurmd. A node whose watcher
never reported is not judged: there is only one witness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sovctl.model.node import NodeView
from sovctl.model.reason import DrainReason, is_ours


@dataclass(frozen=True, slots=True)
class Down:
    """Declare a node dead, with this reason."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """A dead node that is not touched, and why."""

    node: str
    why: str


def suspects(nodes: Sequence[NodeView], alive: Mapping[str, float], now: float, silent_for_s: float) -> list[NodeView]:
    """Nodes whose watcher has been silent too long and that Slurm still believes in. `alive`: when each node's watcher
    last reported, in seconds since the epoch."""
    return [
        node for node in nodes if not node.state.down and node.name in alive and now - alive[node.name] >= silent_for_s
    ]


def unheard(node: NodeView, silent_s: float, silent_for_s: float) -> bool:
    """Whether a node whose port still answers is as good as dead: slurmctld gave up on it, and its watcher has been
    silent twice as long as for a node whose port is dead (slurmctld's own word can be a minute old)."""
    return not node.state.responding and silent_s >= 2 * silent_for_s


def decide_dead(node: NodeView, silent_s: float, incident: str, other_dead: int, limit_per_hour: int) -> Down | Left:
    """What to do about a node both of whose witnesses are silent. `other_dead`: further nodes that look dead now or
    were declared dead within the hour."""
    if other_dead >= limit_per_hour:
        return Left(
            node.name,
            f"{other_dead} other nodes look dead or were declared dead within the hour (watch.dead_limit_per_hour); "
            "this looks like a switch or a mistake, and a person has to look",
        )
    if node.state.draining and node.reason and not is_ours(node.reason):
        return Left(node.name, f"it is drained by somebody else: {node.reason}")
    words = f"slurmd and watcher silent for {silent_s:.0f} s"
    if is_ours(node.reason):
        words += f" [was: {node.reason}]"
    return Down(node.name, str(DrainReason(incident, "NODE_DEAD", words)))
