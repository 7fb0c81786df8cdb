"""A run in memory: a clock of its own, a script, and Slurm as tests/contract holds it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slurm_fake import FakeSlurm

from sovctl.model.job_evidence import JobEvidence
from sovctl.model.node import NodeView
from sovctl.model.progress import Phase, Progress
from sovctl.model.site_answer import SiteAnswer
from sovctl.operations.supervisor.bring_back import BringBack
from sovctl.operations.supervisor.live_run import Ports, RunPlan
from sovctl.operations.supervisor.pass_watch import PassWatch
from sovctl.operations.supervisor.supervise import Supervisor
from sovctl.ports.supervised import WrittenFile
from sovctl.recovery.decide import Limits

NOW = 1_795_384_000.0
XID79 = "sovctl:20261122-1a2b XID79 GPU 5 fell off the bus"
PLAN = RunPlan(
    run_id="lab-1-1795384000",
    cluster="lab",
    job_id="1",
    submitted=1795384000,
    name="train.sh",
    script=b"#!/bin/sh\n",
    arguments=("--fast",),
    run_dir=Path("/runs/lab-1"),
    checkpoint_dir=Path("/nonexistent/checkpoints"),
    work_dir="/work",
    limits=Limits(),
    nodes=(),
    batch_host="",
    restarts=0,
    environment={"PATH": "/bin", "USER": "alice"},
)


class FakeClock:
    """Time passes only in waits; what is planned happens on the way."""

    def __init__(self) -> None:
        self.time = NOW
        self._planned: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, seconds: float, act: Callable[[], None]) -> None:
        """`seconds` after NOW."""
        self._planned.append((NOW + seconds, len(self._planned), act))
        self._planned.sort(key=lambda item: item[:2])

    def now(self) -> float:
        # A look costs a moment too, so that nothing can look for ever at the same instant.
        self.sleep(0.001)
        return self.time

    def sleep(self, seconds: float) -> None:
        until = self.time + max(seconds, 0.0)
        assert until < NOW + 100_000, "waits for ever"
        while self._planned and self._planned[0][0] <= until:
            at, _, act = self._planned.pop(0)
            self.time = max(self.time, at)
            act()
        self.time = max(self.time, until)


class FakeChild:
    """The user's script."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.status: int | None = None
        self.received: list[int] = []
        self.pid = 4711

    def end(self, status: int) -> None:
        if self.status is None:
            self.status = status

    def poll(self) -> int | None:
        return self.status

    def wait(self, timeout_s: float) -> int | None:
        deadline = self._clock.time + timeout_s
        while self.status is None and self._clock.time < deadline:
            self._clock.sleep(0.05)
        return self.status

    def send(self, signum: int) -> None:
        self.received.append(signum)

    def kill_group(self) -> None:
        self.end(-9)


class FakeJournal:
    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.records: list[dict[str, Any]] = []

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        record = {"seq": len(self.records) + 1, "at": self._clock.time, "kind": kind, **fields}
        self.records.append(record)
        return record

    def events(self) -> list[dict[str, Any]]:
        return list(self.records)


class FakeHold:
    """ports.SpareHold that tells what was held when."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.held: tuple[str, ...] = ()
        self.told: list[tuple[str, ...]] = []

    def hold(self, nodes: Sequence[str]) -> None:
        self.held = tuple(nodes)
        self.told.append(self.held)

    def release(self, nodes: Sequence[str] | None = None) -> Sequence[str]:
        if nodes is not None:
            assert set(nodes) <= set(self._run.job.nodes), "too late: it has left the job"
        stuck = tuple(node for node in self.held if node in self._run.silent_slurmds)
        self.held = tuple(node for node in self.held if nodes is not None and node not in nodes)
        return stuck


class Run:
    """Everything of one run; each `attempt` is one execution of its batch script."""

    def __init__(self, nodes: int = 4, count: int = 2, **slurm: Any) -> None:
        self.clock = FakeClock()
        self.slurm = FakeSlurm(self.clock, nodes, epilog_s=0.3, **slurm)
        self.journal = FakeJournal(self.clock)
        self.began = self.clock.time
        self.silent_slurmds: set[str] = set()
        self.said: list[str] = []
        """Lines in the job's own output."""
        self.image: Any = None
        """The image of the run; None: it has none."""
        self.hold = FakeHold(self)
        self.checkpoints: Any = None
        """Has checkpoints looked for; None: at once."""
        self.nodes: Any = None
        """Answers looks at the ranks; None: nobody looks."""
        self.output = ""
        self.written: dict[int, list[WrittenFile]] = {}
        """By process id of a script: where its steps write."""
        self.followed: list[str] = []
        self.words: Progress | None = None
        self.stops: list[tuple[int, str]] = []
        self.requeues_asked: dict[int, str] = {}
        """What the script of an attempt asked Slurm for: `requeue` or `requeuehold`."""
        self.evidence: list[JobEvidence] = []
        self.lemons: set[str] = set()
        self.site_answers: list[SiteAnswer] = []
        self.site_wrote: Callable[[], bool] = lambda: False
        self.children: list[FakeChild] = []
        self.environments: list[dict[str, str]] = []
        self.pending_signals: list[int] = []
        self.sigterm_at: float | None = None
        """When SIGTERM last came."""
        self.on_start: Callable[[FakeChild], None] = lambda child: None
        self.job_id = self.slurm.submit(count, supervised=True)
        self.slurm.records[self.job_id].stdout = "/out"

    # One life of the supervisor

    @property
    def job(self) -> Any:
        return self.slurm.records[self.job_id]

    def attempt(self, **plan: Any) -> int:
        """Run the supervisor of the job's present execution to its end."""
        return self.supervisor(**plan)()

    def supervisor(self, *, gives_up: bool = False, **plan: Any) -> Callable[[], int]:
        """A supervisor for the job's present execution, to be run now or later."""
        job = self.job
        assert job.state == "RUNNING", f"the job is {job.state}"
        own = replace(
            PLAN,
            job_id=self.job_id,
            nodes=job.nodes,
            batch_host=job.nodes[0],
            restarts=job.restarts,
            **plan,
        )
        ports = Ports(self.slurm, self.slurm, self.journal, self, self, self.start, self, self, self.clock)  # type: ignore[arg-type]
        ports = replace(
            ports,
            leftover=lambda run_dir, job_id: self.children[-1],
            evidence=lambda job_id: tuple(self.evidence),
            lemons=lambda: frozenset(self.lemons),
            site_answers=lambda job_id: tuple(self.site_answers),
            site_wrote=lambda nodes: self.site_wrote(),
            spares=self.hold,
            say=self.said.append,
            written=lambda pid: self.written.get(pid, ()),
        )
        ports = replace(ports, image=self.image)
        if self.checkpoints is not None:
            ports = replace(ports, checkpoints=self.checkpoints)
        if self.nodes is not None:
            ports = replace(ports, looks=self.nodes, run_output=self.nodes, kept=self.nodes)

        def live() -> int:
            own_life = Supervisor(own, ports)
            status = own_life.give_up("killed too often") if gives_up else own_life.run()
            self.slurm.leave(self.job_id)
            return status

        return live

    def back(self, nodes: Sequence[str]) -> BringBack:
        """What the supervisor brings its job back with."""
        passes = PassWatch(self.slurm, self.clock)
        return BringBack(
            self.job_id, 0, self.job.restarts, nodes, nodes[0], 2.0,
            self.slurm, self.slurm, self.journal, self.clock, passes,
        )  # fmt: skip

    def await_start(self) -> float:
        """Let time pass until Slurm runs the job again; returns how long that took."""
        began = self.clock.time
        while self.slurm.job(self.job_id).state != "RUNNING":
            assert self.clock.time < began + 400, f"the job is {self.job}"
            self.clock.sleep(0.1)
        return self.clock.time - began

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.journal.records if record["kind"] == kind]

    @property
    def kinds(self) -> list[str]:
        return [record["kind"] for record in self.journal.records]

    def steps(self, step: int, *, attempt: int = 0, at: float | None = None) -> None:
        """Rank 0 says that it does steps."""
        when = self.clock.time if at is None else at
        self.words = Progress(0, "n001", 1, attempt, Phase.RUNNING, when - 5, step=step, step_at=when, step_seconds=0.5)

    def deliver(self, signum: int) -> None:
        """A signal to the supervisor."""
        self.pending_signals.append(signum)
        if signum == signal.SIGTERM:
            self.sigterm_at = self.clock.time

    # Ports

    def start(self, argv: Sequence[str], env: Mapping[str, str]) -> FakeChild:
        child = FakeChild(self.clock)
        self.children.append(child)
        self.environments.append(dict(env))
        self.on_start(child)
        return child

    def wait(self, timeout_s: float) -> tuple[int, ...]:
        until = self.clock.time + timeout_s
        while self.clock.time < until and not self.pending_signals:
            self.clock.sleep(min(0.05, until - self.clock.time) + 1e-6)
        received, self.pending_signals = tuple(self.pending_signals), []
        return received

    @property
    def terminated_at(self) -> float | None:
        return self.sigterm_at

    def ignore_termination(self) -> None:
        return

    def silent(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        return frozenset(node.name for node in nodes) & self.silent_slurmds

    def lifeless(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        return self.silent(nodes)

    def begin(self) -> None:
        return

    def follow(self, file: WrittenFile) -> None:
        self.followed.append(file.path)

    def read(self, path: str) -> str:
        return self.output if path in ("/out", "") or path in self.followed else ""

    def size(self, path: str) -> int | None:
        # It grows all the time: a script without words of its own that is well.
        return int(self.clock.time * 1000)

    def prepare(self, record: Mapping[str, Any]) -> None:
        return

    def record(self) -> dict[str, Any]:
        return {}

    def start_attempt(self, attempt: int, name: str, script: bytes) -> str:
        return f"/runs/attempts/{attempt}/{name}"

    def guard_requeue(self, attempt: int) -> str:
        return f"/runs/attempts/{attempt}/bin"

    def put_before(self, attempt: int, name: str, text: str) -> str:
        return f"/runs/attempts/{attempt}/bin"

    def requeue_asked(self, attempt: int) -> str:
        return self.requeues_asked.get(attempt, "")

    def ask_stop(self, attempt: int, why: str) -> None:
        self.stops.append((attempt, why))

    def progress(self, rank: int) -> Progress | None:
        return self.words

    def all_progress(self) -> tuple[Progress, ...]:
        return (self.words,) if self.words else ()
