"""The nodes a run's job holds, and those its script runs on; the rest are spares."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sovctl.model.job import JobView
from sovctl.model.node import NodeView
from sovctl.model.pool import PoolJob
from sovctl.recovery.place import Room


@dataclass(slots=True)
class Allocation:
    """One job's nodes, kept up to date by whoever drops some."""

    granted: tuple[str, ...]
    """At the start of the batch script, in Slurm's order."""
    batch_host: str
    size: int
    """Nodes the script runs on; what the job holds beyond that are spares."""
    least: int
    nodes: tuple[str, ...] = field(init=False)
    """What the job still holds."""
    running_on: tuple[str, ...] = field(init=False)
    shrunk: bool = False

    def __post_init__(self) -> None:
        self.nodes = self.granted
        self.running_on = self.granted[: self.size]

    @property
    def spares(self) -> tuple[str, ...]:
        """What the job holds beyond what the script runs on."""
        return tuple(node for node in self.nodes if node not in self.running_on)

    def dropped(self, gone: Sequence[str]) -> None:
        """These nodes have left the job."""
        self.nodes = tuple(node for node in self.nodes if node not in gone)
        self.shrunk = self.shrunk or bool(gone)

    def room(self, free_elsewhere: int | None, job: JobView | None, now: float) -> Room:
        """What there is to run on."""
        left = job.ends_at - now if job is not None and job.ends_at is not None else None
        return Room(self.nodes, self.batch_host, self.running_on, self.size, self.least, free_elsewhere, left)


def free_nodes(
    views: Sequence[NodeView],
    partition: str,
    avoid: Sequence[str],
    takeable: Collection[str] = (),
    *,
    in_reservation: bool = False,
) -> int:
    """Nodes of the partition that a requeued job could get at once: idle, or `takeable` from those who have them."""
    return sum(
        view.state.open_to(in_reservation)
        and (view.state.base == "IDLE" or view.name in takeable)
        and view.name not in avoid
        and (not partition or not view.partitions or partition in view.partitions)
        for view in views
    )


def nodes_asked(job: JobView) -> int:
    """The least number of nodes a job asks for (NumNodes of scontrol: `18`, or `16-18`); 0: it does not say.

    The NumNodes of a job that was shrunk and requeued stays what it held last, whatever it asks for now (22.05).
    """
    least = job.extra.get("NumNodes", "").partition("-")[0]
    return max(int(least) if least.isdigit() else 0, tres_nodes(job) if job.pending else 0)


def tres_nodes(job: JobView) -> int:
    """The nodes among the TRES a job asks for (`cpu=18,mem=1125G,node=18`); 0: it does not say."""
    found = _NODE_TRES.search((job.pending and job.extra.get("ReqTRES")) or job.tres)
    return int(found[1]) if found else 0


_NODE_TRES = re.compile(r"(?:^|,)node=(\d{1,9})(?:,|$)")


def preemptible_nodes(jobs: Sequence[PoolJob], qos: str) -> frozenset[str]:
    """Nodes on which nobody but jobs of this QOS is."""
    others = {node for job in jobs if job.holds_nodes and job.qos != qos for node in job.nodes}
    return frozenset(node for job in jobs if job.holds_nodes and job.qos == qos for node in job.nodes) - others
