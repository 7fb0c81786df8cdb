"""`sovctl lab` as its user meets it: real daemons, every time."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sovctl.errors import SovctlError
from sovctl.lab import cluster, processes
from tests.slurm.conftest import TEST_USER, make_user

pytestmark = pytest.mark.slurm
Root = Callable[[], Path]


def sovctl(*argv: str, prefix: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "sovctl", "lab", *argv],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **env},
        cwd="/",
    )


def up(root: Path, *more: str, **env: str) -> dict[str, Any]:
    done = sovctl("up", "--dir", str(root), "--json", *more, **env)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def status(root: Path) -> dict[str, Any]:
    done = sovctl("status", "--dir", str(root), "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def running_in(root: Path) -> list[str]:
    """Command lines of processes that name this lab, whoever started them."""
    return [line for pid in processes.all_pids() if str(root) in (line := processes.command(pid))]


def refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """One clear sentence on stderr, nothing on stdout, no traceback."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def small(new_root: Root, attach_logs: Callable[[Path], None]) -> Path:
    root = new_root()
    attach_logs(root)
    up(root, "--nodes", "2", "--gpus", "2", "--no-health")
    return root


# Up, status, down


def test_up_status_down(new_root: Root, attach_logs: Callable[[Path], None]) -> None:
    root = new_root()
    attach_logs(root)
    answer = up(root, "--nodes", "8")
    print(f"8 nodes with health checks: {answer['seconds']} s")
    assert answer["seconds"] < 40
    seen = status(root)
    assert [node["name"] for node in seen["nodes"]] == [f"n{number:03d}" for number in range(1, 9)]
    assert {node["state"] for node in seen["nodes"]} == {"IDLE"}
    assert all(process["alive"] for process in seen["processes"])
    roles = {process["role"] for process in seen["processes"]}
    assert {"munged", "slurmctld", "slurmd:n008", "watcher:n008", "watch"} <= roles
    words = sovctl("shell", "--dir", str(root), "--", "srun", "-N8", "hostname")
    assert (words.returncode, len(words.stdout.split())) == (0, 8)
    done = sovctl("down", "--dir", str(root))
    assert done.stdout == f"stopped {len(seen['processes'])} daemons\n"
    assert not root.exists()
    assert running_in(root) == []
    refused(sovctl("status", "--dir", str(root)), 1, "there is no lab", "sovctl lab up")
    refused(sovctl("down", "--dir", str(root)), 1, "there is no lab")


def test_sixty_four_nodes(new_root: Root, attach_logs: Callable[[Path], None]) -> None:
    root = new_root()
    attach_logs(root)
    answer = up(root, "--nodes", "64", "--no-health")
    print(f"64 nodes: {answer['seconds']} s (target 10 s)")
    assert answer["seconds"] < 30
    assert len(status(root)["nodes"]) == 64
    assert sovctl("down", "--dir", str(root)).returncode == 0
    assert running_in(root) == []


def test_down_can_leave_the_logs(new_root: Root) -> None:
    root = new_root()
    up(root, "--nodes", "1", "--gpus", "0", "--no-health")
    assert sovctl("down", "--dir", str(root), "--keep").returncode == 0
    assert (root / "log" / "slurmctld.log").exists()
    assert running_in(root) == []
    refused(sovctl("down", "--dir", str(root)), 1, "there is no lab")


def test_down_ends_jobs_and_their_steps(new_root: Root, eventually: Callable[..., Any]) -> None:
    root = new_root()
    up(root, "--nodes", "2", "--gpus", "0", "--no-health")
    lab = cluster.load(root)
    mark = root / "step"
    script = f"#!/bin/sh\nsrun -N2 sh -c 'echo $$ >> {mark}; exec sleep 54321'\n"
    subprocess.run(["sbatch", "-N2", "-o", "/dev/null"], input=script, text=True, env=lab.environment, check=True)
    eventually(lambda: mark.exists() and len(mark.read_text().split()) == 2, "both tasks run")
    tasks = [int(pid) for pid in mark.read_text().split()]
    assert sovctl("down", "--dir", str(root)).returncode == 0
    eventually(lambda: not any(processes.start_ticks(pid) for pid in tasks), "the tasks are gone", 10.0)
    assert running_in(root) == []


def test_down_stops_exactly_its_own(small: Path, new_root: Root) -> None:
    root = new_root()
    up(root, "--nodes", "2", "--gpus", "1", "--no-health")
    assert sovctl("down", "--dir", str(root)).returncode == 0
    seen = status(small)
    assert all(process["alive"] for process in seen["processes"])
    assert {node["state"] for node in seen["nodes"]} == {"IDLE"}


def test_a_reused_process_id_is_never_stopped(new_root: Root) -> None:
    root = new_root()
    up(root, "--nodes", "1", "--gpus", "0", "--no-health")
    record = json.loads((root / "lab.json").read_text())
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        own = len(record["processes"])
        record["processes"].append({"role": "slurmd:n009", "pid": bystander.pid, "started": 1})
        (root / "lab.json").write_text(json.dumps(record))
        assert sovctl("down", "--dir", str(root)).stdout == f"stopped {own} daemons\n"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


# What can be wrong


def test_a_second_up_in_the_same_directory(small: Path) -> None:
    refused(sovctl("up", "--dir", str(small)), 3, "already runs", "sovctl lab down")
    assert all(process["alive"] for process in status(small)["processes"])


def test_a_port_in_use(new_root: Root) -> None:
    root = new_root()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = sovctl("up", "--dir", str(root), "--nodes", "4", "--port", str(port - 2))
    refused(done, 1, f"port {port} is in use")
    assert not root.exists()
    assert running_in(root) == []


def test_missing_programs_are_named_with_their_packages(
    new_root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_root()
    monkeypatch.setattr(cluster, "SYSTEM_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SovctlError, match="munged, slurmctld, slurmd") as caught:
        cluster.up(cluster.Request(root, health=False))
    assert "apt-get install" in caught.value.hint
    assert "slurmctld" in caught.value.hint
    assert not root.exists()


def test_a_daemon_that_does_not_start_leaves_nothing_half_started(new_root: Root, tmp_path: Path) -> None:
    root = new_root()
    broken = tmp_path / "munged"
    broken.write_text("#!/bin/sh\necho 'munged: error: out of luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    done = sovctl("up", "--dir", str(root), "--no-health", PATH=f"{tmp_path}:{os.environ['PATH']}")
    refused(done, 1, "did not start", "munged ended", "out of luck")
    assert running_in(root) == []
    assert not (root / "lab.json").exists()
    up(root, "--nodes", "1", "--gpus", "0", "--no-health")
    assert sovctl("down", "--dir", str(root)).returncode == 0


def test_a_terminated_up_takes_down_what_it_started(new_root: Root, eventually: Callable[..., Any]) -> None:
    root = new_root()
    argv = [sys.executable, "-m", "sovctl", "lab", "up", "--dir", str(root), "--nodes", "8"]
    starting = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")
    eventually((root / "log" / "slurmctld.log").exists, "slurmctld has started")
    starting.send_signal(signal.SIGTERM)
    _, said = starting.communicate(timeout=60)
    assert starting.returncode != 0
    assert b"Traceback" not in said
    assert running_in(root) == []


def test_a_stale_record_is_cleaned(new_root: Root, eventually: Callable[..., Any]) -> None:
    root = new_root()
    up(root, "--nodes", "2", "--gpus", "0", "--no-health")
    lab = cluster.load(root)
    processes.kill(mark.pid for mark in lab.processes)
    eventually(lambda: not lab.alive, "the lab has died")
    text = sovctl("status", "--dir", str(root))
    assert (text.returncode, "0 of 4 daemons run" in text.stdout) == (0, True)
    up(root, "--nodes", "1", "--gpus", "0", "--no-health")
    assert [node["state"] for node in status(root)["nodes"]] == ["IDLE"]
    assert sovctl("down", "--dir", str(root)).returncode == 0


def test_a_spoilt_record(new_root: Root) -> None:
    root = new_root()
    root.mkdir()
    (root / "lab.json").write_text('{"nodes": 3')
    refused(sovctl("status", "--dir", str(root)), 1, "cannot be read", "lab.json")


def test_a_directory_of_somebody_else_is_not_touched(new_root: Root) -> None:
    root = new_root()
    root.mkdir()
    (root / "thesis.tex").write_text("x")
    refused(sovctl("up", "--dir", str(root), "--no-health"), 3, "not a lab")
    assert (root / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("--nodes", "0"), 2),
        (("--nodes", "501"), 2),
        (("--gpus", "-1"), 2),
        (("--nodes", "x"), 2),
        (("--set", "nonsense"), 2),
        (("--port", "70000"), 1),
        (("--bogus",), 2),
    ],
)
def test_requests_that_make_no_sense(argv: tuple[str, ...], code: int, new_root: Root) -> None:
    root = new_root()
    refused(sovctl("up", "--dir", str(root), *argv), code)
    assert not root.exists()


@pytest.mark.parametrize("name", ["x" * 90, "a b", "a=b", "a,b"])
def test_directories_that_slurm_cannot_use(name: str, new_root: Root) -> None:
    root = new_root().parent / name
    refused(sovctl("up", "--dir", str(root)), 1, "--dir")
    assert not root.exists()


# Faults


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("xid:79", "--node", "n009", "--gpu", "0"), "no node 'n009'"),
        (("xid:79", "--node", "n001", "--gpu", "7"), "--gpu 0..1"),
        (("xid:79", "--node", "n001", "--gpu", "-1"), "--gpu 0..1"),
        (("xid:79", "--node", "n001"), "--gpu 0..1"),
        (("xid:x", "--node", "n001", "--gpu", "0"), "no fault 'xid:x'"),
        (("meteorite", "--node", "n001"), "no fault 'meteorite'"),
        (("ecc-uncorrectable", "--node", "n001"), "--gpu"),
        (("xid:79",), "--node"),
    ],
)
def test_wrong_names_are_usage_errors(small: Path, argv: tuple[str, ...], words: str) -> None:
    refused(sovctl("inject", "--dir", str(small), *argv), 2, words)
    assert (small / "nodes" / "n001" / "kmsg").read_text() == ""


def test_a_rank_fault_without_ranks_is_said(small: Path) -> None:
    refused(sovctl("inject", "--dir", str(small), "rank-crash", "--node", "n002"), 1, "no training process")


def test_a_dead_node_stops_answering_and_can_be_healed(
    new_root: Root, eventually: Callable[..., Any], attach_logs: Callable[[Path], None]
) -> None:
    root = new_root()
    attach_logs(root)
    up(root, "--nodes", "2", "--gpus", "1", "--no-health")
    done = sovctl("inject", "--dir", str(root), "node-dead", "--node", "n002", "--json")
    assert json.loads(done.stdout)["node"] == "n002"
    alive = {process["role"]: process["alive"] for process in status(root)["processes"]}
    assert (alive["slurmd:n001"], alive["slurmd:n002"], alive["slurmctld"]) == (True, False, True)
    port = cluster.slurm(cluster.load(root).layout).node("n002").port
    with cluster.PortClaims() as claims:
        assert not claims.claim(port), "another lab could take its port"
    assert "slurmd:n002" in sovctl("heal", "--dir", str(root), "--node", "n002").stdout
    alive = {process["role"]: process["alive"] for process in status(root)["processes"]}
    assert all(alive.values())
    words = sovctl("shell", "--dir", str(root), "--", "srun", "-N2", "hostname")
    assert (words.returncode, len(words.stdout.split())) == (0, 2), words.stderr
    assert sovctl("down", "--dir", str(root)).returncode == 0


def test_each_new_fault_does_what_it_says_and_is_undone(
    new_root: Root, eventually: Callable[..., Any], attach_logs: Callable[[Path], None]
) -> None:
    root = new_root()
    attach_logs(root)
    storage = ("--scratch",) if os.geteuid() == 0 else ()
    up(root, "--nodes", "2", "--gpus", "1", "--no-health", *storage)
    state, port = root / "nodes/n002/nvml.state", root / "nodes/n002/host/sys/class/infiniband/mlx5_0/ports/1"

    def inject(fault: str, *more: str) -> None:
        done = sovctl("inject", "--dir", str(root), fault, "--node", "n002", *more)
        assert done.returncode == 0, done.stderr

    def heal() -> None:
        done = sovctl("heal", "--dir", str(root), "--node", "n002")
        assert done.returncode == 0, done.stderr

    inject("gpu-slow", "--gpu", "0")
    assert "gpu0.sm_clock_mhz=1180" in state.read_text()
    inject("thermal-throttle", "--gpu", "0")
    assert "gpu0.temperature_c=96" in state.read_text()
    inject("link-flap")
    assert (port / "state").read_text().startswith("4: ACTIVE")
    assert (port / "counters/link_downed").read_text().strip() == "1"
    inject("node-frozen")
    slurmd = next(item["pid"] for item in status(root)["processes"] if item["role"] == "slurmd:n002")
    assert stopped(slurmd)
    heal()
    assert not stopped(slurmd)
    assert "gpu0.sm_clock_mhz=1965" in state.read_text()
    assert (port / "counters/link_downed").read_text().strip() == "0"

    inject("slurmctld-down")
    assert not next(item["alive"] for item in status_of(root) if item["role"] == "slurmctld")
    heal()
    words = sovctl("shell", "--dir", str(root), "--", "srun", "-N2", "hostname")
    assert (words.returncode, len(words.stdout.split())) == (0, 2), words.stderr

    if storage:
        file = root / "scratch" / "file"
        inject("disk-full")
        with pytest.raises(OSError, match="No space left"):
            file.write_bytes(bytes(100_000))
        heal()
        file.write_bytes(bytes(100_000))
        inject("storage-hang")
        writer = subprocess.Popen(["touch", str(file.with_name("other"))])
        eventually(lambda: Path(f"/proc/{writer.pid}/stat").read_text().split()[2] == "D", "the writer to be blocked")
        heal()
        assert writer.wait(20) == 0
    assert sovctl("down", "--dir", str(root)).returncode == 0
    assert not root.exists()


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def status_of(root: Path) -> list[dict[str, Any]]:
    """The daemons by the lab's own record: Slurm cannot be asked."""
    from sovctl.lab import cluster

    return [{"role": item.role, "alive": item.alive} for item in cluster.load(root).processes]


# An ordinary user


def test_an_ordinary_user_has_a_lab_too(new_root: Root, attach_logs: Callable[[Path], None]) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to become another user")
    # Not nobody: 26.05 has no SlurmUser of that id.
    make_user(TEST_USER)
    other = pwd.getpwnam(TEST_USER)
    prefix = ("setpriv", f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups")
    probe = subprocess.run([*prefix, sys.executable, "-c", "import sovctl.lab.cluster"], capture_output=True, cwd="/")
    if probe.returncode != 0:
        pytest.skip("an ordinary user cannot read this checkout")
    root = new_root()
    os.chown(root.parent, other.pw_uid, other.pw_gid)
    attach_logs(root)
    env = {"USER": TEST_USER, "LOGNAME": TEST_USER, "HOME": str(root.parent)}
    began = time.monotonic()
    done = sovctl("up", "--dir", str(root), "--nodes", "2", "--json", prefix=prefix, **env)
    assert done.returncode == 0, done.stderr
    print(f"2 nodes as an ordinary user: {time.monotonic() - began:.1f} s")
    words = sovctl("shell", "--dir", str(root), "--", "srun", "-N2", "id", "-u", prefix=prefix, **env)
    assert words.stdout.split() == [str(other.pw_uid)] * 2, words.stderr
    assert sovctl("down", "--dir", str(root), prefix=prefix, **env).returncode == 0
    assert running_in(root) == []
