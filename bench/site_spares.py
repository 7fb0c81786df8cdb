"""A spare from the pool by preemption: how long from a fault (XID 79) until the script of a run runs again, on nodes
one of which did preemptible work until that second. Once with a victim that saves and leaves when it is told to, once
with one that uses up its grace time, once while another job waits at the limit. Beside it plain Slurm with its commands
typed the very second.

    make bench NAME=site_spares        BENCH_QUICK=1 leaves the long plain-Slurm run out
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from recovery import Bench  # noqa: E402
from report import Figure, figure, publish  # noqa: E402

from sovctl.lab import cluster  # noqa: E402
from sovctl.lab.training import Training, TrainingSpec  # noqa: E402

NODES, JOB_NODES, SPARES = 8, 6, 2
GRACE_S = 15
TARGET_S = 10.0
"""On top of the grace time that the victim uses."""
RUNS = 1 if os.environ.get("BENCH_QUICK") else 3
STUBBORN = """#!/bin/bash
#SBATCH --exclusive --gpus-per-node=8 --ntasks=1 --requeue
srun bash -c 'trap "" TERM; while :; do sleep 1; done'
"""
FILLER = TrainingSpec(steps=10**6, save_every=10**6, step_seconds=0.5, nodes=1, toy=True, sbatch=("--preemptible",))


class SpareBench(Bench):
    """The same script as in bench/recovery.py on a cluster that keeps spares."""

    fillers = 0

    def keep_spares(self, count: int) -> float:
        """Seconds that `sovctl spare set` takes."""
        began = time.monotonic()
        settings = self.lab.layout.site_config
        if "[spare]" not in settings.read_text():
            settings.write_text(f"{settings.read_text()}\n[spare]\ngrace_s = {float(GRACE_S)}\n")
        self.runner.run([sys.executable, "-P", "-m", "sovctl", "spare", "set", str(count)], timeout_s=120)
        return time.monotonic() - began

    def settle(self) -> None:
        """Until every node is judged healthy: a look that began before a node was healed may drain it again."""
        asked = [sys.executable, "-P", "-m", "sovctl", "spare", "status", "--json"]
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            super().settle()
            (status,) = json.loads(self.runner.run(asked, timeout_s=60).stdout)["partitions"]
            if status["left"] == SPARES:
                return
        raise SystemExit("a healed node is still judged failed")

    def saving_victims(self) -> None:
        """A supervised run on every spare."""
        for _ in range(SPARES):
            SpareBench.fillers += 1
            own = self.directory / f"filler-{SpareBench.fillers}"
            own.mkdir()
            run = Training(self.lab, own, FILLER)
            run.submit()
            run.await_step(2)

    def stubborn_victims(self) -> None:
        """A job on every spare that ends when it is killed."""
        script = self.directory / "stubborn.sh"
        script.write_text(STUBBORN)
        words = ["sbatch", "--parsable", "-N1", "-ppreemptible", "--qos=preemptible", "-o/dev/null", str(script)]
        jobs = [self.runner.run(words, timeout_s=60).stdout.strip() for _ in range(SPARES)]
        deadline = time.monotonic() + 60
        while not all(self.slurm.steps(job) for job in jobs):
            if time.monotonic() > deadline:
                queue = self.runner.run(["squeue", "-o", "%i %P %q %T %N %r"], timeout_s=30).stdout
                raise SystemExit(f"the preemptible jobs did not start:\n{queue}")
            time.sleep(0.1)

    def by_preemption(self, *, saving: bool) -> float:
        """Seconds from the fault to the script running again."""
        self.settle()
        job = self.submit(sys.executable, "-P", "-m", "sovctl", "submit")
        self.await_starts(job, 1, 60)
        if saving:
            self.saving_victims()
        else:
            self.stubborn_victims()
        node, at = self.strike(job)
        seconds = self.await_starts(job, 2, 240) - at
        if node in self.slurm.job(job).nodes:
            raise SystemExit(f"the job came back to {node}")
        print(f"{'saving' if saving else 'stubborn'} victim: {seconds:.1f} s", file=sys.stderr)
        return seconds

    def overtaken(self) -> float:
        """The same while a job waits at the limit, and takes the place of the run on its way through the queue."""
        self.settle()
        job = self.submit(sys.executable, "-P", "-m", "sovctl", "submit")
        self.await_starts(job, 1, 60)
        self.saving_victims()
        words = ["sbatch", "--parsable", "-N1", "--exclusive", "-o/dev/null", "--wrap=sleep 600"]
        queued = self.runner.run(words, timeout_s=60).stdout.strip()
        _, at = self.strike(job)
        seconds = self.await_starts(job, 2, 120) - at
        took = "took its place" if self.slurm.job(queued).running else "waited"
        self.slurm.cancel(queued)
        print(f"the queued job {took}: {seconds:.1f} s", file=sys.stderr)
        return seconds

    def plain(self) -> float:
        """The same with sbatch, `scontrol update State=DRAIN` and `scontrol requeue` the second the fault is there."""
        self.settle()
        job = self.submit("sbatch")
        self.await_starts(job, 1, 60)
        self.saving_victims()
        time.sleep(4.0)
        node, at = self.slurm.job(job).nodes[1], time.time()
        self.slurm.drain(node, "bench")
        self.slurm.requeue(job)
        return self.await_starts(job, 2, 400) - at


def measure() -> list[Figure]:
    """Every figure, on one lab."""
    with tempfile.TemporaryDirectory(prefix="sov-bench-", dir="/var/tmp") as name:
        root = Path(name)
        # munged wants a socket that everybody can reach.
        root.chmod(0o755)
        lab = cluster.up(
            cluster.Request(root / "lab", nodes=NODES, accounting=True, preemption=True, out_limit_per_hour=1000)
        )
        try:
            (work := root / "work").mkdir()
            bench = SpareBench(lab, work, JOB_NODES)
            set_s = bench.keep_spares(SPARES)
            saved = [bench.by_preemption(saving=True) for _ in range(RUNS)]
            forced = [bench.by_preemption(saving=False) for _ in range(RUNS)]
            overtaken = [bench.overtaken() for _ in range(RUNS)]
            plain = [] if os.environ.get("BENCH_QUICK") else [bench.plain()]
        finally:
            cluster.down(lab.layout.root)
    print(f"saving {saved}, stubborn {forced}, overtaken {overtaken}, plain {plain}", file=sys.stderr)
    title = "fault -> running again, a spare by preemption"
    return [
        figure(
            f"{title}, the victim saves and leaves",
            saved,
            "s",
            target=TARGET_S,
            versus="plain Slurm" if plain else None,
            versus_samples=plain,
        ),
        figure(f"{title}, the victim uses its grace of {GRACE_S} s", forced, "s", target=TARGET_S + GRACE_S),
        figure("slowest of them", [max(forced)], "s", target=TARGET_S + GRACE_S),
        figure(f"{title}, a job that waits at the limit takes its place", overtaken, "s"),
        figure("sovctl spare set, everything anew", [set_s], "s"),
    ]


def main() -> int:
    """Print every figure."""
    figures = measure()
    conditions = {"nodes": NODES, "job_nodes": JOB_NODES, "spares": SPARES, "grace_s": GRACE_S}
    publish("site_spares", figures, {**conditions, "load": round(statistics.fmean(os.getloadavg()[:2]), 1)})
    return 0 if all(item.met is not False for item in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
