"""Faults by name, injected into a running lab the way they would happen."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sovctl.adapters.command import spawn
from sovctl.adapters.node.host_probe import HostFiles
from sovctl.adapters.node.node_records import NodeRecordFiles
from sovctl.adapters.site.local_shell import UNREACHABLE
from sovctl.errors import SovctlError, UsageError
from sovctl.health.learn import learn
from sovctl.lab import cluster, gpus, processes, storage
from sovctl.lab.host import write_healthy_host, write_mounts, write_port
from sovctl.lab.layout import Layout
from sovctl.model.inventory import inventory_record
from sovctl.model.node import NodeSnapshot


@dataclass(frozen=True, slots=True)
class Injected:
    """What was done to which node, and when (seconds since the epoch)."""

    fault: str
    node: str
    at: float
    did: str


FAULTS = {
    "xid:CODE": "a driver error line in the node's kernel log; 79 also takes the GPU off the bus",
    "ecc-uncorrectable": "an uncorrectable memory error: volatile and aggregate counters and the kernel line",
    "node-dead": "slurmd, its watcher and every step of the node die at once",
    "rank-crash": "one training process of the node dies of a segmentation fault",
    "rank-hang": "one training process of the node is stopped (SIGSTOP)",
    "gpu-slow": "a GPU at 60 % of its clock without a reason; one training process computes 60 % of the time",
    "thermal-throttle": "a GPU at 96 degrees that the hardware slows down",
    "link-flap": "the first InfiniBand port of the node goes down for a second and comes back",
    "node-frozen": "slurmd, its watcher and every step of the node stand still (SIGSTOP) and answer nothing",
    "disk-full": "not a byte is left on the lab's scratch storage (lab up --scratch)",
    "storage-hang": "whoever writes to the lab's scratch storage waits in the kernel (lab up --scratch)",
    "slurmctld-down": "the controller dies; the node does not matter",
    "supervisor-killed": "the supervisor of the run whose batch host this is dies (SIGKILL)",
    "port-down": "the first InfiniBand port of the node goes down and stays down",
    "port-flap": "the first InfiniBand port goes down and comes back six times",
    "mount-gone": "/data is no longer mounted on the node",
    "mount-hang": "the server of /data no longer answers the node: whoever touches it waits in the kernel (/dev/fuse)",
    "mount-read-only": "the kernel of the node has made /data read-only",
}


_SLOW_SHARE = 0.4
"""Part of the time a slowed process stands still."""


def inject(lab: cluster.Lab, fault: str, node: str, gpu: int | None = None) -> Injected:
    """Do it now. Raises UsageError for a fault, node or GPU there is not; SovctlError when it cannot be done."""
    _check_node(lab, node)
    act, needs_gpu = _action(fault)
    if needs_gpu and (gpu is None or not 0 <= gpu < lab.gpus):
        raise UsageError(
            f"{fault} happens to one GPU: name it with --gpu 0..{lab.gpus - 1}"
            if lab.gpus
            else f"{fault} needs a GPU, and this lab has none",
            hint="See: sovctl lab inject --help" if lab.gpus else "Start one with GPUs: sovctl lab up --gpus 8",
        )
    at = time.time()
    return Injected(fault, node, at, act(lab, node, gpu or 0))


def heal(lab: cluster.Lab, node: str) -> str:
    """Undo what was injected: GPUs whole again, daemons running. The drain stays: giving a node back is a decision."""
    _check_node(lab, node)
    layout = lab.layout
    storage.thaw(layout)
    storage.empty(layout)
    storage.answer_again(layout.node_dir(node))
    (layout.node_dir(node) / UNREACHABLE).unlink(missing_ok=True)
    _release_processes(layout, node)
    if not any(item.role == "slurmctld" and item.alive for item in lab.processes):
        lab = cluster.restart_slurmctld(lab)
    gpus.write_healthy_state(layout.node_dir(node) / "nvml.state", node, lab.gpus)
    write_healthy_host(layout.node_dir(node) / "host")
    running = {item.role for item in lab.processes if item.alive}
    fresh = []
    if f"slurmd:{node}" not in running:
        fresh.append(cluster.start_slurmd(layout, node))
        if any(item.role == f"watcher:{node}" for item in lab.processes):
            fresh.append(cluster.start_watcher(layout, node))
    roles = {item.role for item in fresh}
    kept = tuple(item for item in lab.processes if item.role not in roles)
    cluster.save(replace(lab, processes=(*kept, *fresh)))
    started = ", ".join(sorted(roles)) or "nothing"
    return f"GPUs of {node} healthy again; started {started}"


def node_processes(layout: Layout, node: str) -> set[int]:
    """Every process that would be gone if the node lost power: its daemons, its steps and what they started."""
    return _processes(layout, layout.spool_dir / node, lambda name: name == node)


def lab_processes(layout: Layout) -> set[int]:
    """What still runs on any node of the lab: one look, however many nodes there are."""
    return _processes(layout, layout.spool_dir, lambda name: name is not None)


def _processes(layout: Layout, spool: Path, belongs: Callable[[str | None], bool]) -> set[int]:
    """Holders of sockets below `spool`, and processes of this lab whose SLURMD_NODENAME (None: unset) belongs."""
    found = processes.holders_of_sockets_below(spool)
    conf = str(layout.slurm_conf)
    for pid in processes.all_pids():
        env = processes.environment(pid)
        if env.get("SLURM_CONF") == conf and belongs(env.get("SLURMD_NODENAME")):
            found.add(pid)
    return found


def rank_processes(layout: Layout, node: str) -> list[int]:
    """The training processes of srun's tasks on a node: the innermost single descendant of each task."""
    tasks = []
    members = node_processes(layout, node)
    for pid in members:
        env = processes.environment(pid)
        above = processes.parent(pid)
        title = processes.command(above) if above is not None else ""
        # The batch script has a step id too in 26.05; its step daemon is called `slurmstepd: [12.batch]`.
        if "SLURM_STEP_ID" in env and title.startswith("slurmstepd: [") and ".batch]" not in title:
            tasks.append(pid)
    children: dict[int, list[int]] = {}
    for pid in members:
        children.setdefault(processes.parent(pid) or 0, []).append(pid)
    return sorted(_innermost(pid, children) for pid in tasks)


def _innermost(pid: int, children: dict[int, list[int]]) -> int:
    while len(children.get(pid, [])) == 1:
        pid = children[pid][0]
    return pid


def _check_node(lab: cluster.Lab, node: str) -> None:
    if node not in lab.nodes:
        raise UsageError(
            f"this lab has no node {node!r}; it has {lab.nodes[0]} to {lab.nodes[-1]}",
            hint="List them: sovctl lab status",
        )


def _action(fault: str) -> tuple[Callable[[cluster.Lab, str, int], str], bool]:
    xid = re.fullmatch(r"xid:(\d{1,4})", fault)
    if xid:
        code = int(xid[1])
        return (lambda lab, node, gpu: _xid(lab, node, gpu, code)), True
    known: dict[str, tuple[Callable[[cluster.Lab, str, int], str], bool]] = {
        "ecc-uncorrectable": (_ecc, True),
        "node-dead": (_node_dead, False),
        "rank-crash": (lambda lab, node, _: _signal_rank(lab, node, signal.SIGSEGV), False),
        "rank-hang": (lambda lab, node, _: _signal_rank(lab, node, signal.SIGSTOP), False),
        "gpu-slow": (_gpu_slow, True),
        "thermal-throttle": (_thermal, True),
        "link-flap": (_link_flap, False),
        "node-frozen": (_node_frozen, False),
        "disk-full": (_disk_full, False),
        "storage-hang": (_storage_hang, False),
        "slurmctld-down": (_slurmctld_down, False),
        "supervisor-killed": (_supervisor_killed, False),
        "port-down": (lambda lab, node, _: _port(lab, node, "1: DOWN", "is down", flaps=1), False),
        "port-flap": (lambda lab, node, _: _port(lab, node, "4: ACTIVE", "went down six times", flaps=6), False),
        "mount-gone": (lambda lab, node, _: _mounts(lab, node, {"/": "rw"}, "is not mounted"), False),
        "mount-hang": (_mount_hang, False),
        "mount-read-only": (
            lambda lab, node, _: _mounts(lab, node, {"/": "rw", "/data": "ro"}, "is read-only"),
            False,
        ),
    }
    if fault not in known:
        near = _nearest(fault, known)
        raise UsageError(
            f"there is no fault {fault!r}; " + (f"did you mean {near}?" if near else f"known: {', '.join(FAULTS)}"),
            hint="See what each does: sovctl lab inject --help",
        )
    return known[fault]


def _nearest(fault: str, known: Iterable[str]) -> str | None:
    xid = re.fullmatch(r"(?i)xid\W*(\d{1,4})", fault)
    if xid:
        return f"xid:{xid[1]}"
    return next(iter(difflib.get_close_matches(fault.lower(), known, n=1)), None)


def _xid(lab: cluster.Lab, node: str, gpu: int, code: int) -> str:
    gpus.inject_xid(lab.layout.node_dir(node), code, gpu)
    return f"XID {code} of GPU {gpu} in the kernel log of {node}"


def _ecc(lab: cluster.Lab, node: str, gpu: int) -> str:
    gpus.inject_ecc_uncorrectable(lab.layout.node_dir(node), gpu)
    return f"uncorrectable ECC error of GPU {gpu} on {node}"


def _node_dead(lab: cluster.Lab, node: str, _: int) -> str:
    (lab.layout.node_dir(node) / UNREACHABLE).touch()
    # Twice: a step may have started a process between the look and the kill.
    first = node_processes(lab.layout, node)
    processes.kill(first)
    second = node_processes(lab.layout, node) - first
    processes.kill(second)
    return f"killed {len(first | second)} processes of {node}"


def _signal_rank(lab: cluster.Lab, node: str, signum: signal.Signals) -> str:
    """The innermost process of a shell script may last for a moment only: a zombie takes a signal without an error."""
    deadline = time.monotonic() + _RANK_S
    while time.monotonic() < deadline:
        ranks = rank_processes(lab.layout, node)
        if not ranks:
            raise SovctlError(f"no training process runs on {node}", hint="See what runs where: squeue -s")
        with suppress(ProcessLookupError):
            os.kill(ranks[0], signum)
            if signum is not signal.SIGSTOP or processes.stops(ranks[0], 0.5):
                return f"sent {signum.name} to process {ranks[0]} on {node}"
    raise SovctlError(
        f"no training process of {node} could be stopped within {_RANK_S:g} s", hint="See what runs where: squeue -s"
    )


_RANK_S = 20.0


def _gpu_slow(lab: cluster.Lab, node: str, gpu: int) -> str:
    own = lab.layout.node_dir(node)
    gpus.update_state(own / "nvml.state", **{f"gpu{gpu}.sm_clock_mhz": 1180, f"gpu{gpu}.utilization_percent": 100})
    ranks = rank_processes(lab.layout, node)
    if not ranks:
        return f"GPU {gpu} of {node} runs at 1180 of 1965 MHz; no training process is there to be slowed"
    argv = [sys.executable, "-P", "-m", "sovctl.lab.brake", str(ranks[0]), str(_SLOW_SHARE)]
    with open(lab.layout.log_dir / "brake.out", "ab") as log:
        spawn(argv, env=cluster.node_environment(lab.layout, node), stdout=log.fileno())
    return (
        f"GPU {gpu} of {node} runs at 1180 of 1965 MHz; process {ranks[0]} computes {1 - _SLOW_SHARE:.0%} of the time"
    )


def _thermal(lab: cluster.Lab, node: str, gpu: int) -> str:
    values = {"temperature_c": 96, "sm_clock_mhz": 990, "clocks_event_reasons": "0x48", "utilization_percent": 100}
    gpus.update_state(
        lab.layout.node_dir(node) / "nvml.state", **{f"gpu{gpu}.{key}": value for key, value in values.items()}
    )
    return f"GPU {gpu} of {node} is at 96 degrees and slowed down by the hardware"


def _link_flap(lab: cluster.Lab, node: str, _: int) -> str:
    host = lab.layout.node_dir(node) / "host"
    counter = host / "sys/class/infiniband/mlx5_0/ports/1/counters/link_downed"
    downed = int(counter.read_text("ascii")) + 1
    write_port(host, "mlx5_0", state="1: DOWN", link_downed=downed)
    time.sleep(1.0)
    write_port(host, "mlx5_0", link_downed=downed)
    return f"mlx5_0 of {node} was down for a second, {downed} times by now"


def _node_frozen(lab: cluster.Lab, node: str, _: int) -> str:
    # Twice: a step may have started a process between the look and the signal.
    (lab.layout.node_dir(node) / UNREACHABLE).touch()
    members: set[int] = set()
    for _again in range(2):
        members |= node_processes(lab.layout, node)
        _signal_all(members, signal.SIGSTOP)
    return f"stopped {len(members)} processes of {node}"


def _disk_full(lab: cluster.Lab, node: str, _: int) -> str:
    return f"wrote {storage.fill(lab.layout)} bytes; nothing is left on {lab.layout.scratch}, for {node} as for all"


def _storage_hang(lab: cluster.Lab, node: str, _: int) -> str:
    storage.freeze(lab.layout)
    return f"{lab.layout.scratch} is frozen: whoever writes there waits, on {node} as on all"


def _slurmctld_down(lab: cluster.Lab, node: str, _: int) -> str:
    controllers = [item for item in lab.processes if item.role == "slurmctld" and item.alive]
    if not controllers:
        raise SovctlError("slurmctld does not run", hint=f"Start it again: sovctl lab heal --node {node}")
    processes.kill(item.pid for item in controllers)
    processes.gone_within(controllers, 5.0)
    return "slurmctld is dead"


def _supervisor_killed(lab: cluster.Lab, node: str, _: int) -> str:
    ours = {pid for pid in node_processes(lab.layout, node) if _is_supervisor(pid)}
    # Not the batch script's own process, which only waits for it: with that the job is over, as Slurm sees it.
    found = [pid for pid in ours if processes.parent(pid) in ours]
    if not found:
        raise SovctlError(f"no supervisor runs on {node}", hint="It runs on a job's batch host: squeue -o '%i %B'")
    processes.kill(found)
    return f"killed the supervisor, process {', '.join(map(str, found))}, on {node}"


def _is_supervisor(pid: int) -> bool:
    words = processes.command(pid).split()
    return "supervise" in words and words[max(0, words.index("supervise") - 1)] == "sovctl"


def _release_processes(layout: Layout, node: str) -> None:
    """What was slowed or stopped goes on."""
    members = node_processes(layout, node)
    brakes = [pid for pid in members if "sovctl.lab.brake" in processes.command(pid)]
    _signal_all(brakes, signal.SIGTERM)
    processes.gone_within([processes.mark("brake", pid) for pid in brakes], 2.0)
    _signal_all(node_processes(layout, node), signal.SIGCONT)


def _signal_all(pids: Iterable[int], signum: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


# Faults of the host: files of the node's own /sys and /proc

_FIRST_PORT = "mlx5_0"
_EXPECTED = frozenset({"infiniband", "ethernet", "mounts", "services", "ram", "clock"})


def _port(lab: cluster.Lab, node: str, state: str, words: str, *, flaps: int) -> str:
    host = _expect_healthy(lab, node)
    path = host / "sys" / "class" / "infiniband" / _FIRST_PORT / "ports" / "1" / "counters" / "link_downed"
    write_port(host, _FIRST_PORT, state, link_downed=int(path.read_text("ascii")) + flaps)
    return f"port {_FIRST_PORT}/1 of {node} {words}"


def _mounts(lab: cluster.Lab, node: str, mounts: dict[str, str], words: str) -> str:
    write_mounts(_expect_healthy(lab, node), mounts)
    return f"/data of {node} {words}"


def _mount_hang(lab: cluster.Lab, node: str, _: int) -> str:
    own = _expect_healthy(lab, node) / "data"
    storage.silence(own, cluster.node_environment(lab.layout, node))
    return f"/data of {node} answers nobody"


def _expect_healthy(lab: cluster.Lab, node: str) -> Path:
    """A node misses only what it is known to have: learnt before the first fault. Returns its host's files."""
    own = lab.layout.node_dir(node)
    records = NodeRecordFiles(own / "run", own / "state")
    if not records.present("inventory"):
        whole = NodeSnapshot(node, "", time.time(), host=HostFiles(str(own / "host")).read(_EXPECTED))
        records.save("inventory", inventory_record(learn(whole), node, whole.observed_at))
    return own / "host"
