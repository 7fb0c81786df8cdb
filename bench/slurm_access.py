"""What it costs to read the whole cluster: Slurm's commands beside pyslurm, on the same real slurmctld.

make bench NAME=slurm_access       with the Python of a Slurm that pyslurm fits: see CONTRIBUTING.md
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import Figure, figure, publish

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.slurm.api import SlurmApi
from sovctl.adapters.slurm.cli import SlurmCli
from sovctl.errors import SovctlError
from sovctl.lab import cluster
from sovctl.lab.processes import stop

NODES = 64
MANY = 5000
JOBS = 50
RUNS = 15
SCRIPT = "#!/bin/sh\n#SBATCH --nodes=1\nsleep 600\n"


def timed(ask: Callable[[], object]) -> list[float]:
    """Milliseconds of each run, after one that warms the caches."""
    ask()
    samples = []
    for _ in range(RUNS):
        began = time.perf_counter()
        ask()
        samples.append((time.perf_counter() - began) * 1000)
    return samples


def pair(what: str, by_command: Callable[[], object], by_api: Callable[[], object] | None) -> Figure:
    """One reading by both ways; the commands alone where pyslurm does not fit."""
    commands = timed(by_command)
    if by_api is None:
        return figure(f"{what}, commands", commands, "ms")
    return figure(f"{what}, pyslurm", timed(by_api), "ms", versus="commands", versus_samples=commands)


def figures(lab: cluster.Lab, size: int) -> tuple[list[Figure], str]:
    """Nodes and jobs of the cluster as it is; and why pyslurm was not used."""
    commands, api = SlurmCli(CommandRunner(lab.environment)), SlurmApi(CommandRunner(lab.environment))
    try:
        why = api.unusable
        found = [
            pair(f"every node of {size}", commands.nodes, None if why else api.nodes),
            pair(f"every job, {JOBS} on {size} nodes", commands.jobs, None if why else api.jobs),
        ]
        assert len(commands.nodes()) == len(api.nodes()) == size
        assert len(commands.jobs()) == len(api.jobs()) == JOBS
    finally:
        api.close()
    return found, why


def enlarge(lab: cluster.Lab) -> cluster.Lab:
    """The same controller with nodes that are only on its books: what is measured is what it tells of them."""
    with open(lab.layout.slurm_conf, "a", encoding="utf-8") as conf:
        conf.write(f"NodeName=m[0001-{MANY - NODES:04d}] NodeAddr=127.0.0.1 Port=9 CPUs=32 Gres=gpu:8 State=DOWN\n")
    with open(lab.layout.gres_conf, "a", encoding="utf-8") as gres:
        gres.write(f"NodeName=m[0001-{MANY - NODES:04d}] Name=gpu File=/dev/tty[0-7]\n")
    stop([mark for mark in lab.processes if mark.role == "slurmctld"])
    again = cluster.restart_slurmctld(lab)
    slurm, deadline = cluster.slurm(lab.layout), time.monotonic() + 60
    while len(cluster_nodes(slurm)) != MANY:
        if time.monotonic() > deadline:
            raise SystemExit(f"slurmctld does not know {MANY} nodes after a minute")
        time.sleep(0.2)
    return again


def cluster_nodes(slurm: SlurmCli) -> tuple[object, ...]:
    """Every node, or nothing while the controller starts."""
    try:
        return slurm.nodes()
    except SovctlError:
        return ()


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        lab = cluster.up(cluster.Request(Path(name) / "lab", nodes=NODES, gpus=8, health=False))
        try:
            runner = CommandRunner(lab.environment)
            for _ in range(JOBS):
                runner.run(["sbatch", "--output=/dev/null", "--chdir=/"], input=SCRIPT, timeout_s=30)
            few, why = figures(lab, NODES)
            lab = enlarge(lab)
            many, why = figures(lab, MANY)
            version = cluster.slurm(lab.layout).settings()["SLURM_VERSION"]
        finally:
            cluster.down(lab.layout.root)
    conditions = {"cores": os.cpu_count(), "slurm": version, "pyslurm": why or "used", "one_command_each": True}
    publish("slurm_access", [*few, *many], conditions)


if __name__ == "__main__":
    main()
