"""Where the next attempt runs: again in this allocation, or through the queue. Pure.

srun takes the first nodes of an allocation that are free for a step, in Slurm's order. So the nodes an attempt runs on
are always the first ones of what the job still holds, and a node to avoid is first dropped from the job: then srun,
torchrun and the environment agree without an option of the user's script.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sovctl.model.blame import Blame, Culprit


class How(StrEnum):
    """The ways back to training, quickest first."""

    HERE = "in-place"
    """On the same nodes."""
    SPARE = "spare"
    """A spare of the allocation takes the place of a node that is dropped."""
    FEWER = "fewer-nodes"
    """On the nodes that are left, because no replacement is to be had."""
    QUEUE = "requeue"


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to run on."""

    allocation: tuple[str, ...]
    """Nodes the job still holds, in Slurm's order."""
    batch_host: str
    running_on: tuple[str, ...]
    size: int
    """Nodes the run asks for."""
    least: int
    """Nodes it is content with (--min-nodes); `size` when nothing was said."""
    free_elsewhere: int | None = None
    """Idle nodes outside the job that it could get now; None: not known."""
    seconds_left: float | None = None
    """Until the time limit; None: no limit."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to go on."""

    how: How
    nodes: tuple[str, ...] = ()
    """What the next attempt runs on; empty for QUEUE."""
    drop: tuple[str, ...] = ()
    """What has to leave the job first."""
    why: str = ""


TOO_SHORT_S = 120.0
"""An attempt that could not run for longer than this is not worth starting here: the queue gives a whole time slice."""


def choose_place(blame: Blame, avoid: Collection[str], room: Room, lemons: Collection[str] = ()) -> Place:
    """Where to go on after a stop that is worth another attempt. `avoid`: nodes the next attempt must not get.
    `lemons`: nodes with a bad record; a spare that is one is taken when there is no better one."""
    against = _against_staying(blame, avoid, room)
    if against:
        return Place(How.QUEUE, why=against)
    healthy = tuple(node for node in room.allocation if node not in avoid)
    drop = tuple(node for node in room.allocation if node in avoid)
    if len(healthy) >= room.size:
        nodes = _best(healthy, room, lemons)
        drop += tuple(node for node in healthy[: healthy.index(nodes[-1])] if node not in nodes)
        if set(nodes) == set(room.running_on) and not drop:
            return Place(How.HERE, nodes, why="every node is still fit")
        taken = [node for node in nodes if node not in room.running_on]
        return Place(How.SPARE, nodes, drop, f"{', '.join(taken)} in the allocation takes over" if taken else "")
    if len(healthy) < room.least:
        return Place(How.QUEUE, why=f"{len(healthy)} nodes are left, {room.least} are needed")
    if room.free_elsewhere is None or len(healthy) + room.free_elsewhere >= room.size:
        return Place(How.QUEUE, why="a replacement is free")
    return Place(How.FEWER, healthy, drop, f"no replacement is free for {len(drop)} of {room.size} nodes")


def _best(healthy: tuple[str, ...], room: Room, lemons: Collection[str]) -> tuple[str, ...]:
    """The nodes that ran stay, good spares come before lemons; in Slurm's order."""
    stay = [node for node in healthy if node in room.running_on]
    spares = [node for node in healthy if node not in room.running_on]
    taken = {*stay, *sorted(spares, key=lambda node: node in lemons)[: room.size - len(stay)]}
    return tuple(node for node in healthy if node in taken)[: room.size]


def swap_out(excluded: Sequence[str], unfit: Collection[str], room: Room) -> frozenset[str]:
    """Nodes the run is on that an earlier stop or a straggler speaks against, as many as good spares can replace.
    `excluded`: those to leave last first; the batch host stays, for without it only the queue is left."""
    fit = [node for node in room.allocation if node not in unfit]
    good = [node for node in fit if node in room.running_on or node not in excluded]
    leave = [node for node in reversed(excluded) if node in fit and node in room.running_on and node != room.batch_host]
    return frozenset(leave[: max(0, len(good) - room.size)])


def _against_staying(blame: Blame, avoid: Collection[str], room: Room) -> str:
    if blame.culprit in (Culprit.PREEMPTED, Culprit.TIME_LIMIT, Culprit.STOPPED):
        return "the allocation has to be given back"
    if room.batch_host in avoid:
        return f"{room.batch_host} runs the batch script and cannot be dropped"
    if room.batch_host not in room.allocation:
        return f"{room.batch_host} is no longer part of the job"
    if room.seconds_left is not None and room.seconds_left < TOO_SHORT_S:
        return "the time limit is near"
    return ""


def may_grow(room: Room) -> bool:
    """Whether a run that goes on with fewer nodes could have all it wants again, if it were requeued now."""
    if room.free_elsewhere is None:
        return False
    return len(room.running_on) < room.size <= len(room.allocation) + room.free_elsewhere
