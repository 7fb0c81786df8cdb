"""Slurm: nodes, jobs, the whole cluster, its settings and its accounting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sovctl.model.accounted import AccountedJob
from sovctl.model.job import JobSize, JobView
from sovctl.model.node import NodeView
from sovctl.model.pool import Partition, Pool, PoolJob
from sovctl.model.reservation import Reservation
from sovctl.model.site import Preemptable


class NodeControl(Protocol):
    """What may be done to a node, by root or SlurmUser."""

    def node(self, name: str) -> NodeView: ...
    def drain(self, node: str, reason: str) -> None:
        """`scontrol update NodeName=... State=DRAIN Reason=...`."""
        ...


class JobControl(Protocol):
    """What the owner of a job may do to it."""

    def job(self, job_id: str) -> JobView:
        """Raises JobNotFound, SlurmUnreachable."""
        ...

    def requeue(self, job_id: str, *, hold: bool = False) -> None:
        """Requeue the job only if it is running now: a job that was cancelled meanwhile is not brought back."""
        ...

    def update_pending(
        self,
        job_id: str,
        *,
        exclude: Sequence[str] | None,
        begin: int | None,
        size: JobSize | None = None,
    ) -> None:
        """Replace the job's ExcNodeList and set its begin time (seconds since the epoch), in one request; `size`:
        also how much it asks for."""
        ...

    def drop_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        """Shrink a running job to the nodes in `keep`; the batch host cannot be dropped."""
        ...

    def steps(self, job_id: str) -> Mapping[str, float]:
        """The job's steps without the batch script's own: by id, when each began (seconds since the epoch)."""
        ...

    def kill_steps(
        self, job_id: str, *, patience_s: float | None = None, lost_node: bool = False, looks: bool = True
    ) -> None:
        """SIGKILL every step of the job but the batch script. No steps is no error. `lost_node`: one of their nodes is
        gone; nobody waits for its report, and Slurm may keep the steps on its books until the job leaves its nodes.
        `looks`: also those that look at its nodes, which end by themselves."""
        ...

    def forbid_requeue(self, job_id: str) -> None:
        """Nothing brings a running job back once it has ended, whatever its status."""
        ...

    def release(self, job_id: str) -> None: ...
    def cancel(self, job_id: str) -> None: ...


class ClusterView(Protocol):
    """Reads about the whole cluster."""

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        """The named nodes, or all."""
        ...

    def jobs_on(self, nodes: Sequence[str]) -> tuple[JobView, ...]:
        """Active jobs that hold any of these nodes."""
        ...

    def pool_jobs(self) -> tuple[PoolJob, ...]:
        """Every job that is not over, with its partition and QOS."""
        ...

    def reservations(self) -> tuple[Reservation, ...]:
        """Every reservation, also those that have not begun."""
        ...

    def settings(self) -> Mapping[str, str]:
        """`scontrol show config` by key."""
        ...

    def scheduler_passes(self) -> int | None:
        """How often the main scheduler has run since slurmctld started; None when that cannot be known."""
        ...


class PoolSite(Protocol):
    """QOS, limits and preemption: slurmdbd and slurmctld, as root or an administrator of Slurm."""

    def pool(self) -> Pool:
        """Raises SlurmUnreachable, TryLaterError where slurmdbd does not answer, RefusedError where there is none."""
        ...

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]: ...
    def pool_jobs(self) -> tuple[PoolJob, ...]:
        """Every job that is not over."""
        ...

    def apply(self, argv: Sequence[str]) -> None:
        """One sacctmgr or scontrol command. Raises NotPermitted, CommandFailed, TryLaterError."""
        ...

    def conf_names(self, word: str) -> bool | None:
        """Whether slurm.conf or a file beside it has this word; None where that cannot be known."""
        ...


class SlurmSettings(Protocol):
    """How Slurm is set up."""

    def settings(self) -> Mapping[str, str]: ...
    def preemptable_partitions(self) -> tuple[Preemptable, ...]: ...
    def preemptable_qos(self) -> tuple[Preemptable, ...]:
        """Raises SovctlError where there is no slurmdbd."""
        ...

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]: ...


class Preemption(Protocol):
    """How Slurm preempts jobs."""

    def settings(self) -> Mapping[str, str]: ...
    def partitions(self) -> Mapping[str, Partition]: ...
    def preemptable_partitions(self) -> tuple[Preemptable, ...]: ...
    def preemptable_qos(self) -> tuple[Preemptable, ...]:
        """Raises SovctlError where there is no slurmdbd."""
        ...


class Accounting(Protocol):
    """Slurm's accounting (slurmdbd)."""

    def jobs(self, since: float, *, everybody: bool) -> tuple[AccountedJob, ...]:
        """Every execution of every job that was there after `since` (seconds since the epoch); `everybody`: not only
        the caller's. Raises SovctlError where the site has no accounting."""
        ...


class Submitter(Protocol):
    """sbatch itself."""

    def sbatch(
        self, options: Sequence[str], name: str, text: bytes, arguments: Sequence[str], *, wait: bool = False
    ) -> SubmitOutcome:
        """Submit a script that bears this name. With `wait` sbatch writes to our own stdout and stderr meanwhile.

        Raises CommandMissing.
        """
        ...

    def answer(self, options: Sequence[str]) -> SubmitOutcome:
        """What sbatch says to options alone (--version, a mistake); submits nothing."""
        ...


class NodePing(Protocol):
    """Asks slurmd's port. Each question leaves a line in that node's slurmd log, so ask only on suspicion."""

    def silent(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        """Names of those that refuse or do not answer within the adapter's deadline; all are asked at once."""
        ...

    def lifeless(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        """Names of those that refuse, do not answer, or take a connection and do nothing with it for a while."""
        ...


class JobQueue(Protocol):
    """The caller's jobs, all in one question."""

    def own_jobs(self) -> tuple[JobView, ...]:
        """Those that Slurm still knows, ended ones included; without priority and times. Raises SlurmUnreachable."""
        ...


@dataclass(frozen=True, slots=True)
class SubmitOutcome:
    """What sbatch said, unchanged."""

    status: int
    stdout: str
    stderr: str
