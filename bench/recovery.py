"""How long until the script runs again after a fault, side by side: sovctl, plain Slurm with its commands typed the
very second, and the floor (sbatch to first line on an idle cluster). Same lab, same script, same fault: XID 79 through
the queue, XID 79 with a spare in the allocation, a rank that dies. Then hangs: how soon they are decided.

    make bench NAME=recovery        BENCH_QUICK=1 leaves the long plain-Slurm runs out, BENCH_LARGE_HANG=1 adds the hang
                                    of one rank of a job on 60 nodes; `python bench/recovery.py hang`: only hangs
"""

from __future__ import annotations

import math
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from report import Figure, figure, publish

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.journal import FileJournal
from sovctl.adapters.slurm.job_look import SrunLook
from sovctl.lab import cluster, faults
from sovctl.lab.training import Training, TrainingSpec

SCRIPT = """#!/bin/bash
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --open-mode=append
echo "started $(date +%s.%N)"
srun sleep 10000
"""
QUICK = bool(os.environ.get("BENCH_QUICK"))
SIZES = ((8, 6, 6.0), (64, 60, 6.0))
"""Nodes of the cluster, nodes of the job, target in seconds."""
SPARE_TARGET_S = 3.0
PLAIN_CRASH_S = 60.0
"""So long plain Slurm is given to bring back a job one of whose ranks died."""


@dataclass
class Back:
    """What one kind of fault led to, over several runs."""

    fault: str
    seconds: list[float] = field(default_factory=list)
    """From the fault to the script running again in the same allocation."""
    queued: list[dict[str, Any]] = field(default_factory=list)
    """Runs that were brought back through the queue instead: their seconds, and the journal that says why."""


class Bench:
    """One lab and the same script over and over."""

    def __init__(self, lab: cluster.Lab, directory: Path, job_nodes: int) -> None:
        self.lab = lab
        self.directory = directory
        self.job_nodes = job_nodes
        self.slurm = cluster.slurm(lab.layout)
        self.runner = CommandRunner(lab.environment)
        self.script = directory / "script.sh"
        self.script.write_text(SCRIPT)

    def submit(self, *program: str) -> str:
        """Submit with sbatch or sovctl submit; returns the job id."""
        options = ["--parsable", f"--nodes={self.job_nodes}", f"--chdir={self.directory}", str(self.script)]
        return self.runner.run([*program, *options], timeout_s=60).stdout.strip()

    def starts(self, job: str) -> list[float]:
        """When the script started, each time."""
        path = self.directory / f"slurm-{job}.out"
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        return [float(at) for at in re.findall(r"^started (\d+\.\d+)$", text, re.MULTILINE)]

    def await_starts(self, job: str, count: int, seconds: float) -> float:
        """Wait for the count-th start; its time."""
        deadline = time.monotonic() + seconds
        while len(self.starts(job)) < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"job {job} did not start {count} times within {seconds:g} s: {self.stand(job)}")
            time.sleep(0.05)
        return self.starts(job)[count - 1]

    def stand(self, job: str) -> str:
        """What Slurm says of a job that does not start, and of the nodes it cannot have."""
        said = self.runner.run(
            ["squeue", "--noheader", f"--jobs={job}", "--format=%T %r %S"], timeout_s=30, check=False
        )
        away = self.runner.run(
            ["sinfo", "--noheader", "--list-reasons", "--format=%N %E %H"], timeout_s=30, check=False
        )
        return f"{said.stdout.strip()}; {away.stdout.strip()}"

    def settle(self) -> None:
        """No job, every node in service again."""
        self.runner.run(["scancel", "--user", str(os.geteuid())], timeout_s=30, check=False)
        deadline, calm_since = time.monotonic() + 90, math.inf
        while time.monotonic() < deadline:
            if not self.at_rest():
                calm_since = math.inf
            # What ran before must not lend this run its scheduler passes; and a check that began before the node was
            # mended may still drain it.
            elif time.monotonic() - (calm_since := min(calm_since, time.monotonic())) > 5.0:
                return
            time.sleep(0.2)
        raise SystemExit("the cluster did not come to rest")

    def at_rest(self) -> bool:
        """Mends and gives back what is drained; whether every node is idle and in service."""
        nodes = self.slurm.nodes()
        for node in nodes:
            if node.state.draining and "COMPLETING" not in node.state.flags:
                faults.heal(self.lab, node.name)
                self.slurm.resume(node.name)
        return all(node.state.base == "IDLE" and not node.state.flags & {"DRAIN", "COMPLETING"} for node in nodes)

    def floor(self) -> float:
        """Seconds from sbatch to the script's first line, nothing else running."""
        self.settle()
        began = time.time()
        return self.await_starts(self.submit("sbatch"), 1, 60) - began

    def strike(self, job: str) -> tuple[str, float]:
        """XID 79 on a node of the job that is not its batch host; the node and the time."""
        # Any moment of the scheduler's second.
        time.sleep(4.0 + random.random() * 2)
        held = self.slurm.job(job).nodes
        injected = faults.inject(self.lab, "xid:79", held[1], 5)
        return held[1], injected.at

    def sovctl(self) -> float:
        """Seconds from the fault to the script running again, by sovctl alone."""
        self.settle()
        job = self.submit(sys.executable, "-P", "-m", "sovctl", "submit")
        self.await_starts(job, 1, 60)
        node, at = self.strike(job)
        again = self.await_starts(job, 2, 120) - at
        if node in self.slurm.job(job).nodes:
            raise SystemExit(f"the job came back to {node}")
        return again

    def in_allocation(self, fault: str, *options: str, times: int = 5) -> Back:
        """Seconds from a fault of one node to the script running again in the same allocation. A run that goes through
        the queue is a figure of its own, not the end of the benchmark."""
        back = Back(fault)
        for _ in range(times):
            self.settle()
            job = self.submit(sys.executable, "-P", "-m", "sovctl", "submit", *options)
            self.await_starts(job, 1, 60)
            self.await_steps(job)
            time.sleep(random.random() * 2)
            node = self.slurm.job(job).nodes[1]
            at = faults.inject(self.lab, fault, node, 5).at
            again = self.await_starts(job, 2, 240) - at
            if self.slurm.job(job).restarts:
                back.queued.append({"fault": fault, "seconds": round(again, 2), "events": self.events(job)})
                print(f"job {job} went through the queue after {fault}: {again:.1f} s", file=sys.stderr)
            else:
                back.seconds.append(again)
        return back

    def events(self, job: str) -> list[dict[str, Any]]:
        """The journal of a run."""
        (found,) = (self.directory / ".sovctl" / "runs").glob(f"*-{job}-*")
        return FileJournal(found / "events.jsonl").events()

    def await_steps(self, job: str) -> None:
        """Wait until its ranks run on every node."""
        deadline = time.monotonic() + 60
        node = self.slurm.job(job).nodes[1]
        while not faults.rank_processes(self.lab.layout, node):
            if time.monotonic() > deadline:
                raise SystemExit(f"no rank of job {job} started on {node}")
            time.sleep(0.2)

    def plain(self) -> float:
        """The same with Slurm's own commands, typed the second the fault is known."""
        self.settle()
        job = self.submit("sbatch")
        self.await_starts(job, 1, 60)
        node, at = self.strike(job)
        self.slurm.drain(node, "XID 79, by hand")
        self.slurm.requeue(job)
        return self.await_starts(job, 2, 400) - at

    def plain_crash(self, seconds: float = PLAIN_CRASH_S) -> float | None:
        """Seconds until plain Slurm has the script running again after a rank died; None: not within `seconds`."""
        self.settle()
        job = self.submit("sbatch")
        self.await_starts(job, 1, 60)
        self.await_steps(job)
        at = faults.inject(self.lab, "rank-crash", self.slurm.job(job).nodes[1]).at
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if len(starts := self.starts(job)) > 1:
                return starts[1] - at
            time.sleep(0.05)
        return None


@contextmanager
def bench(nodes: int, job_nodes: int) -> Iterator[Bench]:
    """A lab of this size for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        lab = cluster.up(cluster.Request(Path(name) / "lab", nodes=nodes))
        try:
            yield Bench(lab, Path(name), job_nodes)
        finally:
            cluster.down(lab.layout.root)


def measure(nodes: int, job_nodes: int, target: float) -> tuple[list[Figure], list[dict[str, Any]]]:
    """All figures of one cluster size, and the runs that went through the queue and should not have."""
    with bench(nodes, job_nodes) as run:
        floor = [run.floor() for _ in range(3)]
        ours = [run.sovctl() for _ in range(5)]
        theirs = [] if QUICK else [run.plain()]
        spare = run.in_allocation("xid:79", "--spare-nodes=2")
        crash = run.in_allocation("rank-crash")
        plain_crash = [] if QUICK else [run.plain_crash()]
    where = f"{nodes} nodes, job on {job_nodes}"
    for name, samples in (("requeue", ours), ("spare", spare.seconds), ("crash", crash.seconds)):
        print(f"{where}: {name} {[round(item, 2) for item in samples]}", file=sys.stderr)
    by_hand = "plain Slurm, drain and requeue by hand at once"
    figures = [
        figure(
            f"XID 79 to script running again, {where}",
            ours,
            "s",
            target=target,
            versus=by_hand,
            versus_samples=theirs,
        ),
        figure(f"slowest of them, {where}", [max(ours)], "s", target=target),
        *_in_allocation(
            f"XID 79 to script running again on a spare of the allocation, {where}",
            spare,
            by_hand,
            theirs,
            target=SPARE_TARGET_S,
        ),
        *_in_allocation(f"a rank dies to script running again, {where}", crash, *_waited(plain_crash)),
        figure(f"floor: sbatch to first line on the idle cluster, {where}", floor, "s"),
    ]
    return figures, [*spare.queued, *crash.queued]


def _in_allocation(
    name: str, back: Back, versus: str, versus_samples: list[float], *, target: float | None = None
) -> list[Figure]:
    """The median and the slowest of those that stayed in their allocation, and how many did not."""
    stayed = back.seconds and [
        figure(name, back.seconds, "s", target=target, versus=versus, versus_samples=versus_samples),
        figure(f"slowest of them, {name}", [max(back.seconds)], "s", target=target),
    ]
    return [*stayed, figure(f"through the queue instead, {name}", [len(back.queued)], "runs", target=0)]


def _waited(plain: list[float | None]) -> tuple[str, list[float]]:
    """How plain Slurm did with a rank that died: how long it took, or how long nobody came."""
    came = [item for item in plain if item is not None]
    if came or not plain:
        return "plain Slurm", came
    return "plain Slurm, still not back (srun lets the other ranks wait)", [PLAIN_CRASH_S]


HANG_TIMEOUT_S = 5.0
RANKS = """#!/bin/bash
#SBATCH --nodes={nodes} --ntasks-per-node={per_node} --gpus-per-node=8
srun {python} -c '
import time
from sovctl.train import Heartbeat, RunContext
heartbeat = Heartbeat(RunContext.from_env())
for step in range(1, 100000):
    time.sleep({step_s})
    heartbeat.beat(step)
'
"""


@dataclass(frozen=True)
class HangSize:
    """One cluster in which ranks hang, and what hangs in it, one after the other."""

    nodes: int
    job_nodes: int
    per_node: int
    step_s: float
    start_s: float
    """So long its ranks may take until their first step."""
    faults: tuple[str, ...]
    stacks: bool = True
    """Ask for the stacks of all ranks before: sixty at once are more than one machine answers in time."""

    @property
    def ranks(self) -> int:
        return self.job_nodes * self.per_node


SMALL_HANG = HangSize(8, 4, 4, 0.2, 120, ("rank-hang", "rank-hang", "rank-hang", "node-frozen"))
LARGE_HANG = HangSize(64, 60, 1, 1.0, 240, ("rank-hang",), stacks=False)
LARGE_HANG_WANTED = bool(os.environ.get("BENCH_LARGE_HANG"))


def hang(size: HangSize) -> list[Figure]:
    """Stacks of all ranks, and how long after its timeout a hang is decided, of a rank and of a node."""
    stacks: list[float] = []
    decided: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        lab = cluster.up(cluster.Request(Path(name) / "lab", nodes=size.nodes, health=False, accounting=True))
        try:
            for fault in size.faults:
                took, after = hang_once(lab, Path(name), size, fault)
                stacks += [took] if took is not None else []
                decided.setdefault(fault, []).append(after)
        finally:
            cluster.down(lab.layout.root)
    words = {"rank-hang": "a stopped rank", "node-frozen": "a frozen node"}
    where = f"{size.ranks} ranks on {size.job_nodes} nodes"
    asked = stacks and [figure(f"stacks of {where}, srun and Python included", stacks, "s", target=5.0)]
    return [
        *asked,
        *(
            figure(f"hang decided after its timeout, {words[fault]}, {where}", found, "s", target=10.0)
            for fault, found in decided.items()
        ),
    ]


def hang_once(lab: cluster.Lab, directory: Path, size: HangSize, fault: str) -> tuple[float | None, float]:
    """One run that hangs: seconds for its stacks before, if asked, and from the end of its patience to the verdict."""
    run = Training(lab, directory, TrainingSpec())
    script = directory / "ranks.sh"
    script.write_text(
        RANKS.format(python=sys.executable, nodes=size.job_nodes, per_node=size.per_node, step_s=size.step_s)
    )
    words = ("--parsable", f"--chdir={directory}", f"--hang-timeout={HANG_TIMEOUT_S:g}", str(script))
    run.job_id = run.sovctl("submit", *words).stdout.strip()
    run.await_event("first_step", size.start_s)
    nodes = run.events("attempt_started")[0]["nodes"]
    took = stacks_of(lab, run.job_id, nodes, size.ranks) if size.stacks else None
    # A stopped rank 0 says nothing any more; a frozen node is noticed by the silence of the rank beside it.
    faults.inject(lab, "rank-hang", nodes[0])
    at = time.time()
    if fault == "node-frozen":
        faults.inject(lab, fault, nodes[2])
    event = run.await_event("hang", 120)
    run.sovctl("run", "stop", run.job_id)
    for node in dict.fromkeys((nodes[0], nodes[2])):
        faults.heal(cluster.load(lab.layout.root), node)
    return took, event["at"] - at - HANG_TIMEOUT_S


def stacks_of(lab: cluster.Lab, job: str, nodes: list[str], ranks: int) -> float:
    """Seconds from the question to the last of all stacks."""
    look, began = SrunLook(job, {**os.environ, **lab.environment}), time.monotonic()
    look.begin(nodes, since=time.time(), stacks=True, gpus=8)
    while (answer := look.poll()) is None:
        time.sleep(0.02)
    took = time.monotonic() - began
    if sum(bool(rank.stack) for node in answer.looks for rank in node.ranks) != ranks:
        raise SystemExit(f"not every rank has a stack: {answer}")
    return took


def main() -> None:
    """Measure both sizes and print; with the argument `hang` only the hangs."""
    sizes = () if sys.argv[1:] == ["hang"] else SIZES
    figures: list[Figure] = []
    queued: list[dict[str, Any]] = []
    for nodes, job_nodes, target in sizes:
        found, elsewhere = measure(nodes, job_nodes, target)
        figures += found
        queued += [{"nodes": nodes, **item} for item in elsewhere]
    for size in (SMALL_HANG, LARGE_HANG) if LARGE_HANG_WANTED else (SMALL_HANG,):
        figures += hang(size)
    publish(
        "recovery",
        figures,
        {
            "slurm_conf_defaults_kept": ["KillWait", "SlurmdTimeout", "cred_expire", "SchedulerParameters"],
            "slurm_conf_differs": {
                "ProctrackType": "proctrack/linuxproc",
                "TaskPlugin": "task/none",
                "SelectType": "select/cons_tres with CR_Core",
                "SlurmdParameters": "config_overrides",
                "HealthCheckInterval": "60",
                "nodes": "all slurmd on one machine, loopback",
            },
            "cores": os.cpu_count(),
            "went_through_the_queue": queued,
            "fault": "XID 79 line in the node's kernel log and the GPU gone from NVML; detection and drain included",
        },
    )


if __name__ == "__main__":
    main()
