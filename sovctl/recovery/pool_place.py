"""The place of a run in the pool, when another job took it while the run was on its way through the queue. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sovctl.model.pool import Pool, PoolJob

NODE_LIMIT = "GrpTRES=node"
BLOCKED = "QOSGrpNodeLimit"
"""squeue's reason for a job that waits at the limit of the partition."""


@dataclass(frozen=True, slots=True)
class Room:
    """A limit that has to rise until a run has started."""

    qos: str
    before: int
    """The limit as it was set."""
    after: int

    @property
    def raise_command(self) -> tuple[str, ...]:
        return _limit(self.qos, self.after)

    @property
    def restore_command(self) -> tuple[str, ...]:
        return _limit(self.qos, self.before)


def room_for(
    pool: Pool, partition: str, jobs: Sequence[PoolJob], job_id: str, size: int, in_service: int
) -> Room | str:
    """The room that a run of this size needs beside those who hold nodes now; in words why it gets none.

    A run that would not fit under the limit alone has lost nothing to others. A spare is spent on it, as it would have
    been on its lost node: the limit is back as soon as it has started.
    """
    found = pool.partitions.get(partition)
    qos = pool.qos.get(found.qos) if found is not None else None
    if found is None or qos is None or qos.node_limit is None:
        return f"nothing caps the nodes of partition {partition}"
    others = [job for job in jobs if job.job_id != job_id and job.holds_nodes and partition in job.partitions]
    held = {node for job in others for node in job.nodes}
    needed = len(held) + size
    if size > qos.node_limit:
        return f"it asks for {size} nodes, {qos.node_limit} are allowed"
    if needed <= qos.node_limit:
        return "enough are allowed"
    if needed > in_service:
        return f"other jobs hold {len(held)} of {in_service} nodes in service, it needs {size}"
    return Room(qos.name, qos.node_limit, needed)


def _limit(qos: str, nodes: int) -> tuple[str, ...]:
    return ("sacctmgr", "-i", "modify", "qos", qos, "set", f"{NODE_LIMIT}={nodes}")
