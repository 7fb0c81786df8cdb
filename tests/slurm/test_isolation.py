"""Isolated steps in a real Slurm: shared by the ranks of a step, gone with it, measured from inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from image_registry import make_layout, missing_programs, push, registry

from sovctl.lab import cluster
from sovctl.lab.training import as_user

_MISSING = missing_programs() + ([] if shutil.which("bwrap") else ["bubblewrap"])
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)} (make test-packages)"),
]
SOVCTL = (sys.executable, "-m", "sovctl")


class Steps:
    """An ordinary user who starts steps in a lab."""

    def __init__(self, lab: cluster.Lab, work_dir: Path, user: str, address: str) -> None:
        self.lab = lab
        self.work_dir = work_dir
        self._become = as_user(user) if user else []
        settings = {"SOVCTL_ISOLATION_PLAIN_HTTP": address, "SOVCTL_ISOLATION_NODE_DIR": str(work_dir)}
        self.env = {**os.environ, **lab.environment, "HOME": str(work_dir), "XDG_CACHE_HOME": str(work_dir), **settings}

    def start(self, *argv: str) -> subprocess.Popen[str]:
        words = [*self._become, *argv]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=self.env, cwd=self.work_dir, stdout=pipe, stderr=pipe, text=True)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        running = self.start(*argv)
        out, err = running.communicate(timeout=120)
        return subprocess.CompletedProcess(argv, running.returncode, out, err)

    def left(self) -> list[str]:
        """Processes of isolated steps of this user."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if "sovctl-end-of-step" in words and path.stat().st_uid == self.work_dir.stat().st_uid:
                found.append(words)
        return found


@pytest.fixture
def steps(lab: cluster.Lab, work_dir: Path, user: str, tmp_path: Path) -> Iterator[tuple[Steps, str]]:
    layout = make_layout(tmp_path)
    with registry(tmp_path / "registry") as served:
        yield Steps(lab, work_dir, user, served.address), push(layout, served, "team/train:1")


def test_the_ranks_of_a_node_share_an_image_loaded_once(steps: tuple[Steps, str]) -> None:
    user, image = steps
    script = "echo $SLURMD_NODENAME $(readlink /proc/self/ns/pid) $(cat /etc/marker) $HOME; sleep 1"
    done = user.run("srun", "-N2", "-n4", *SOVCTL, "exec", "--image", image, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    nodes = {line.split()[0] for line in lines}
    assert (len(lines), len(nodes), len(set(lines))) == (4, 2, 2)
    assert all(" busybox " in line for line in lines)
    assert done.stderr.count("packing the squashfs") == 1
    bad = user.run("srun", "-n1", *SOVCTL, "exec", "--image", image, "--", "no-such-program")
    assert bad.returncode == 127
    assert "there is no program no-such-program in the image" in bad.stderr


def test_a_step_that_is_cancelled_leaves_nothing(steps: tuple[Steps, str], eventually: Callable[..., Any]) -> None:
    user, image = steps
    script = "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    running = user.start("srun", "-n2", "-N1", *SOVCTL, "exec", "--image", image, "--", "sh", "-c", script)
    assert running.stdout is not None
    assert [running.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
    assert user.left()
    job = user.run("squeue", "--me", "-h", "-o", "%i").stdout.split()[0]
    assert user.run("scancel", job).returncode == 0
    out, _ = running.communicate(timeout=60)
    assert out.count("saved") == 2  # each rank was told once
    eventually(lambda: user.left() == [], "nothing of the step is left")
    assert not any(node.state.draining for node in cluster.slurm(user.lab.layout).nodes())


def test_the_doctor_proves_it_by_a_step(steps: tuple[Steps, str]) -> None:
    user, image = steps
    for words in ((), ("--image", image)):
        done = user.run(*SOVCTL, "doctor", "isolation", "--json", *words)
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)
        assert found["by_step"]
        assert found["node"] in user.lab.nodes
        assert [check for check in found["checks"] if not check["passed"]] == []
        assert (done.returncode, found["passed"]) == (0, True)
