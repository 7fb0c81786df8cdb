"""What the health checks cost: prolog, check, watcher, burn-in, sweep, judgement; and what others cost here.

Prints one JSON object (`sovctl.bench/1`) on stdout and a table on stderr. Exit status 0 when every target is met.
The node is simulated (8 GPUs through the real NVML binding, 8 fabric ports); the watcher drains in a real Slurm.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "bench")]

import sweep as sweep_bench  # noqa: E402

from sovctl.adapters.command import CommandRunner  # noqa: E402
from sovctl.health.judge import judge  # noqa: E402
from sovctl.health.probes import PROBES  # noqa: E402
from sovctl.lab import cluster, gpus  # noqa: E402
from sovctl.lab.host import write_healthy_host, write_port  # noqa: E402
from sovctl.model.gpu import GpuSample  # noqa: E402
from sovctl.model.host import HostFacts, MountSample, Outcome, PortSample, SourceReading  # noqa: E402
from sovctl.model.inventory import Inventory  # noqa: E402
from sovctl.model.node import NodeSnapshot  # noqa: E402
from sovctl.model.verdict import VerdictState  # noqa: E402

PROLOGS, CHECKS, DRAINS, MANY = 100, 20, 4, 10_000
IDLE_S = 60.0
"""So long the watchers are left alone while their CPU time is taken: each part of the host comes several times."""
GCM_QUOTED_MS, NHC_QUOTED_MS = 1000.0, 140.0
GCM_PACKAGE, GCM_INSTALL_S = "gpucm", 120.0
GCM_CHECK = ("check-storage", "mounted-directory", "lab", "prolog", "--directory", "/", "--sink", "do_nothing")
NHC_SOURCE = "NHC 1.4.3 with 7 checks, measured earlier on another machine; Debian has no package of it"
GCM_SOURCE = "one check of GCM, measured earlier on another machine; gpucm could not be installed here"


def main() -> int:
    """Every figure; judging in a process of its own, because memory counts."""
    if sys.argv[1:2] == ["--judge"]:
        print(json.dumps(judge_nodes(int(sys.argv[2]))))
        return 0
    with tempfile.TemporaryDirectory(prefix="sovbench", dir="/var/tmp") as scratch:
        Path(scratch).chmod(0o755)
        others = other_tools(Path(scratch))
        figures = [*on_one_node(Path(scratch), others), *in_a_lab(Path(scratch)), *judge_many()]
        figures += [*sweep_bench.sweep_over_ssh(), *sweep_bench.judge_many(), *others.values()]
    print(json.dumps({"schema": "sovctl.bench/1", "name": "health", "figures": figures}))
    for figure in figures:
        met = {True: "met", False: "MISSED", None: ""}[figure["met"]]
        said = f"{figure['name']:<48} {figure['value']:>9.2f} {figure['unit']:<5} target {figure['target']} {met}"
        print(said, file=sys.stderr)
    return 0 if all(figure["met"] is not False for figure in figures) else 1


def figure(
    name: str, value: float, unit: str, runs: int, target: float | None, versus: str = "", versus_value: float = 0.0
) -> dict[str, Any]:
    """One line of the result; lower is better."""
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "runs": runs,
        "versus": versus or None,
        "versus_value": versus_value or None,
        "ratio": round(versus_value / value, 2) if versus_value and value else None,
        "target": target,
        "met": None if target is None else value <= target,
    }


def other_tools(scratch: Path) -> dict[str, dict[str, Any]]:
    """What GCM and NHC take, measured here where they can be had, otherwise quoted with the source named."""
    gcm = measured_gcm(scratch / "gcm")
    if gcm:
        said = figure("GCM: one check (mounted-directory): median", median(gcm), "ms", len(gcm), None)
        said["source"] = f"{GCM_PACKAGE} of PyPI, in this run"
    else:
        said = {**figure("GCM: one check, quoted", GCM_QUOTED_MS, "ms", 0, None), "source": GCM_SOURCE}
    nhc = {**figure("NHC: 7 checks, quoted", NHC_QUOTED_MS, "ms", 0, None), "source": NHC_SOURCE}
    return {"gcm": said, "nhc": nhc}


def measured_gcm(venv: Path) -> list[float]:
    """Start to end of one of its checks; nothing where it cannot be installed within two minutes."""
    command = venv / "bin" / "health_checks"
    try:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, capture_output=True, timeout=60)
        pip = [str(venv / "bin" / "pip"), "install", "-q", GCM_PACKAGE]
        subprocess.run(pip, check=True, capture_output=True, timeout=GCM_INSTALL_S)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"GCM is not measured: {type(error).__name__}", file=sys.stderr)
        return []
    times = []
    for _ in range(CHECKS // 2 + 1):
        began = time.perf_counter()
        done = subprocess.run([str(command), *GCM_CHECK], capture_output=True, text=True, check=False, cwd=venv)
        times.append((time.perf_counter() - began) * 1000)
        if "Usage:" in done.stderr or "Traceback" in done.stderr:
            print(f"GCM is not measured: {done.stderr[-200:]}", file=sys.stderr)
            return []
    # The first one compiles the modules.
    return times[1:]


def on_one_node(scratch: Path, others: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Prolog and check as slurmd starts them, process start included."""
    env = simulated_node(scratch)
    scripts = HERE / "plugins" / "slurmd"
    run = Runner(env)
    run([sys.executable, "-P", "-m", "sovctl", "health", "probes", "--learn"])
    run([sys.executable, "-P", "-m", "sovctl", "health", "check"])
    prolog = sorted(run([str(scripts / "prolog")]) for _ in range(PROLOGS))
    epilog = [run([str(scripts / "epilog")]) for _ in range(CHECKS)]
    check = [run([sys.executable, "-P", "-m", "sovctl", "health", "check"]) for _ in range(CHECKS)]
    bare = [run([sys.executable, "-S", "-c", "pass"]) for _ in range(CHECKS)]
    burn_in = [run([sys.executable, "-P", "-m", "sovctl", "health", "burn-in", "--piece", "matmul"])]
    count = 1 + sum(probe.quick for probe in PROBES)
    gcm, nhc = others["gcm"], others["nhc"]
    name = f"prolog, {count} checks, 8 GPUs"
    return [
        figure(f"{name}: median", median(prolog), "ms", PROLOGS, 100.0, nhc["name"], nhc["value"]),
        figure(f"{name}: p99", prolog[int(0.99 * (PROLOGS - 1))], "ms", PROLOGS, 250.0, gcm["name"], gcm["value"]),
        figure("epilog: median", median(epilog), "ms", CHECKS, None),
        figure(f"health check, {len(PROBES)} probes, 8 GPUs: median", median(check), "ms", CHECKS, 500.0),
        figure("burn-in, matmul for 1 s on the CPU, start of torch included", burn_in[0], "ms", 1, None),
        figure("the interpreter alone: median", median(bare), "ms", CHECKS, None),
    ]


class Runner:
    """Runs a program that must succeed; gives its wall time in milliseconds."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env

    def __call__(self, argv: list[str]) -> float:
        began = time.perf_counter()
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, check=False, cwd="/")
        took_ms = (time.perf_counter() - began) * 1000
        if done.returncode != 0 or "Traceback" in done.stderr or "could not" in done.stderr:
            raise SystemExit(f"{argv} failed: {done.stdout} {done.stderr}")
        return took_ms


def simulated_node(scratch: Path) -> dict[str, str]:
    """A whole node: its files and the environment in which slurmd would start a prolog."""
    node = scratch / "nodes" / "n001"
    node.mkdir(parents=True)
    library = gpus.build_nvml(scratch / "lib", CommandRunner())
    gpus.write_healthy_state(node / "nvml.state", "n001", 8)
    gpus.write_boot_id(node / "boot_id")
    (node / "kmsg").touch()
    for number in range(2000):
        gpus.append_kernel_line(node / "kmsg", f"audit: a line like any other {number}", priority=6)
    write_healthy_host(node / "host")
    for number in range(8):
        write_port(node / "host", f"mlx5_{number}")
    (node / "sovctl.toml").write_text(
        f'[node]\nname = "n001"\nkernel_log = "{node}/kmsg"\nboot_id_file = "{node}/boot_id"\nrun_dir = "{node}/run"\n'
        f'state_dir = "{node}/state"\nhost_root = "{node}/host"\nexpected_gpus = 8\n[slurm]\nbin_dir = "{scratch}"\n'
        '[burn_in]\ndevice = "cpu"\nseconds = 1\n'
    )
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(HERE),
        "SOVCTL_PACKAGE_DIR": str(HERE),
        "SOVCTL_PYTHON": sys.executable,
        "SOVCTL_CONFIG": str(node / "sovctl.toml"),
        "SOVCTL_LAB_DIR": str(scratch),
        "SOVCTL_LAB_NODE": "n001",
        "SLURM_JOB_ID": "7",
        "LD_LIBRARY_PATH": str(library.parent),
    }


def in_a_lab(scratch: Path) -> list[dict[str, Any]]:
    """From the kernel's line to DRAIN in slurmctld's own answer, one node after the other."""
    if shutil.which("slurmctld", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
        print("slurmctld is not installed: the watcher is not measured", file=sys.stderr)
        return []
    root = scratch / "lab"
    lab = cluster.up(cluster.Request(root, nodes=DRAINS, gpus=8))
    try:
        slurm = cluster.slurm(lab.layout)
        watchers = [item.pid for item in lab.processes if item.role.startswith("watcher:")]
        idle = idle_cpu_percent(watchers)
        memory = [watcher_memory_mb(pid) for pid in watchers]
        times = []
        for node in lab.nodes:
            await_true(lambda node=node: (lab.layout.node_dir(node) / "run" / "verdict.json").exists())
            began = time.perf_counter()
            gpus.append_kernel_line(lab.layout.node_dir(node) / "kmsg", gpus.xid_line(119, gpu_address(lab, node)))
            await_true(lambda node=node: slurm.nodes([node])[0].state.draining)
            times.append(time.perf_counter() - began)
    finally:
        cluster.down(root)
    return [
        figure("watcher: kernel line to DRAIN: median", median(times), "s", len(times), 1.0),
        figure("watcher: kernel line to DRAIN: worst", max(times), "s", len(times), 1.0),
        figure("watcher: memory, worst", max(memory), "MB", len(memory), 60.0),
        figure("watcher: CPU when nothing happens, worst", max(idle), "%", len(idle), 0.5),
    ]


def gpu_address(lab: cluster.Lab, node: str) -> str:
    """GPU 5 of a node as the kernel prints it."""
    state = gpus.read_state(lab.layout.node_dir(node) / "nvml.state")
    return state["gpu5.pci_bus_id"].lower()[4:].rpartition(".")[0]


def idle_cpu_percent(pids: list[int]) -> list[float]:
    """Of one core, children included, over a minute."""
    before = [cpu_seconds(pid) for pid in pids]
    began = time.monotonic()
    time.sleep(IDLE_S)
    passed = time.monotonic() - began
    return [100 * (cpu_seconds(pid) - spent) / passed for pid, spent in zip(pids, before, strict=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that ended (proc(5): utime, stime, cutime, cstime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def watcher_memory_mb(pid: int) -> float:
    """What a process holds of its own (proportional set size)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def await_true(look: Callable[[], bool], within_s: float = 20.0) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + within_s
    while not look():
        if time.monotonic() > deadline:
            raise SystemExit("waited too long")
        time.sleep(0.01)


def judge_many() -> list[dict[str, Any]]:
    """Judging snapshots of a large cluster: time, memory, and growth from half as many; in processes of their own."""
    said = {count: [judged_apart(count) for _ in range(3)] for count in (MANY // 2, MANY)}
    took = {count: median(run["seconds"] for run in runs) for count, runs in said.items()}
    memory = max(run["memory_mb"] for run in said[MANY])
    return [
        figure(f"judging {MANY} nodes x 8 GPUs", took[MANY], "s", 3, 1.0),
        figure(f"judging {MANY} nodes x 8 GPUs: memory", memory, "MB", 3, 300.0),
        figure("growth from half as many (2 is linear)", took[MANY] / took[MANY // 2], "x", 3, 2.5),
    ]


def judged_apart(count: int) -> dict[str, float]:
    """In a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--judge", str(count)], capture_output=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def judge_nodes(count: int) -> dict[str, float]:
    """Every hundredth node has a fault; all snapshots are held at once, as a recorded file would be."""
    inventory = Inventory(
        gpus=8, nvlinks=18, pcie_width=16, ports={f"mlx5_{n}/1": 400.0 for n in range(8)}, mounts={"/data": "rw"}
    )
    host = HostFacts(
        ports=tuple(PortSample(f"mlx5_{n}", 1, "InfiniBand", "ACTIVE", "LinkUp", 400.0) for n in range(8)),
        mounts=(MountSample("/data", "nfs4", False),),
        readings=tuple(SourceReading(name, Outcome.SEEN, 1.0) for name in ("infiniband", "mounts")),
    )
    snapshots = [
        NodeSnapshot(f"n{n:05d}", "boot", 0.0, samples(n), expected_gpus=8, host=host, inventory=inventory)
        for n in range(count)
    ]
    began = time.perf_counter()
    states = [judge(snapshot).state for snapshot in snapshots]
    seconds = time.perf_counter() - began
    if states.count(VerdictState.FAILED) != count // 100 or states.count(VerdictState.HEALTHY) != count - count // 100:
        raise SystemExit("judged wrongly")
    return {"seconds": seconds, "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def samples(node: int) -> tuple[GpuSample, ...]:
    """Eight GPUs; on every hundredth node one with a memory error."""
    return tuple(
        GpuSample(
            n,
            f"GPU-{node}-{n}",
            f"{node}{n}",
            "NVIDIA B200",
            f"00000000:{15 + 17 * n:02X}:00.0",
            ecc_volatile_uncorrected=int(node % 100 == 99 and n == 3),
            pcie_width=16,
            nvlinks_active=18,
        )
        for n in range(8)
    )


if __name__ == "__main__":
    sys.exit(main())
