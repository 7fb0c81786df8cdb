"""Which nodes could replace one that fails now, how soon, and what is wrong with the pool. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sovctl.model.node import NodeView
from sovctl.model.pool import Partition, Pool, PoolJob
from sovctl.recovery.spares import Classes, limit_qos, needs

PROOFS = frozenset({"ok", "failed", "unsure"})
"""Outcomes of a loaded test that say something about the node."""
_LATE_TESTS = 2
"""A test is late when so many were due."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class NodeWord:
    """The last that a node said of itself."""

    verdict: str = "unknown"
    since: float | None = None
    """Seconds since the epoch."""
    tested: str = ""
    """What the last loaded test said, while idle or after a job: ok, failed, unsure, interrupted; empty: none yet."""
    tested_at: float | None = None


@dataclass(frozen=True, slots=True)
class SpareNode:
    """A node that a run could have."""

    name: str
    state: str
    word: NodeWord
    jobs: tuple[str, ...]
    """Preemptible jobs on it."""
    users: tuple[str, ...]
    """Whose they are."""
    free_in_s: float
    """At most, but for the next pass of the scheduler: the grace time of those jobs and KillWait, which Slurm waits
    after it once more for a job that ignores SIGTERM (22.05); 0: idle."""

    @property
    def good(self) -> bool:
        """Nothing is known against it."""
        return self.word.verdict != "failed" and self.word.tested != "failed"


@dataclass(frozen=True, slots=True)
class SpareStatus:
    """One partition."""

    partition: str
    nodes: int
    wanted: int
    """Spares as they were set; nodes minus limit where nothing was recorded."""
    limit: int | None
    """So many nodes the classes above may hold together; None: nothing limits them."""
    held: int
    """So many they hold."""
    out: tuple[str, ...]
    """Nodes out of service."""
    pool: tuple[SpareNode, ...]
    """Idle nodes and those of preemptible jobs, soonest first."""
    left: int
    """So many more nodes may fail before runs on all that is allowed are short of one."""
    problems: tuple[str, ...]

    @property
    def short(self) -> bool:
        return self.left < self.wanted


def spare_status(
    pool: Pool,
    classes: Classes,
    partition: Partition,
    views: Sequence[NodeView],
    jobs: Sequence[PoolJob],
    wanted: int | None,
    words: Mapping[str, NodeWord],
) -> SpareStatus:
    """`wanted`: spares as they were set, None: never. `words` by node, of those that `spare_nodes` names."""
    members, above = set(partition.nodes), _held_above(classes, jobs)
    out = tuple(view.name for view in views if view.name in members and not view.state.schedulable)
    spare = [_spare(view, pool, jobs, words) for view in spare_nodes(classes, partition, views, jobs)]
    found = pool.qos.get(partition.qos)
    limit = found.node_limit if found is not None else None
    total = len(partition.nodes)
    kept = wanted if wanted is not None else total - limit if limit is not None else 0
    bad = sum(not node.good for node in spare)
    return SpareStatus(
        partition.name,
        total,
        kept,
        limit,
        len(above & members),
        out,
        tuple(sorted(spare, key=lambda node: (not node.good, node.free_in_s, node.name))),
        max(0, total - len(out) - bad - (limit if limit is not None else total)),
        tuple(_problems(pool, classes, partition, kept, limit, jobs)),
    )


def spare_nodes(
    classes: Classes, partition: Partition, views: Sequence[NodeView], jobs: Sequence[PoolJob]
) -> list[NodeView]:
    """Those in service that no job of a class above holds."""
    free = set(partition.nodes) - _held_above(classes, jobs)
    return [view for view in views if view.name in free and view.state.schedulable]


def _held_above(classes: Classes, jobs: Sequence[PoolJob]) -> set[str]:
    return {node for job in jobs if job.holds_nodes and job.qos != classes.preemptible for node in job.nodes}


def stale_words(status: SpareStatus, kept_since: float | None, every_s: float, now: float, *, after_jobs: bool) -> str:
    """Spares whose last loaded test is old, because jobs keep them busy, and what gives them one; empty: none.

    `kept_since`: since when there are spares; `after_jobs`: a test in the gap between two jobs is switched on.
    """
    if every_s <= 0 or kept_since is None:
        return ""
    late = [node for node in status.pool if node.jobs and now - _proven_at(node, kept_since) > _LATE_TESTS * every_s]
    if not late:
        return ""
    names = ", ".join(node.name for node in late[:_NAMED]) + (
        f" and {len(late) - _NAMED} more" if late[_NAMED:] else ""
    )
    oldest_s = now - min(_proven_at(node, kept_since) for node in late)
    words = f"no loaded test for up to {oldest_s / 3600:.0f} h, busy all the time: {names}; "
    if not after_jobs:
        return words + "burn_in.after_jobs = true tests them in the gap between two jobs"
    return words + f"the next gap is when its job ends; `scontrol requeue {late[0].jobs[0]}` makes one now"


def _proven_at(node: SpareNode, kept_since: float) -> float:
    tested_at = node.word.tested_at if node.word.tested in PROOFS else None
    return max(tested_at or 0.0, kept_since)


def _spare(view: NodeView, pool: Pool, jobs: Sequence[PoolJob], words: Mapping[str, NodeWord]) -> SpareNode:
    here = [job for job in jobs if job.holds_nodes and view.name in job.nodes]
    graces = [pool.qos[job.qos].grace_s if job.qos in pool.qos else 0 for job in here]
    ids = tuple(job.job_id for job in here)
    free_in_s = float(max(graces) + _kill_wait_s(pool)) if here else 0.0
    users = tuple(dict.fromkeys(job.user for job in here if job.user))
    return SpareNode(view.name, str(view.state), words.get(view.name, NodeWord()), ids, users, free_in_s)


def _kill_wait_s(pool: Pool) -> int:
    """`KillWait = 30 sec`; 30 is Slurm's default."""
    said = pool.settings.get("KillWait", "").split()
    return int(said[0]) if said and said[0].isdigit() else 30


def _problems(
    pool: Pool, classes: Classes, partition: Partition, wanted: int, limit: int | None, jobs: Sequence[PoolJob]
) -> list[str]:
    if not wanted:
        return []
    again = f"`sovctl spare set {wanted} --partition {partition.name}`"
    found = [f"slurm.conf lacks {need.line}: {need.why}" for need in needs(pool, classes, partition) if need.blocking]
    if limit is None:
        words = (
            f"nothing limits {partition.name}: slurmctld read a slurm.conf without QOS={limit_qos(partition)} for it"
        )
        return [*found, f"{words}; put it there, and {again} sets it now"]
    if limit > len(partition.nodes) - wanted:
        found.append(f"the limit of {limit} nodes leaves {len(partition.nodes) - limit} of {wanted} spares; {again}")
    own = pool.partitions.get(classes.partition)
    if own is not None and own.allow_qos != frozenset({classes.preemptible}):
        found.append(f"partition {own.name} lets in other jobs than preemptible ones, which nothing limits; {again}")
    held = {node for job in jobs if partition.name in job.partitions and job.holds_nodes for node in job.nodes}
    if len(held) > limit:
        # Slurm counts a job against a partition QOS from its start on (22.05): one that runs already is not counted.
        found.append(f"jobs of {partition.name} hold {len(held)} nodes, {limit} are allowed: they started before")
    stuck = [job.job_id for job in jobs if job.qos == classes.preemptible and classes.partition not in job.partitions]
    if stuck:
        found.append(f"preemptible jobs outside partition {classes.partition}: {', '.join(stuck[:5])}")
    return found
