"""`sovctl doctor` on real daemons: root and a user, one machine and every node, and no controller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sovctl.lab import cluster
from sovctl.submit.expedite import new_enough

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def lab(new_root: Callable[[], Path], attach_logs: Callable[[Path], None]) -> Iterator[cluster.Lab]:
    root = new_root()
    attach_logs(root)
    overrides = {"JobRequeue": "0", "UnkillableStepTimeout": "180", "Prolog": "/bin/true", "TaskPlugin": "task/none"}
    yield cluster.up(cluster.Request(root, nodes=2, gpus=2, overrides=overrides))
    cluster.down(root)


def doctor(lab: cluster.Lab, *argv: str, user: str = "") -> tuple[int, dict[str, dict[str, Any]]]:
    """Status, and the lines by check; of several with one name the last."""
    env = {**os.environ, "SLURM_CONF": str(lab.layout.slurm_conf), "SOVCTL_LAB_DIR": str(lab.layout.root)}
    env |= {"SOVCTL_CONFIG": str(lab.layout.root / "sovctl.toml"), "LD_LIBRARY_PATH": str(lab.layout.lib_dir)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sovctl", "doctor", "--json", *argv],
        env=env,
        cwd="/tmp",
        capture_output=True,
        text=True,
        timeout=60,
        user=user or None,
    )
    assert "Traceback" not in done.stderr and done.stdout, done.stderr
    record = json.loads(done.stdout)
    assert record["schema"] == "sovctl.doctor/1"
    return done.returncode, {line["check"]: line for line in record["lines"]}


def test_root_and_a_user_see_what_is_set_wrong(lab: cluster.Lab, user: str) -> None:
    for who in ("", user):
        status, lines = doctor(lab, user=who)
        assert status == 1  # jobs can open each other's GPUs: TaskPlugin=task/none
        states = {name: line["state"] for name, line in lines.items()}
        assert states["slurm-version"] == states["slurm-conf"] == states["UnkillableStepTimeout"] == "pass"
        assert (states["JobRequeue"], states["ConstrainDevices"], states["shared-files"]) == ("warn", "fail", "pass")
        assert states["nohold_on_prolog_fail"] == "warn"
        assert lines["ssh"]["fix"] == "sovctl doctor --nodes"


def test_every_node_is_asked_and_one_that_differs_is_named(lab: cluster.Lab) -> None:
    settings = lab.layout.node_dir("n002") / "sovctl.toml"
    text = settings.read_text("utf-8")
    try:
        settings.write_text(text.replace("expected_gpus = 2", "expected_gpus = 3"), "utf-8")
        _, lines = doctor(lab, "--nodes")
    finally:
        settings.write_text(text, "utf-8")
    assert lines["ssh"]["seen"] == "2 of 2 nodes answered"
    assert lines["clocks"]["state"] == "pass"
    found = [line for line in lines.values() if "expected_gpus" in line["seen"]]
    assert [(line["check"], line["state"]) for line in found] == [("nvml", "fail")]
    assert found[0]["seen"].startswith("n002: 2 GPUs")


def test_it_names_what_this_slurm_can_do(lab: cluster.Lab, eventually: Callable[..., object]) -> None:
    can = {"a job that lost a node can be changed further", "no requeue can be ordered to the end"}
    _, lines = doctor(lab)
    newest = new_enough(cluster.slurm(lab.layout).settings()["SLURM_VERSION"])
    shown = {name for name, line in lines.items() if line["seen"].startswith("since ")}
    assert shown == (can if cluster.slurm(lab.layout).settings()["SLURM_VERSION"] > "23.11" else set())
    fix = "slurm.conf: SlurmctldParameters=enable_expedited_requeue"
    assert lines["expedited requeue"]["fix"] == (fix if newest else "")
    if not newest:
        return
    # What it says to type, typed.
    before = lab.layout.slurm_conf.read_text("utf-8")
    try:
        lab.layout.slurm_conf.write_text(before + fix.removeprefix("slurm.conf: ") + "\n", "utf-8")
        cluster.slurm(lab.layout).reconfigure()
        eventually(lambda: doctor(lab)[1]["expedited requeue"]["state"] == "pass", "the doctor to see it")
    finally:
        lab.layout.slurm_conf.write_text(before, "utf-8")
        cluster.slurm(lab.layout).reconfigure()


def test_a_controller_that_is_gone_is_one_line(lab: cluster.Lab, tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=gone\nSlurmctldHost=localhost\nSlurmctldPort=1\n", "ascii")
    env = {**os.environ, "SLURM_CONF": str(conf)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sovctl", "doctor"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert "FAIL  slurm " in done.stdout and "this machine" in done.stdout
