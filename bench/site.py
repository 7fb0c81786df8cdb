"""What only the site can do, measured: a dead node until its run works again, beside plain Slurm with its defaults on
the same lab; how soon the death is decided; what the watch costs while nothing happens.

    make bench NAME=site        BENCH_QUICK=1 leaves the long plain-Slurm run out

One function a topic; `TOPICS` lists them, and `python bench/site.py NAME...` measures only those.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import site_ledger
import site_spares
from report import Figure, figure, publish

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.node.alive import AliveFile, AliveMarks
from sovctl.adapters.slurm.parse import parse_nodes
from sovctl.health.death import in_service, suspects
from sovctl.lab import cluster, faults

SCRIPT = """#!/bin/bash
#SBATCH --nodes=4 --exclusive --requeue --open-mode=append
echo "started $(date +%s.%N)"
srun sleep 10000
"""
QUICK = bool(os.environ.get("BENCH_QUICK"))
IDLE_S = 60.0


class Site:
    """A lab with its watch, and the same script over and over."""

    def __init__(self, lab: cluster.Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.slurm = cluster.slurm(lab.layout)
        self.runner = CommandRunner(lab.environment)
        (directory / "script.sh").write_text(SCRIPT)

    def submit(self, *program: str) -> str:
        """Submit with sbatch or sovctl submit; returns the job id when its script runs."""
        options = ["--parsable", f"--chdir={self.directory}", str(self.directory / "script.sh")]
        job = self.runner.run([*program, *options], timeout_s=60).stdout.strip()
        self.await_starts(job, 1, 60)
        return job

    def await_starts(self, job: str, count: int, seconds: float) -> float:
        """Wait for the count-th start of the script; its time."""
        deadline = time.monotonic() + seconds
        while True:
            path = self.directory / f"slurm-{job}.out"
            text = path.read_text("utf-8", "replace") if path.exists() else ""
            starts = re.findall(r"^started (\d+\.\d+)$", text, re.MULTILINE)
            if len(starts) >= count:
                return float(starts[count - 1])
            if time.monotonic() > deadline:
                raise SystemExit(f"job {job} did not start {count} times within {seconds:g} s")
            time.sleep(0.05)

    def kill_batch_host(self, job: str) -> tuple[str, float]:
        """The node that nobody with a user's rights can do without; its name and the time."""
        time.sleep(3.0 + random.random() * 3)
        host = self.slurm.job(job).batch_host
        return host, faults.inject(self.lab, "node-dead", host).at

    def journal(self) -> list[dict[str, object]]:
        """What the watch wrote."""
        lines = (self.lab.layout.journal_dir / "watch.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def decided(self, node: str, after: float) -> float:
        """When the watch was about to set this node down."""
        at = next(
            event["at"]
            for event in self.journal()
            if event["kind"] == "down-intended" and event["node"] == node and float(str(event["at"])) > after
        )
        return float(str(at))


@contextmanager
def site(nodes: int, **request: object) -> Iterator[Site]:
    """A lab of this size for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        lab = cluster.up(cluster.Request(Path(name) / "lab", nodes=nodes, **request))  # type: ignore[arg-type]
        try:
            yield Site(lab, Path(name))
        finally:
            cluster.down(lab.layout.root)


def death() -> list[Figure]:
    """The batch host dies: to the decision, and to the script running again."""
    ours, decided, plain = [], [], []
    with site(8, out_limit_per_hour=20) as run:
        for _ in range(3):
            job = run.submit(sys.executable, "-P", "-m", "sovctl", "submit")
            node, at = run.kill_batch_host(job)
            ours.append(run.await_starts(job, 2, 120) - at)
            decided.append(run.decided(node, at) - at)
            if node in run.slurm.job(job).nodes:
                raise SystemExit(f"the job came back to {node}")
            run.slurm.cancel(job)
    if not QUICK:
        with site(8, health=False) as run:
            job = run.submit("sbatch")
            _, at = run.kill_batch_host(job)
            plain.append(run.await_starts(job, 2, 900) - at)
    print(f"running again {ours}, decided {decided}, plain Slurm {plain}", file=sys.stderr)
    return [
        figure(
            "batch host dies to script running again",
            ours,
            "s",
            target=35.0,
            versus="plain Slurm with its defaults, sbatch --requeue",
            versus_samples=plain,
        ),
        figure("slowest of them", [max(ours)], "s", target=35.0),
        figure("batch host dies to the decision of the watch", decided, "s", target=20.0),
    ]


def idle() -> list[Figure]:
    """What the watch costs at 64 nodes while a job runs on most of them and nothing happens."""
    with site(64) as run:
        job = run.runner.run(
            ["sbatch", "--parsable", "--nodes=60", "--exclusive", "-o", "/dev/null", "--wrap", "srun sleep 1000"],
            timeout_s=60,
        ).stdout.strip()
        deadline = time.monotonic() + 60
        while not run.slurm.job(job).running and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(15.0)
        watch = next(item.pid for item in run.lab.processes if item.role == "watch")
        before, began = cpu_s(watch), time.monotonic()
        time.sleep(IDLE_S)
        used = (cpu_s(watch) - before) / (time.monotonic() - began)
        memory = peak_mb(watch)
        every_second = [reading_s(run) for _ in range(20)]
        run.slurm.cancel(job)
    return [
        figure(
            "watch at 64 nodes, CPU with all its children, nothing happens",
            [100 * used],
            "% of a core",
            target=1.0,
            versus="scontrol show node and squeue each second",
            versus_samples=[100 * item for item in every_second],
        ),
        figure("watch at 64 nodes, largest resident memory", [memory], "MB", target=80.0),
    ]


LARGE = 5000
_RECORD = (
    "NodeName=n{number:04d} Arch=x86_64 CoresPerSocket=1 CPUAlloc=32 CPUTot=32 CPULoad=1.00 AvailableFeatures=(null) "
    "ActiveFeatures=(null) Gres=gpu:8 NodeAddr=10.0.0.1 NodeHostName=n{number:04d} Version=22.05.8 OS=Linux 6.1.0 SMP "
    "RealMemory=64000 AllocMem=0 FreeMem=100 Sockets=32 Boards=1 State=ALLOCATED ThreadsPerCore=1 TmpDisk=0 Weight=1 "
    "Owner=N/A MCS_label=N/A Partitions=main BootTime=1795380000 SlurmdStartTime=1795385000 LastBusyTime=1795385000 "
    "CfgTRES=cpu=32,mem=62.5G,billing=32 AllocTRES=cpu=32 CapWatts=n/a CurrentWatts=0 AveWatts=0 Comment=(null)"
)


def large() -> list[Figure]:
    """What a pass costs the watch itself at 5,000 nodes: every mark that is its turn, and taking apart what scontrol
    prints. slurmctld and the network are not in it."""
    text = "\n".join(_RECORD.format(number=number) for number in range(LARGE))
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        names = [f"n{number:04d}" for number in range(LARGE)]
        for node in names:
            AliveFile(Path(name), node).refresh("boot", 1.0)
        marks = AliveMarks(Path(name))
        passes, readings = [], []
        for _ in range(10):
            began = time.process_time()
            nodes = parse_nodes(text)
            readings.append(time.process_time() - began)
        for _ in range(30):
            began = time.process_time()
            silent = marks.look([node.name for node in nodes if in_service(node)])
            suspects(nodes, silent, 6.0)
            passes.append(1000 * (time.process_time() - began))
    return [
        figure(f"watch at {LARGE} nodes, CPU of a pass in which nothing changed", passes, "ms"),
        figure(f"watch at {LARGE} nodes, CPU of taking a reading of all nodes apart", readings, "s"),
    ]


def reading_s(run: Site) -> float:
    """CPU seconds of one reading of all nodes and jobs, of the commands and of taking them apart."""
    before = os.times()
    run.slurm.nodes()
    run.slurm.jobs()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and of its children that ended."""
    text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    ticks = text[text.rfind(")") + 2 :].split()[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The most memory it ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found
    return int(found[1]) / 1000


TOPICS: dict[str, Callable[[], list[Figure]]] = {
    "death": death,
    "idle": idle,
    "large": large,
    "spares": site_spares.measure,
    "ledger": site_ledger.measure,
}


def main() -> None:
    """Measure the topics named, or all, and print."""
    chosen = sys.argv[1:] or list(TOPICS)
    figures = [item for name in chosen for item in TOPICS[name]()]
    publish(
        "site",
        figures,
        {
            "slurm_conf_defaults_kept": ["KillWait", "SlurmdTimeout", "cred_expire", "SchedulerParameters"],
            "nodes": "all slurmd on one machine, loopback",
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
    )


if __name__ == "__main__":
    main()
