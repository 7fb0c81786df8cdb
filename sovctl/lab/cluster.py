"""`lab up` and `lab down`: a real Slurm cluster on this machine, all of it under one directory.

Nothing of a Slurm that already runs here is touched: own munge key and socket, own ports, own slurm.conf. What was
started is recorded by process id and start time, and exactly that is stopped.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import stat
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from sovctl.adapters.command import CommandRunner, replace_process, spawn
from sovctl.adapters.slurm.cli import SlurmCli
from sovctl.errors import RefusedError, SovctlError, UsageError
from sovctl.lab import database, gpus, storage
from sovctl.lab.host import write_healthy_host
from sovctl.lab.layout import Layout
from sovctl.lab.processes import ProcessMark, mark, stop
from sovctl.lab.slurm_conf import (
    LabSpec,
    gres_conf,
    node_script,
    node_toml,
    site_toml,
    slurm_conf,
)

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NEEDED = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "scontrol": "slurm-client",
    "sbatch": "slurm-client",
    "srun": "slurm-client",
}
_NEEDED_ACCOUNTING = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server", "mariadb-install-db": "mariadb-server"}
_SCRATCH_MIB = 192
_START_S = 1.0
"""What a node may take to come up, where many do at once on few cores."""
_FIRST_PORT, _LAST_PORT = 20000, 32000
"""Below the range from which Linux takes the ports of outgoing connections."""


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that was started."""

    layout: Layout
    nodes: tuple[str, ...]
    gpus: int
    port: int
    accounting: bool
    processes: tuple[ProcessMark, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to talk to this cluster."""
        return client_environment(self.layout)

    @property
    def alive(self) -> bool:
        return any(item.alive for item in self.processes)


@dataclass(frozen=True, slots=True)
class Request:
    """What the user of `lab up` asked for."""

    root: Path
    nodes: int = 8
    gpus: int = 8
    port: int | None = None
    accounting: bool = False
    preemption: bool = False
    """Ready for `sovctl spare set`; needs accounting."""
    health: bool = True
    job_checks: bool = False
    scratch: bool = False
    """A small file system of its own, to fill and to freeze."""
    out_limit_per_hour: int | None = None
    """How many nodes an hour sovctl may drain or declare dead; None: its defaults."""
    overrides: dict[str, str] = field(default_factory=dict)
    backup: bool = False
    """A second slurmctld (SlurmctldTimeout 10 s); needs root."""
    beside: dict[str, str] = field(default_factory=dict)
    """Files to lie beside slurm.conf from the start, by name: job_submit.lua, plugstack.conf, ...

    `{lab}` in a text stands for the lab's directory.
    """


def client_environment(layout: Layout) -> dict[str, str]:
    """The current environment pointed at the lab, free of another cluster's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))}
    path = kept.get("PATH", "")
    libraries = [str(layout.lib_dir), *filter(None, [kept.get("LD_LIBRARY_PATH", "")])]
    return {
        **kept,
        "PATH": ":".join(dict.fromkeys([*path.split(":"), *SYSTEM_PATH.split(":")])),
        "SLURM_CONF": str(layout.slurm_conf),
        "SOVCTL_CONFIG": str(layout.site_config),
        "SOVCTL_LAB_DIR": str(layout.root),
        "LD_LIBRARY_PATH": ":".join(dict.fromkeys(":".join(libraries).split(":"))),
    }


def node_environment(layout: Layout, node: str) -> dict[str, str]:
    """The environment of a daemon that runs on one node."""
    return {
        **client_environment(layout),
        "SOVCTL_CONFIG": str(layout.node_config(node)),
        "SOVCTL_LAB_NODE": node,
        "SLURMD_NODENAME": node,
    }


def slurm(layout: Layout) -> SlurmCli:
    """The lab's own Slurm commands."""
    return SlurmCli(CommandRunner(client_environment(layout)))


def up(request: Request) -> Lab:
    """Start a cluster and wait until every node is idle. Whatever fails, nothing stays half-started."""
    layout = Layout(request.root.absolute())
    _refuse_running(layout)
    _check_binaries(request.accounting)
    _check_request(request, layout)
    with PortClaims() as claims:
        return _up(request, layout, _spec(request, claims), claims)


def _up(request: Request, layout: Layout, spec: LabSpec, claims: PortClaims) -> Lab:
    prepare_root(layout.root)
    _write_files(spec, layout)
    if request.scratch:
        storage.make(layout, _SCRATCH_MIB)
    for name, text in request.beside.items():
        (layout.root / name).write_text(text.replace("{lab}", str(layout.root)), "utf-8")
    started: list[ProcessMark] = []
    # A terminated or interrupted `lab up` takes down what it started; it looks between two starts, never inside one.
    main = threading.current_thread() is threading.main_thread()
    watched = (signal.SIGTERM, signal.SIGINT) if main else ()
    before = {signum: signal.signal(signum, _note_interrupt) for signum in watched}
    _interrupted.clear()
    try:
        _start_daemons(spec, layout, started, claims.fds)
        _await_idle(spec, layout, started)
        if spec.health:
            start_health(spec, layout, started)
        _leave_if_interrupted()
    except BaseException:
        stop(started)
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    lab = Lab(layout, spec.node_names, spec.gpus, spec.port, spec.accounting, tuple(started))
    save(lab)
    return lab


_interrupted: list[int] = []


def _note_interrupt(signum: int, _frame: object) -> None:
    _interrupted.append(signum)


def _leave_if_interrupted() -> None:
    if _interrupted:
        raise KeyboardInterrupt


def down(root: Path, *, keep: bool = False) -> int:
    """Stop exactly what `up` started, then remove the directory unless `keep`. Returns how many were stopped."""
    lab = load(root)
    running = [item for item in lab.processes if item.alive]
    # What waits for frozen storage cannot even be killed.
    storage.thaw(lab.layout)
    storage.answer_again(lab.layout.root)
    # Nodes first and at once: a slurmd that sees its controller go only waits and complains.
    stop([item for item in running if not item.role.startswith(("munged", "mariadbd"))])
    stop(running)
    _kill_steps(lab)
    storage.release(lab.layout)
    if keep:
        lab.layout.record.unlink()
    else:
        shutil.rmtree(lab.layout.root, ignore_errors=True)
    return len(running)


def load(root: Path) -> Lab:
    """The lab recorded in a directory. Raises SovctlError when there is none."""
    layout = Layout(root.absolute())
    try:
        record = json.loads(layout.record.read_text("utf-8"))
        marks = tuple(ProcessMark(**item) for item in record["processes"])
        return Lab(layout, tuple(record["nodes"]), record["gpus"], record["port"], record["accounting"], marks)
    except FileNotFoundError:
        raise SovctlError(f"there is no lab in {layout.root}", hint="Start one: sovctl lab up") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SovctlError(
            f"the record {layout.record} cannot be read: {error}",
            hint=f"If no daemon of that lab runs any more: rm -r {layout.root}",
        ) from error


def save(lab: Lab) -> None:
    """Write the record, whole or not at all."""
    record = {
        "schema": "sovctl.lab/1",
        "nodes": list(lab.nodes),
        "gpus": lab.gpus,
        "port": lab.port,
        "accounting": lab.accounting,
        "processes": [asdict(item) for item in lab.processes],
    }
    fresh = lab.layout.record.with_suffix(".new")
    fresh.write_text(json.dumps(record, indent=1), "utf-8")
    fresh.replace(lab.layout.record)


def become(lab: Lab, argv: list[str]) -> None:
    """Turn this process into a command that uses the lab. Raises CommandMissing."""
    replace_process(argv, lab.environment)


def start_slurmd(layout: Layout, node: str) -> ProcessMark:
    """One slurmd in the foreground of its own session."""
    return start(
        ["slurmd", "-D", "-N", node, "-f", str(layout.slurm_conf)],
        f"slurmd:{node}",
        layout,
        node_environment(layout, node),
    )


CONTROLLERS = {"slurmctld": "127.0.0.1", "slurmctld:backup": "127.0.0.2"}
"""Where there are two: their host names, by role."""


def start_slurmctld(layout: Layout, role: str = "slurmctld", *options: str) -> ProcessMark:
    """One controller. It knows which of SlurmctldHost it is by its host name, so each of two gets one of its own."""
    env, conf = client_environment(layout), _controller_conf(layout, role)
    if not conf.exists():
        return start(["slurmctld", "-D", *options, "-f", str(layout.slurm_conf)], role, layout, env)
    command = f"hostname {CONTROLLERS[role]} && exec {shlex.join(['slurmctld', '-D', *options, '-f', str(conf)])}"
    return start(["unshare", "--uts", "sh", "-c", command], role, layout, env | {"SLURM_CONF": str(conf)})


def start_watch(layout: Layout, **settings: str) -> ProcessMark:
    """`sovctl watch --act` on the controller; `settings`: SOVCTL_<SECTION>_<KEY>."""
    argv = [sys.executable, "-P", "-m", "sovctl", "watch", "--act"]
    return start(argv, "watch", layout, client_environment(layout) | settings)


def restart_slurmctld(lab: Lab) -> Lab:
    """Start the controller again after it died; it reads its saved state."""
    # First written after 5 minutes; one that was killed before does not start again without it (25.05 to 26.05).
    unsaved = lab.accounting and not (lab.layout.state_dir / "assoc_usage").exists()
    fresh = start_slurmctld(lab.layout, "slurmctld", *(["-i"] if unsaved else []))
    kept = tuple(item for item in lab.processes if item.role != "slurmctld")
    again = replace(lab, processes=(*kept, fresh))
    save(again)
    return again


def start_watcher(layout: Layout, node: str) -> ProcessMark:
    """`sovctl health watch` of one node."""
    argv = [sys.executable, "-P", "-m", "sovctl", "health", "watch"]
    return start(argv, f"watcher:{node}", layout, node_environment(layout, node))


def start(argv: list[str], role: str, layout: Layout, env: dict[str, str], *, keep: Sequence[int] = ()) -> ProcessMark:
    """Start a daemon with its output in a log file of its own; it keeps the files `keep` open."""
    with open(layout.log_dir / f"{role.replace(':', '.')}.out", "ab") as log:
        child = spawn(argv, env=env, cwd=layout.root, stdout=log.fileno(), pass_fds=keep)
    return mark(role, child.pid)


def start_health(spec: LabSpec, layout: Layout, started: list[ProcessMark]) -> None:
    """A watcher a node and the watch on the controller; returns when every watcher has reported."""
    started += [start_watcher(layout, node) for node in spec.node_names]
    started.append(start_watch(layout))
    marks = [layout.journal_dir / "alive" / f"{node}.json" for node in spec.node_names]
    seconds = max(30.0, _START_S * spec.nodes)
    _await("every node's watcher to report", lambda: all(path.exists() for path in marks), layout, started, seconds)


def _refuse_running(layout: Layout) -> None:
    if layout.record.exists() and load(layout.root).alive:
        raise RefusedError(
            f"a lab already runs in {layout.root}",
            hint="Use it (sovctl lab shell), stop it (sovctl lab down), or start another with --dir.",
        )


def _check_binaries(accounting: bool) -> None:
    search = ":".join([os.environ.get("PATH", ""), SYSTEM_PATH])
    needed = _NEEDED | (_NEEDED_ACCOUNTING if accounting else {})
    missing = [program for program in needed if shutil.which(program, path=search) is None]
    if missing:
        packages = " ".join(sorted({needed[program] for program in missing}))
        raise SovctlError(
            f"a lab needs {', '.join(missing)}, not found on PATH",
            hint=f"On Debian or Ubuntu: apt-get install --no-install-recommends {packages} slurm-wlm-basic-plugins",
        )


def _check_request(request: Request, layout: Layout) -> None:
    if not 1 <= request.nodes <= 500:
        raise UsageError(
            f"a lab has 1 to 500 nodes, not {request.nodes}", hint="Write it as in: sovctl lab up --nodes 4"
        )
    if not 0 <= request.gpus <= 64:
        raise UsageError(
            f"a node of a lab has 0 to 64 GPUs, not {request.gpus}", hint="Write it as in: sovctl lab up --gpus 8"
        )
    # sun_path holds 108 bytes; slurmstepd's socket in the spool directory is the longest.
    if len(os.fsencode(layout.spool_dir / "n000" / "n000_1234567890.4294967295")) > 107:
        raise SovctlError(
            f"the path {layout.root} is too long for the sockets of Slurm", hint="Choose a shorter one with --dir."
        )
    bad = set(str(layout.root)) & set(" \t\n\"'#=,%\\")
    if bad:
        raise SovctlError(
            f"slurm.conf cannot hold the path {layout.root!s}: it contains {sorted(bad)!r}",
            hint="Choose a plain directory with --dir.",
        )


class PortClaims(ExitStack):
    """Ports that are kept from other labs. Seconds pass until a daemon listens on its port, and a dead node listens on
    none: each has an abstract socket as well, which lives where ports do, in the network namespace, whoever starts the
    other lab and in whatever root directory."""

    def __init__(self) -> None:
        super().__init__()
        self.fds: list[int] = []

    def claim(self, port: int) -> bool:
        """Whether nobody else has it."""
        mark = self.enter_context(socket.socket(socket.AF_UNIX))
        try:
            mark.bind(f"\0sovctl-lab-{port}")
        except OSError:
            return False
        self.fds.append(mark.fileno())
        return True

    def take(self, other: PortClaims) -> None:
        """Keep what another one claimed, which is empty then."""
        self.push(other.pop_all())
        self.fds += other.fds


def _spec(request: Request, claims: PortClaims) -> LabSpec:
    count = request.nodes + (3 if request.accounting else 1)
    return LabSpec(
        nodes=request.nodes,
        gpus=request.gpus,
        port=_ports(request.port, count, claims),
        user=pwd.getpwuid(os.geteuid()).pw_name,
        host=socket.gethostname().split(".")[0],
        device_files=os.geteuid() == 0,
        accounting=request.accounting,
        preemption=request.accounting and request.preemption,
        health=request.health,
        job_checks=request.health and request.job_checks,
        out_limit_per_hour=request.out_limit_per_hour,
        overrides=request.overrides,
        backup=request.backup,
    )


def _ports(wanted: int | None, count: int, claims: PortClaims) -> int:
    """The first port of a free block of `count`."""
    if wanted is not None:
        taken = [port for port in range(wanted, wanted + count) if not _port_free(port)]
        if taken:
            raise SovctlError(
                f"port {taken[0]} is in use", hint="Leave --port out to have free ports chosen, or name another."
            )
        return wanted
    # From anywhere in the range: labs that start in the same second must not agree on where to look.
    blocks = range(_FIRST_PORT, _LAST_PORT - count, count)
    first: int = secrets.randbelow(len(blocks)) if blocks else 0
    for turn in range(len(blocks)):
        base = blocks[(first + turn) % len(blocks)]
        with PortClaims() as attempt:
            if all(attempt.claim(port) and _port_free(port) for port in range(base, base + count)):
                claims.take(attempt)
                return base
    raise SovctlError(
        f"no {count} free ports in a row between {_FIRST_PORT} and {_LAST_PORT}",
        hint="See who has them: ss -ltn, and name the first free one with --port.",
    )


def _port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def prepare_root(root: Path) -> None:
    """An empty directory that is ours; leftovers of a lab that no longer runs are removed."""
    if root.is_symlink() or (root.exists() and (not root.is_dir() or root.stat().st_uid != os.geteuid())):
        raise RefusedError(f"{root} is not a directory of yours", hint="Choose another with --dir.")
    if root.exists() and any(root.iterdir()):
        if not (root / "lab.json").exists() and not (root / "slurm.conf").exists():
            raise RefusedError(f"{root} holds something that is not a lab", hint="Choose another with --dir.")
        storage.release(Layout(root))
        shutil.rmtree(root)
    try:
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        root.chmod(0o755)
    except OSError as error:
        raise SovctlError(f"cannot make {root}: {error.strerror}", hint="Choose another with --dir.") from error


def _write_files(spec: LabSpec, layout: Layout) -> None:
    for directory in (layout.run_dir, layout.log_dir, layout.state_dir, layout.journal_dir, layout.lib_dir):
        directory.mkdir(mode=0o755)
    layout.health_check.parent.mkdir()
    layout.slurm_conf.write_text(slurm_conf(spec, layout), "utf-8")
    layout.gres_conf.write_text(gres_conf(spec, layout), "utf-8")
    layout.site_config.write_text(site_toml(spec, layout), "utf-8")
    package_dir = str(Path(__file__).parents[2])
    for path, verb in ((layout.health_check, "check"), (layout.prolog, "prolog"), (layout.epilog, "epilog")):
        path.write_text(node_script(layout, sys.executable, SYSTEM_PATH, package_dir, verb), "utf-8")
        path.chmod(0o755)
    gpus.build_nvml(layout.lib_dir, CommandRunner())
    for node in spec.node_names:
        _write_node(spec, layout, node)


def _write_node(spec: LabSpec, layout: Layout, node: str) -> None:
    own = layout.node_dir(node)
    for directory in (own / "run", own / "state", layout.spool_dir / node):
        directory.mkdir(parents=True)
    (own / "boot_id").write_text(f"{uuid.uuid4()}\n", "utf-8")
    (own / "kmsg").touch()
    layout.node_config(node).write_text(node_toml(spec, layout, node), "utf-8")
    gpus.write_healthy_state(own / "nvml.state", node, spec.gpus)
    write_healthy_host(own / "host")
    if spec.device_files and spec.gpus:
        devices = layout.device_dir / node
        devices.mkdir(parents=True)
        for index in range(spec.gpus):
            # slurmd accepts only character devices; this one is /dev/null's.
            os.mknod(devices / f"nvidia{index}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def _start_daemons(spec: LabSpec, layout: Layout, started: list[ProcessMark], claims: Sequence[int]) -> None:
    start_munge(layout, started, claims)
    env = client_environment(layout)
    if spec.accounting:
        database.start(spec, layout, env, started, start)
    _start_controllers(spec, layout, started)
    for node in spec.node_names:
        started.append(start_slurmd(layout, node))


def _start_controllers(spec: LabSpec, layout: Layout, started: list[ProcessMark]) -> None:
    if not spec.backup:
        started.append(start_slurmctld(layout))
        return
    for role in CONTROLLERS:
        text = layout.slurm_conf.read_text("utf-8")
        for file in ("slurmctld.pid", "slurmctld.log"):
            # A slurmctld ends the one whose pid file it finds.
            text = text.replace(f"/{file}\n", f"/{file.replace('slurmctld', role.replace(':', '.'))}\n")
        _controller_conf(layout, role).write_text(text, "utf-8")
    first, *others = CONTROLLERS
    started.append(start_slurmctld(layout, first))
    named = layout.state_dir / "clustername"
    # One that reads this file while another writes it ends: "CLUSTER NAME MISMATCH" (22.05 to 26.05).
    _await("slurmctld's first word", lambda: named.exists() and bool(named.read_text().strip()), layout, started, 30.0)
    started += [start_slurmctld(layout, role) for role in others]


def _controller_conf(layout: Layout, role: str) -> Path:
    """Of a controller that has another one beside it."""
    return layout.root / f"{role.replace(':', '.')}.conf"


def start_munge(layout: Layout, started: list[ProcessMark], claims: Sequence[int] = ()) -> None:
    """The lab's own munged; returns when its socket is there. It holds on to the `claims` of ports: nobody listens on
    that of a node which is dead for a while."""
    layout.munge_dir.mkdir(mode=0o700)
    key = layout.munge_dir / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    argv = [
        "munged",
        "--foreground",
        "--num-threads=4",
        f"--key-file={key}",
        f"--socket={layout.munge_socket}",
        f"--pid-file={layout.munge_dir}/pid",
        f"--log-file={layout.munge_dir}/log",
        f"--seed-file={layout.munge_dir}/seed",
    ]
    daemon = start(argv, "munged", layout, client_environment(layout), keep=claims)
    started.append(daemon)
    _await("munged's socket", layout.munge_socket.exists, layout, [daemon], 10.0)


def _await_idle(spec: LabSpec, layout: Layout, started: list[ProcessMark]) -> None:
    cluster = slurm(layout)

    def all_idle() -> bool:
        try:
            nodes = cluster.nodes()
        except SovctlError:
            return False
        return len(nodes) == spec.nodes and all(node.state.base == "IDLE" and node.state.responding for node in nodes)

    _await(f"all {spec.nodes} nodes to be idle", all_idle, layout, started, max(60.0, _START_S * spec.nodes))


def _await(what: str, ready: Callable[[], bool], layout: Layout, alive: Iterable[ProcessMark], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    needed = list(alive)
    while not ready():
        _leave_if_interrupted()
        dead = next((item for item in needed if not item.alive), None)
        if dead is not None or time.monotonic() > deadline:
            role = dead.role if dead is not None else "slurmctld"
            cause = f"{role} ended{_status(dead.pid)}" if dead is not None else f"waited {seconds:g} s"
            raise SovctlError(
                f"the lab did not start: {what}: {cause}. {_last_words(layout, role)}",
                hint=f"See the others: ls {layout.log_dir}",
            )
        # Looking at hundreds of processes takes the time they need to start.
        time.sleep(0.03 if len(needed) < 100 else 0.5)


def _status(pid: int) -> str:
    """How a child of ours ended, where it can still be asked: a daemon that is killed leaves no other word."""
    with suppress(OSError):
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            return f" by {'status' if ended.si_code == os.CLD_EXITED else 'signal'} {ended.si_status}"
    return ""


def _last_words(layout: Layout, role: str) -> str:
    """The last error lines of a daemon; the directory may be removed before anybody can read the log."""
    for name in (f"{role}.log", f"{role.replace(':', '.')}.out"):
        path = layout.log_dir / name
        if path.exists():
            lines = path.read_text("utf-8", "replace").splitlines()
            telling = [line for line in lines if "error" in line or "fatal" in line] or lines
            if telling:
                return " / ".join(telling[-3:])
    return f"Its log directory is {layout.log_dir}."


def _kill_steps(lab: Lab) -> None:
    """slurmstepds outlive their slurmd by design; in a lab that goes down they are leftovers."""
    from sovctl.lab.faults import lab_processes

    stop([mark("step", pid) for pid in lab_processes(lab.layout)], term_s=1.0)
