"""A sweep over real nodes: sshd on loopback leads to the lab's nodes, Slurm is real, the loaded test is torch's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from loopback_sshd import SSHD, LoopbackSshd

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.journal import FileJournal
from sovctl.lab import cluster, faults
from sovctl.lab.gpus import update_state
from sovctl.lab.processes import stop
from sovctl.model.reason import parse_reason

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed (Debian: openssh-server)"),
]


@dataclass
class Site:
    """A cluster whose nodes are reached by SSH."""

    lab: cluster.Lab
    env: dict[str, str]

    def sweep(self, *argv: str) -> dict[str, dict[str, Any]]:
        return {node["node"]: node for node in json.loads(self.sovctl("sweep", "--json", *argv))["nodes"]}

    def sovctl(self, *argv: str) -> str:
        words = [sys.executable, "-P", "-m", "sovctl", *argv]
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=240)
        assert done.stdout and "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def forget(self, node: str) -> None:
        """No stored verdict: the sweep has to have the node look."""
        (self.lab.layout.node_dir(node) / "run" / "verdict.json").unlink(missing_ok=True)


@pytest.fixture
def start(
    new_root: Callable[[], Path], attach_logs: Callable[[Path], None], tmp_path: Path
) -> Iterator[Callable[..., Site]]:
    """Starts a cluster of three nodes behind sshd."""
    if shutil.which("slurmctld", path=cluster.SYSTEM_PATH) is None:
        pytest.skip("Slurm is not installed")
    root = new_root()
    attach_logs(root)
    with ExitStack() as stack:

        def begin(**request: Any) -> Site:
            overrides = {"HealthCheckInterval": "0"}
            lab = cluster.up(cluster.Request(root, nodes=3, gpus=2, overrides=overrides, **request))
            stack.callback(cluster.down, root)
            # The sweep is to find it, not the watcher.
            stop([item for item in lab.processes if item.role.startswith("watcher:")])
            sshd = stack.enter_context(LoopbackSshd(tmp_path, lab.nodes))
            made = Site(lab, _environment(lab, sshd))
            for node in lab.nodes:
                # A watcher that was stopped before its first answer of NVML left `unknown` behind.
                made.forget(node)
            return made

        yield begin


@pytest.fixture
def site(start: Callable[..., Site]) -> Site:
    return start()


def _environment(lab: cluster.Lab, sshd: LoopbackSshd) -> dict[str, str]:
    """Who logs in on a node finds the files of that node of the lab, by names that are the same everywhere."""
    for node in lab.nodes:
        for name in ("run", "boot_id", "sovctl.toml"):
            (sshd.node(node) / name).symlink_to(lab.layout.node_dir(node) / name)
        (sshd.node(node) / "environment").write_text(
            f"export SOVCTL_CONFIG={lab.layout.node_dir(node)}/sovctl.toml SOVCTL_LAB_NODE={node}\n"
            f"export SOVCTL_LAB_DIR={lab.layout.root} LD_LIBRARY_PATH={lab.layout.lib_dir}\n"
            f"export PYTHONPATH={Path(cluster.__file__).parents[2]}\n",
            "utf-8",
        )
    sovctl = f". ./environment; {sys.executable} -P -m sovctl health"
    return {
        **lab.environment,
        **sshd.environment,
        "SOVCTL_NODE_RUN_DIR": "run",
        "SOVCTL_NODE_BOOT_ID_FILE": "boot_id",
        "SOVCTL_SWEEP_CHECK_COMMAND": f"{sovctl} check --json --observe",
        "SOVCTL_SWEEP_RETEST_COMMAND": f"{sovctl} burn-in --all",
        "SOVCTL_SSH_TIMEOUT_S": "60",
    }


def test_a_sick_node_is_found_drained_and_given_back_after_its_burn_in(site: Site) -> None:
    pytest.importorskip("torch")
    slurm = cluster.slurm(site.lab.layout)
    sick, port, other = site.lab.nodes
    assert {node["verdict"] for node in site.sweep().values()} == {"healthy"}

    update_state(site.lab.layout.node_dir(sick) / "nvml.state", **{"gpu1.present": 0})
    site.forget(sick)
    assert site.sweep()[sick]["action"] == "would drain", "without --act it only says so"
    assert not slurm.nodes([sick])[0].state.draining
    swept = site.sweep("--act")
    assert swept[sick]["done"] and swept[port]["verdict"] == swept[other]["verdict"] == "healthy"
    drained = slurm.nodes([sick])[0]
    reason = parse_reason(drained.reason)
    assert drained.state.draining and reason is not None and reason.code == "GPU_COUNT"

    faults.heal(site.lab, sick)
    back = site.sweep("--act")[sick]
    assert back["action"] == "resume after a passed re-test", back
    resumed = slurm.nodes([sick])[0].state
    # Until its next ping slurmctld does not count on the node (NOT_RESPONDING); it is in service all the same.
    assert resumed.base == "IDLE" and not resumed.draining

    slurm.drain(other, "waiting for a new fan")
    assert site.sweep("--act")[other]["why"].endswith("their reason stays: waiting for a new fan")
    assert slurm.nodes([other])[0].reason == "waiting for a new fan"


def test_faults_of_the_host_are_seen_by_a_look(site: Site) -> None:
    first, second, third = site.lab.nodes
    faults.inject(site.lab, "port-down", first)
    stuck = {"MOUNT_STUCK"} if os.geteuid() == 0 and Path("/dev/fuse").exists() else set()
    if stuck:
        faults.inject(site.lab, "mount-hang", first)
    faults.inject(site.lab, "mount-gone", second)
    faults.inject(site.lab, "mount-read-only", third)
    for node in site.lab.nodes:
        site.forget(node)
    codes = {name: {item["code"] for item in node["findings"]} for name, node in site.sweep().items()}
    assert codes == {first: {"IB_PORT_DOWN"} | stuck, second: {"MOUNT_MISSING"}, third: {"MOUNT_READ_ONLY"}}
    for node in site.lab.nodes:
        faults.heal(site.lab, node)
        site.forget(node)
    assert not any(node["findings"] for node in site.sweep().values())


def test_spares_prove_that_they_compute_while_they_wait(start: Callable[..., Site]) -> None:
    pytest.importorskip("torch")
    site = start(accounting=True, preemption=True)
    for node in site.lab.nodes:
        # On a real node the command is in the PATH, and finds its settings.
        path = Path(site.env["SOVCTL_SSH_CONFIG_FILE"]).parent / "nodes" / node
        script = f'#!/bin/sh\n. ./environment\nexec {sys.executable} -P -m sovctl "$@"\n'
        (path / "sovctl").write_text(script, "utf-8")
        (path / "sovctl").chmod(0o755)
    site.sovctl("spare", "set", "2")
    busy, *idle = site.lab.nodes
    runner = CommandRunner(site.lab.environment)
    runner.run(["sbatch", "-w", busy, "--exclusive", "-o/dev/null", "--wrap", "sleep 600"], timeout_s=30)
    slurm = cluster.slurm(site.lab.layout)
    _await(lambda: not str(slurm.node(busy).state).startswith("IDLE"))

    # In turn, each a real burn-in on the node, and never where somebody works.
    tested = [json.loads(site.sovctl("spare", "test", "--json"))["tested"] for _ in idle]
    assert [item["node"] for item in tested] == idle
    assert {item["outcome"] for item in tested} == {"ok"}, tested
    (status,) = json.loads(site.sovctl("spare", "status", "--json"))["partitions"]
    assert {node["name"]: node["word"]["tested"] for node in status["pool"]} == dict.fromkeys(idle, "ok")

    # A sweep does the same by itself where one is due, and none where all were tested a short while ago.
    site.env["SOVCTL_SPARE_TEST_EVERY_S"] = "3600"
    site.sweep("--act")
    assert len(_tests(site)) == 2
    site.env["SOVCTL_SPARE_TEST_EVERY_S"] = "0.001"
    site.sweep("--act")
    assert [event["node"] for event in _tests(site)] == [*idle, idle[0]]


def _tests(site: Site) -> list[dict[str, Any]]:
    events = FileJournal(site.lab.layout.journal_dir / "spare.jsonl").events()
    return [event for event in events if event["kind"] == "spare-tested"]


def _await(ready: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.1)
