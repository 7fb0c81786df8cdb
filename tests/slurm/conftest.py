"""Fixtures of the story tests: a fresh cluster a story, an ordinary user, and the losses of an undisturbed run."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.lab import cluster, faults
from sovctl.lab.processes import ProcessMark, stop
from sovctl.lab.training import Training, TrainingSpec, as_user

STORY = TrainingSpec(steps=40, save_every=10, step_seconds=0.2, toy=find_spec("torch") is None)
"""A real model in torch; where there is no torch (root directories of other Debian releases) the toy."""
TOY = replace(STORY, toy=True)
"""The same without torch: for stories in which the losses must agree but need not be those of a real model."""
TEST_USER = "sovctl-test"


@pytest.fixture(scope="session")
def user() -> str:
    """Who submits: an ordinary user where we are root, so that no test leans on root's rights in Slurm."""
    if os.geteuid() != 0:
        return ""
    make_user(TEST_USER)
    readable = subprocess.run([*as_user(TEST_USER), sys.executable, "-P", "-c", "import sovctl"], cwd="/")
    return TEST_USER if readable.returncode == 0 else ""


def make_user(name: str) -> None:
    """A system user of this name; another process of the tests may make it at the same moment."""
    argv = ["useradd", "--system", "--home-dir", "/nonexistent", name]
    deadline = time.monotonic() + 10
    while True:
        try:
            pwd.getpwnam(name)
            return
        except KeyError:
            made = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert made.returncode == 0 or time.monotonic() < deadline, made.stderr


@pytest.fixture
def work_dir(user: str) -> Iterator[Path]:
    """A directory of the submitting user, with a name that scripts stumble over."""
    with tempfile.TemporaryDirectory(prefix="sov work ", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        own = path / "a 'b'"
        own.mkdir()
        if user:
            os.chown(own, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        yield own


@pytest.fixture
def story_lab(
    new_root: Callable[[], Path], attach_logs: Callable[[Path], None]
) -> Iterator[Callable[..., cluster.Lab]]:
    """Starts an 8-node cluster with everything installed; each story breaks its own."""
    labs: list[cluster.Lab] = []

    def start(**request: object) -> cluster.Lab:
        root = new_root()
        attach_logs(root)
        labs.append(cluster.up(cluster.Request(root, **request)))  # type: ignore[arg-type]
        return labs[-1]

    yield start
    for lab in labs:
        cluster.down(lab.layout.root)


@pytest.fixture(scope="module")
def shared_lab(
    request: pytest.FixtureRequest, new_root: Callable[[], Path], attach_logs: Callable[[Path], None]
) -> Iterator[cluster.Lab]:
    """One cluster for every test of a file, as its LAB says: arguments of cluster.Request."""
    root = new_root()
    attach_logs(root)
    try:
        yield cluster.up(cluster.Request(root, **request.module.LAB))
    finally:
        cluster.down(root)


@pytest.fixture
def whole_lab(shared_lab: cluster.Lab) -> Iterator[cluster.Lab]:
    """The cluster of the file, with every node well and idle again afterwards."""
    yield shared_lab
    bring_to_rest(shared_lab)


def wait(what: str, ready: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true answer of `ready`; fails when there is none in so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.1)
    return found


def bring_to_rest(lab: cluster.Lab) -> None:
    """No job, every node mended and back in service."""
    slurm = cluster.slurm(lab.layout)
    CommandRunner(lab.environment).run(["scancel", "--partition=main"], timeout_s=30, check=False)

    def idle() -> bool:
        nodes = slurm.nodes()
        for node in nodes:
            if (node.state.down or node.state.draining) and "COMPLETING" not in node.state.flags:
                faults.heal(cluster.load(lab.layout.root), node.name)
                slurm.resume(node.name)
        return all(node.state.base == "IDLE" and node.state.schedulable for node in nodes)

    wait("every node to be well and idle", idle, 90)


@pytest.fixture(scope="session")
def undisturbed(new_root: Callable[[], Path], user: str) -> dict[int, str]:
    """The exact loss of each step of STORY when nothing fails."""
    return _calm_curve(STORY, new_root(), user)


@pytest.fixture(scope="session")
def undisturbed_toy(new_root: Callable[[], Path], user: str) -> dict[int, str]:
    """The same of TOY."""
    return _calm_curve(replace(TOY, step_seconds=0.0), new_root(), user)


def _calm_curve(spec: TrainingSpec, root: Path, user: str) -> dict[int, str]:
    lab = cluster.up(cluster.Request(root, health=False))
    try:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
            if user:
                os.chown(name, pwd.getpwnam(user).pw_uid, -1)
            run = Training(lab, Path(name), spec, user)
            run.submit()
            assert run.await_end()["outcome"] == "finished"
            curve = run.loss_curve()
    finally:
        cluster.down(lab.layout.root)
    assert sorted(curve) == list(range(1, spec.steps + 1))
    return curve


def installed_slurm() -> str:
    """slurmd tells its version without a slurm.conf; sbatch of 26.05 does not."""
    search = f"{os.environ.get('PATH', '')}:{cluster.SYSTEM_PATH}"
    try:
        return subprocess.run(["slurmd", "-V"], capture_output=True, text=True, env={"PATH": search}).stdout
    except OSError:
        return ""


def start_script(lab: cluster.Lab, work_dir: Path, user: str, text: str, *sbatch: str) -> Training:
    """Submit a script of its own."""
    run = Training(lab, work_dir, STORY, user)
    (work_dir / "own.sbatch").write_text(text)
    said = run.sovctl("submit", "--parsable", f"--chdir={work_dir}", *sbatch, str(work_dir / "own.sbatch"))
    run.job_id = said.stdout.strip()
    return run


def mounts(lab: cluster.Lab) -> list[str]:
    """What is mounted on this machine, but for what other labs mount meanwhile."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line for line in lines if "/lab/" not in line or str(lab.layout.root) in line]


NO_USER_NAMESPACES = (sys.executable, str(Path(__file__).with_name("no_user_namespaces.py")))


def start_apart(lab: cluster.Lab, node: str, change: str = "true", through: Sequence[str] = ()) -> None:
    """Start a node's slurmd again in a mount namespace of its own, after this line of shell has changed it.

    `through`: a program that then becomes slurmd.
    """
    slurmd = shlex.join(["slurmd", "-D", "-N", node, "-f", str(lab.layout.slurm_conf)])
    role = f"slurmd:{node}"
    words = ["unshare", "--mount", "sh", "-c", f"{change} && exec {shlex.join(through)} {slurmd}"]
    _restart(lab, role, lambda: cluster.start(words, role, lab.layout, cluster.node_environment(lab.layout, node)))


def start_again(lab: cluster.Lab, node: str) -> None:
    """As it was before it was started apart."""
    _restart(lab, f"slurmd:{node}", lambda: cluster.start_slurmd(lab.layout, node))


def _restart(lab: cluster.Lab, role: str, start: Callable[[], ProcessMark]) -> None:
    now = cluster.load(lab.layout.root)
    stop(item for item in now.processes if item.role == role)
    fresh = start()
    cluster.save(replace(now, processes=(*(item for item in now.processes if item.role != role), fresh)))
