"""A site in memory for the watch on the controller: Slurm, the witnesses, the runs' words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from run_fakes import FakeClock

from sovctl.errors import JobNotFound, SlurmUnreachable
from sovctl.health.death import DeathLimits
from sovctl.health.sweep import SweepPolicy
from sovctl.model.job import FIRST_PRIORITY, JobSize, JobView
from sovctl.model.node import NodeState, NodeView
from sovctl.model.pool import PoolJob
from sovctl.model.reservation import Reservation
from sovctl.model.site_answer import SiteAnswer
from sovctl.model.verdict import Finding, Severity, Verdict, VerdictState
from sovctl.model.verdict_json import verdict_record
from sovctl.operations.sweep import SweepPorts, SweepSettings
from sovctl.operations.watch.cluster import ClusterWatch, WatchPorts, WatchSettings
from sovctl.operations.watch.deaths import DeathPorts, DeathSettings, WitnessPorts
from sovctl.operations.watch.suspects import SuspectPorts
from sovctl.ports.site import RemoteAnswer, SshFailure

RUN = "#!/bin/bash\nexec '/venv/bin/python' -P -m sovctl supervise --submitted 1 --name x -- \"$@\" 3<<'X'\n"
SPARED = RUN.replace("--name x", "--name x --spare-nodes 1")
BOOT = "boot-1"


class FakeSite:
    """Slurm as the watch sees it; commands are recorded and do what they say."""

    def __init__(self, clock: FakeClock, nodes: int) -> None:
        self.clock = clock
        names = [f"n{number:03d}" for number in range(1, nodes + 1)]
        self.machines = {name: NodeView(name, NodeState("ALLOCATED"), address=name, boot_time=1) for name in names}
        self.records: dict[str, JobView] = {}
        self.scripts: dict[str, str] = {}
        self.qos: dict[str, str] = {}
        self.reserved: list[Reservation] = []
        self.did: list[tuple[Any, ...]] = []
        self.away = False
        self.reads = 0
        self.changes = 0
        self.effect: Callable[[], None] = lambda: None
        """Called before each change; may kill the watch."""

    def mark(self) -> tuple[int, ...]:
        return (self.changes,)

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        if self.away:
            raise SlurmUnreachable
        self.reads += 1
        return tuple(view for name, view in self.machines.items() if not names or name in names)

    def jobs(self) -> tuple[JobView, ...]:
        return tuple(self.records.values())

    def job(self, job_id: str) -> JobView:
        if self.away:
            raise SlurmUnreachable
        if job_id not in self.records:
            raise JobNotFound(job_id)
        return self.records[job_id]

    def pool_jobs(self) -> tuple[PoolJob, ...]:
        return tuple(
            PoolJob(job.job_id, job.state, job.nodes, ("main",), self.qos.get(job.job_id, "normal"), 0, job.reason)
            for job in self.records.values()
        )

    def reservations(self) -> tuple[Reservation, ...]:
        return tuple(self.reserved)

    def preempted(self, qos: str) -> tuple[str, ...]:
        own = (job for job in self.records.values() if self.qos.get(job.job_id) == qos)
        return tuple(job.job_id for job in own if job.running and job.preempted_at is not None)

    def requeue(self, job_id: str) -> None:
        self._change("requeue", job_id)
        self.records[job_id] = replace(self.records[job_id], state="COMPLETING", preempted_at=None)

    def put_first(self, job_id: str) -> None:
        self._change("first", job_id)
        if job_id in self.records:
            self.records[job_id] = replace(self.records[job_id], priority=FIRST_PRIORITY)

    def release(self, job_id: str) -> None:
        self._change("release", job_id)
        self.records[job_id] = replace(self.records[job_id], priority=1, reason="None")

    def batch_script(self, job_id: str) -> str:
        return self.scripts.get(job_id, "#!/bin/sh\n")

    def settings(self) -> Mapping[str, str]:
        return {"ClusterName": "Lab"}

    def set_down(self, node: str, reason: str) -> None:
        self._change("down", node)
        self.machines[node] = replace(self.machines[node], state=NodeState("DOWN"), reason=reason)
        for job_id, job in list(self.records.items()):
            if node in job.nodes and job.running:
                self.requeued(job_id)

    def drain(self, node: str, reason: str) -> None:
        self._change("drain", node)
        state = NodeState("ALLOCATED", frozenset({"DRAIN"}))
        self.machines[node] = replace(self.machines[node], state=state, reason=reason)

    def set_weight(self, node: str, weight: int) -> None:
        self._change("weight", node, weight)

    def resume(self, node: str) -> None:
        self._change("resume", node)

    def drop_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        self._change("drop", job_id, tuple(keep))
        self.records[job_id] = replace(self.records[job_id], nodes=tuple(keep))

    def update_pending(
        self, job_id: str, *, exclude: Sequence[str] | None, begin: int | None, size: JobSize | None = None
    ) -> None:
        if size is not None:
            self._change("size", job_id, size.nodes, size.tasks, size.cpus)
            return
        assert exclude is not None
        if begin is None:
            self._change("pass", job_id, tuple(exclude))
            return
        self._change("terms", job_id, tuple(exclude), begin - int(self.clock.time))
        self.records[job_id] = replace(
            self.records[job_id], excluded=tuple(exclude), eligible_at=begin, reason="Resources"
        )

    def _change(self, *what: Any) -> None:
        if self.away:
            raise SlurmUnreachable
        self.effect()
        self.did.append(what)
        self.changes += 1

    def runs(self, job_id: str, *nodes: str, script: str = RUN) -> None:
        self.changes += 1
        extra = {"GroupId": "users(100)", "JobId": job_id}
        self.records[job_id] = JobView(
            job_id, "", "", 1000, "RUNNING", nodes=nodes, batch_host=nodes[0], work_dir="/home/u", extra=extra
        )
        self.scripts[job_id] = script

    def requeued(self, job_id: str, *, wait_s: int = 121) -> None:
        self.changes += 1
        self.records[job_id] = replace(
            self.records[job_id],
            state="PENDING",
            reason="BeginTime",
            nodes=(),
            restarts=1,
            priority=1,
            eligible_at=int(self.clock.time) + wait_s,
        )

    def waits(self, job_id: str, *, reason: str = "Resources") -> None:
        """A run that was requeued a moment ago and has begun to wait for nodes."""
        self.requeued(job_id, wait_s=0)
        self.records[job_id] = replace(self.records[job_id], reason=reason, submitted_at=int(self.clock.time))

    def preempt(self, job_id: str, *nodes: str, grace_s: int = 20) -> None:
        """A preemptible job was told to leave."""
        self.runs(job_id, *nodes, script="#!/bin/sh\n")
        self.qos[job_id] = "preemptible"
        now = int(self.clock.time)
        self.records[job_id] = replace(self.records[job_id], preempted_at=now, ends_at=now + grace_s)

    def stuck(self, job_id: str, *nodes: str) -> None:
        self.changes += 1
        self.records[job_id] = JobView(
            job_id, "", "", 1000, "COMPLETED", frozenset({"COMPLETING"}), nodes=nodes, ends_at=int(self.clock.time)
        )


class MemoryJournal:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.records: list[dict[str, Any]] = []
        self.effect: Callable[[], None] = lambda: None

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.effect()
        self.records.append({"seq": len(self.records) + 1, "at": self.clock.time, "kind": kind, **fields})
        return self.records[-1]

    def events(self) -> list[dict[str, Any]]:
        return list(self.records)


class Done:
    """Work beside the passes; over at once, if the site is not `slow`."""

    def __init__(self, work: Callable[[], Any], until: float, clock: FakeClock) -> None:
        self._answer = work()
        self._until, self._clock = until, clock

    @property
    def done(self) -> bool:
        return self._clock.time >= self._until

    def result(self) -> Any:
        return self._answer


class Watched:
    """A watch with everything around it; `start` begins it anew, as after a kill."""

    def __init__(
        self,
        *,
        nodes: int = 12,
        act: bool = True,
        limits: DeathLimits | None = None,
        ssh: bool = True,
        drains: bool = True,
        ask_unwatched_s: float = 60.0,
    ) -> None:
        self.clock = FakeClock()
        self.site = FakeSite(self.clock, nodes)
        self.journal = MemoryJournal(self.clock)
        self.said: list[str] = []
        self.silent_slurmds: set[str] = set()
        self.silent_watchers: set[str] = set()
        self.without_watcher: set[str] = set()
        self.shell: dict[str, RemoteAnswer | str] = {}
        """What a node says over SSH, if not that the same boot lives: an answer, or another boot id."""
        self.verdicts: dict[str, VerdictState] = {}
        self.power_off: set[str] = set()
        self.asked: list[tuple[str, ...]] = []
        self.words: dict[str, list[Any]] = {}
        self.answers: dict[str, tuple[SiteAnswer, ...]] = {}
        self.kept: Any = None
        self.freed: list[tuple[str, tuple[str, ...]]] = []
        self.freed_steps: list[tuple[str, tuple[str, ...], tuple[int, ...]]] = []
        """The same, of some steps only."""
        self.ended: list[tuple[str, tuple[str, ...]]] = []
        self.slow_s = 0.0
        """How long work beside the passes takes."""
        self.pinged: list[str] = []
        """Nodes whose slurmd was asked."""
        self._ask_unwatched_s = ask_unwatched_s
        self._heard_at: dict[str, float] = {}
        self.shortage: Callable[[], Sequence[str]] = tuple
        self._act, self._limits, self._ssh, self._drains = act, limits or DeathLimits(), ssh, drains
        self.start()

    def start(self) -> None:
        """A fresh process: what it knows is in the journal, the memory, and Slurm."""
        site: Any = self.site
        deaths = DeathPorts(site, self, self, WitnessPorts(self if self._ssh else None, self), self._beside, self.clock)  # type: ignore[arg-type]
        sweep = SweepPorts(site, self, self.journal, self, self.clock)  # type: ignore[arg-type]
        suspects = SuspectPorts(self, self, sweep, self._beside, self.clock)  # type: ignore[arg-type]
        ports = WatchPorts(
            deaths,
            suspects,
            self.site,
            _Kept(self),
            self.journal,
            self.clock,
            self._free,
            self._end,
            shortage=lambda: self.shortage(),
        )
        settings = WatchSettings(
            DeathSettings(self._act, limits=self._limits, ask_unwatched_s=self._ask_unwatched_s),
            SweepSettings(self._act and self._drains, SweepPolicy(), "stored", "check"),
            preemptible_qos="preemptible",
        )
        self.watch = ClusterWatch(ports, settings, self.said.append)

    def _free(self, job_id: str, nodes: Sequence[str], steps: Sequence[int] | None) -> None:
        if steps is None:
            self.freed.append((job_id, tuple(nodes)))
        else:
            self.freed_steps.append((job_id, tuple(nodes), tuple(steps)))

    def _end(self, job_id: str, nodes: Sequence[str]) -> None:
        """The watchers end it at once, and it waits for its next start."""
        self.site.effect()
        self.ended.append((job_id, tuple(nodes)))
        record = self.site.records[job_id]
        self.site.records[job_id] = replace(record, state="PENDING", nodes=(), reason="BeginTime", restarts=1)

    def _beside(self, work: Callable[[], Any]) -> Done:
        return Done(work, self.clock.time + self.slow_s, self.clock)

    def passes(self, seconds: int) -> None:
        """One pass a second."""
        for _ in range(seconds):
            self.clock.sleep(1.0)
            self.watch.turn()

    def kill_node(self, *nodes: str) -> None:
        """Everything on it is silent."""
        self.silent_slurmds |= set(nodes)
        self.silent_watchers |= set(nodes)
        self.shell |= dict.fromkeys(nodes, RemoteAnswer(failure=SshFailure.TIMEOUT, problem="no answer"))

    @property
    def kinds(self) -> list[str]:
        """Of what it did; where runs keep their records it writes down about any run."""
        return [event["kind"] for event in self.journal.records if event["kind"] != "records-at"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.journal.records if event["kind"] == kind]

    # The witnesses

    def silent(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        self.pinged += [node.name for node in nodes]
        return frozenset(node.name for node in nodes if node.name in self.silent_slurmds)

    def lifeless(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        return self.silent(nodes)

    def look(self, nodes: Sequence[str]) -> Mapping[str, float]:
        now = self.clock.time
        for name in nodes:
            if name not in self.silent_watchers or name not in self._heard_at:
                self._heard_at[name] = now
        return {name: now - self._heard_at[name] for name in nodes if name not in self.without_watcher}

    def boot_id(self, node: str) -> str:
        return "" if node in self.without_watcher else BOOT

    def off(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        return frozenset(node.name for node in nodes) & self.power_off

    def ask(self, nodes: Mapping[str, str], command: str, timeout_s: float) -> dict[str, RemoteAnswer]:
        self.asked.append((command, *nodes))
        return {name: self._answer(name, command) for name in nodes}

    def _answer(self, name: str, command: str) -> RemoteAnswer:
        said = self.shell.get(name, BOOT)
        if isinstance(said, RemoteAnswer):
            return said
        now = self.clock.time
        if command != "check":
            return RemoteAnswer(f"{said}\n1000.0 900.0\n".encode(), b"", 0, now, now)
        state = self.verdicts.get(name, VerdictState.HEALTHY)
        findings = (Finding("XID79", Severity.FAIL, "GPU 5 fell off the bus"),) if state is VerdictState.FAILED else ()
        record = verdict_record(Verdict(name, BOOT, now, state, findings=findings), 300.0)
        return RemoteAnswer(json.dumps(record).encode(), b"", 0, now, now)

    @contextmanager
    def take(self) -> Any:
        yield

    # The runs' words and the site's answers

    def read(self, runs: Sequence[Any]) -> Mapping[str, list[Any]]:
        return {run.job_id: self.words[run.job_id] for run in runs if run.job_id in self.words}

    def save(self, job_id: str, answers: Sequence[SiteAnswer]) -> None:
        self.site.effect()
        self.answers[job_id] = tuple(answers)

    def load(self, job_id: str) -> tuple[SiteAnswer, ...]:
        return self.answers.get(job_id, ())

    def prune(self, older_than: float) -> int:
        return 0


class _Kept:
    """The watch's memory, as JSON."""

    def __init__(self, around: Watched) -> None:
        self._around = around

    def load(self) -> Any:
        return json.loads(self._around.kept) if self._around.kept else None

    def save(self, record: dict[str, Any]) -> None:
        self._around.site.effect()
        self._around.kept = json.dumps(record)
