"""Slurm in memory, as far as the contracts of JobControl, NodeControl and ClusterView go.

Held to tests/contract/test_slurm.py together with the real one. Time is a Clock's, so it may be a test's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sovctl.errors import CommandFailed, JobNotFound, SlurmUnreachable
from sovctl.model.job import JobSize, JobView
from sovctl.model.node import NodeState, NodeView
from sovctl.model.pool import PoolJob
from sovctl.model.reservation import Reservation
from sovctl.ports.common import Clock

REQUEUE_DELAY_S = 121
"""cred_expire + 1: what a begin time that is not in the future is replaced by."""


@dataclass
class FakeNode:
    name: str
    drained: bool = False
    down: bool = False
    failing: bool = False
    reason: str = ""
    reason_at: int | None = None
    port: int = 6818


@dataclass
class FakeJob:
    job_id: str
    count: int
    state: str = "PENDING"
    becomes: str = ""
    """What a completing job is on its way to."""
    restarts: int = 0
    nodes: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    begin: float = 0.0
    held: bool = False
    requeue: bool = True
    expedited: bool = False
    """Submitted with --requeue=expedite, where that is enabled."""
    reason: str = "None"
    qos: str = "normal"
    steps: int = 0
    supervised: bool = False
    """Its batch script stays until `leave`, as a supervisor does; else it dies when it is told to."""
    present: bool = False
    ended_at: float = 0.0
    ends_at: int | None = None
    limit_s: float | None = None
    preempted_at: int | None = None
    stdout: str = ""
    started_at: float = 0.0
    starts: list[tuple[str, ...]] = field(default_factory=list)
    """The nodes of each execution."""

    @property
    def batch_host(self) -> str:
        return self.nodes[0] if self.nodes else ""


class FakeSlurm:
    """One partition, whole nodes, one job a node."""

    def __init__(self, clock: Clock, nodes: int = 4, *, epilog_s: float = 0.05) -> None:
        self._clock = clock
        self._epilog_s = epilog_s
        self._since = clock.now()
        self._passes = 0
        self.machines = {f"n{number:03d}": FakeNode(f"n{number:03d}") for number in range(1, nodes + 1)}
        self.records: dict[str, FakeJob] = {}
        self.unreachable: Callable[[], bool] = lambda: False
        self.version = "22.05.8"
        self.accounting = "accounting_storage/none"
        self.preempt_type = "preempt/none"
        self.epilog = "(null)"
        self.scheduler = "(null)"
        self.own_delay_s = REQUEUE_DELAY_S
        self.begins: list[int | None] = []
        """Every begin time that was asked for."""
        self.requests: list[str] = []
        self.reserved: list[Reservation] = []

    # What a test does to it

    def submit(
        self, count: int, *, held: bool = False, steps: int = 0, supervised: bool = False, exclude: Sequence[str] = ()
    ) -> str:
        job_id = str(len(self.records) + 1)
        job = FakeJob(job_id, count, held=held, steps=steps, supervised=supervised, excluded=tuple(exclude))
        self.records[job_id] = job
        self._passes += 1
        self._pass_time()
        return job_id

    def leave(self, job_id: str) -> None:
        """The supervised batch script has ended."""
        job = self.records[job_id]
        self._pass_time()
        if job.present:
            job.present = False
            if job.state == "RUNNING":
                self._complete(job, "COMPLETED")
            job.ended_at = self._clock.now()

    def roll_back(self, job_id: str, job: FakeJob) -> None:
        """slurmctld came back with an older state."""
        self.records[job_id] = job

    def set_down(self, node: str, reason: str) -> None:
        self._answer(f"down {node}")
        machine = self.machines[node]
        machine.down, machine.reason = True, reason
        for job in self._holders(node):
            if job.state == "RUNNING":
                job.restarts += 1
                self._complete(job, "PENDING")

    def resume(self, node: str) -> None:
        self._answer(f"resume {node}")
        machine = self.machines[node]
        machine.down = machine.drained = machine.failing = False
        machine.reason, machine.reason_at = "", None

    # NodeControl and ClusterView

    def node(self, name: str) -> NodeView:
        return self.nodes([name])[0]

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        self._answer("nodes")
        return tuple(self._view(self.machines[name]) for name in (names or self.machines))

    def drain(self, node: str, reason: str) -> None:
        self._answer(f"drain {node}")
        machine = self.machines[node]
        machine.drained, machine.reason, machine.reason_at = True, reason, int(self._clock.now())

    def jobs_on(self, nodes: Sequence[str]) -> tuple[JobView, ...]:
        self._answer("jobs_on")
        return tuple(self._job_view(job) for job in self.records.values() if set(job.nodes) & set(nodes))

    def pool_jobs(self) -> tuple[PoolJob, ...]:
        self._answer("pool_jobs")
        active = [job for job in self.records.values() if job.state in ("PENDING", "RUNNING", "COMPLETING")]
        return tuple(PoolJob(job.job_id, job.state, job.nodes, ("main",), job.qos, reason=job.reason) for job in active)

    def reservations(self) -> tuple[Reservation, ...]:
        self._answer("reservations")
        return tuple(self.reserved)

    def settings(self) -> Mapping[str, str]:
        self._answer("settings")
        return {
            "PreemptType": self.preempt_type,
            "SLURM_VERSION": self.version,
            "AccountingStorageType": self.accounting,
            "Epilog": self.epilog,
            "SchedulerParameters": self.scheduler,
            "KillWait": "30 sec",
            "SlurmdTimeout": "300 sec",
            "SlurmUser": "root(0)",
        }

    def scheduler_passes(self) -> int | None:
        self._answer("scheduler_passes")
        return self._passes + int((self._clock.now() - self._since) // 3)

    # JobControl

    def job(self, job_id: str) -> JobView:
        self._answer(f"job {job_id}")
        return self._job_view(self._find(job_id))

    def requeue(self, job_id: str, *, hold: bool = False) -> None:
        self._answer(f"requeue {job_id}")
        job = self._find(job_id)
        if job.state != "RUNNING":
            # `scontrol requeue incomplete` passes over it and says nothing.
            return
        if not job.requeue:
            # ESLURM_DISABLED, held or not.
            raise CommandFailed(["scontrol", "requeue"], 1, "Requested operation is presently disabled")
        job.restarts += 1
        job.held = job.held or hold
        self._complete(job, "PENDING")

    def update_pending(
        self, job_id: str, *, exclude: Sequence[str] | None, begin: int | None, size: JobSize | None = None
    ) -> None:
        self._answer(f"update {job_id}")
        job = self._find(job_id)
        if job.state != "PENDING" and job.becomes != "PENDING":
            raise CommandFailed(["scontrol", "update"], 1, "Job is no longer pending execution")
        if exclude is not None:
            unknown = [name for name in exclude if name not in self.machines]
            if unknown:
                raise CommandFailed(["scontrol", "update"], 1, "Invalid node name specified")
            job.excluded = tuple(sorted(exclude))
        self.begins.append(begin)
        if begin is not None:
            job.begin = float(begin)
        if size is not None:
            job.count = size.nodes

    def drop_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        self._answer(f"drop {job_id}")
        job = self._find(job_id)
        if job.state != "RUNNING" or not set(keep) <= set(job.nodes):
            raise CommandFailed(["scontrol", "update"], 1, "Requested node configuration is not available")
        if job.batch_host not in keep:
            raise CommandFailed(["scontrol", "update"], 1, "Requested operation not supported on this job")
        job.nodes = tuple(name for name in job.nodes if name in keep)

    def steps(self, job_id: str) -> dict[str, float]:
        self._answer(f"steps {job_id}")
        job = self._find(job_id)
        return {f"{job_id}.{number}": job.started_at for number in range(job.steps)}

    def kill_steps(
        self, job_id: str, *, patience_s: float | None = None, lost_node: bool = False, looks: bool = True
    ) -> None:
        self._answer(f"kill_steps {job_id}")
        self._find(job_id).steps = 0

    def forbid_requeue(self, job_id: str) -> None:
        self._answer(f"forbid_requeue {job_id}")
        self._find(job_id).requeue = False

    def release(self, job_id: str) -> None:
        self._answer(f"release {job_id}")
        self._find(job_id).held = False

    def cancel(self, job_id: str) -> None:
        self._answer(f"cancel {job_id}")
        job = self._find(job_id)
        if job.state == "PENDING":
            job.state = "CANCELLED"
        elif job.state == "RUNNING":
            self._complete(job, "CANCELLED")
        elif job.state == "COMPLETING":
            # Cancelled while its requeue completes: that is the end of it.
            job.becomes = "CANCELLED"
            job.state = "CANCELLED" if not job.nodes else job.state

    # Time

    def _answer(self, request: str) -> None:
        if self.unreachable():
            raise SlurmUnreachable("Unable to contact slurm controller (connect failure)")
        self.requests.append(request)
        self._pass_time()

    def _pass_time(self) -> None:
        now = self._clock.now()
        for job in self.records.values():
            if job.state == "COMPLETING":
                self._epilogs(job, now)
            if job.state == "PENDING" and not job.held and job.begin <= now:
                self._start(job, now)

    def _complete(self, job: FakeJob, becomes: str) -> None:
        job.state, job.becomes, job.steps = "COMPLETING", becomes, 0
        job.ended_at = self._clock.now()
        job.present = job.present and job.supervised

    def _epilogs(self, job: FakeJob, now: float) -> None:
        if now < job.ended_at + self._epilog_s:
            return
        if job.present:
            job.nodes = (job.batch_host,)
            return
        job.nodes = ()
        job.state, job.becomes = job.becomes, ""
        if job.state == "PENDING" and job.begin <= now:
            job.begin, job.reason = (0.0, "None") if job.expedited else (now + self.own_delay_s, "BeginTime")

    def _start(self, job: FakeJob, now: float) -> None:
        free = [name for name in self._free() if name not in job.excluded]
        if len(self.machines) - len(set(job.excluded) & set(self.machines)) < job.count:
            # Set aside: nothing but a change of the job itself brings it back.
            job.reason = "BadConstraints"
            return
        if len(free) < job.count or not set(job.required) <= set(free):
            job.reason = "Resources"
            return
        job.state, job.nodes, job.reason = "RUNNING", tuple(free[: job.count]), "None"
        job.present, job.started_at = True, now
        job.starts.append(job.nodes)

    def _free(self) -> list[str]:
        return [
            name
            for name, machine in self.machines.items()
            if not (machine.drained or machine.down or machine.failing) and not self._holders(name)
        ]

    def _holders(self, node: str) -> list[FakeJob]:
        return [job for job in self.records.values() if node in job.nodes]

    def _find(self, job_id: str) -> FakeJob:
        if job_id not in self.records:
            raise JobNotFound(job_id)
        return self.records[job_id]

    def _view(self, machine: FakeNode) -> NodeView:
        busy = bool(self._holders(machine.name))
        flags = {"DRAIN"} if machine.drained else set()
        flags |= {"FAIL"} if machine.failing else set()
        base = "DOWN" if machine.down else "ALLOCATED" if busy else "IDLE"
        return NodeView(
            machine.name,
            NodeState(base, frozenset(flags)),
            reason=machine.reason,
            reason_by="root" if machine.reason else "",
            reason_at=machine.reason_at,
            address="127.0.0.1",
            port=machine.port,
            partitions=("main",),
        )

    def _job_view(self, job: FakeJob) -> JobView:
        return JobView(
            job_id=job.job_id,
            name="x",
            user="root",
            uid=0,
            state=job.state,
            reason="" if job.reason == "None" else job.reason,
            restarts=job.restarts,
            nodes=job.nodes,
            excluded=job.excluded,
            required=job.required,
            batch_host=job.batch_host,
            eligible_at=int(job.begin) or None,
            started_at=int(job.started_at) or None,
            ends_at=job.ends_at,
            limit_s=job.limit_s,
            preempted_at=job.preempted_at,
            requeue=job.requeue,
            expedited=job.expedited,
            priority=0 if job.held else 1,
            stdout=job.stdout,
            stderr=job.stdout,
            extra={"JobId": job.job_id, "Partition": "main", "QOS": job.qos},
        )
