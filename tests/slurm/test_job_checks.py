"""Prolog and epilog in a real Slurm: they let jobs through, and send one elsewhere when a GPU is gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.lab import cluster
from sovctl.lab.gpus import update_state
from sovctl.lab.processes import stop

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def checked_lab(new_root: Callable[[], Path], attach_logs: Callable[[Path], None]) -> Iterator[cluster.Lab]:
    if shutil.which("slurmctld", path=cluster.SYSTEM_PATH) is None:
        pytest.skip("Slurm is not installed")
    root = new_root()
    attach_logs(root)
    # No HealthCheckProgram run may come before the prolog: what it does is what is tested.
    overrides = {"HealthCheckInterval": "0", "SchedulerParameters": "nohold_on_prolog_fail"}
    try:
        yield cluster.up(cluster.Request(root, nodes=2, gpus=2, job_checks=True, overrides=overrides))
    finally:
        cluster.down(root)


def run(lab: cluster.Lab, *argv: str) -> str:
    return CommandRunner(lab.environment).run(argv, timeout_s=30.0).stdout.strip()


def test_jobs_run_and_leave_no_mark(checked_lab: cluster.Lab, eventually: Callable[..., Any]) -> None:
    assert run(checked_lab, "srun", "-N2", "--gres=gpu:2", "echo", "done").split() == ["done", "done"]
    marks = [checked_lab.layout.node_dir(node) / "run" / "jobs" for node in checked_lab.nodes]
    assert all(mark.is_dir() for mark in marks), "the prolog ran on both nodes"
    eventually(lambda: not any(list(mark.iterdir()) for mark in marks), "the epilog removes the mark of its job")
    states = cluster.slurm(checked_lab.layout).nodes()
    assert not any(node.state.draining or node.state.down for node in states)


def test_a_gpu_that_is_gone_sends_the_job_elsewhere(
    checked_lab: cluster.Lab, eventually: Callable[..., Any], tmp_path: Path
) -> None:
    bad, good = checked_lab.nodes
    slurm = cluster.slurm(checked_lab.layout)
    # Only the prolog of this job may find it: neither the watcher nor the epilog of the job before.
    stop([item for item in checked_lab.processes if item.role == f"watcher:{bad}"])
    eventually(
        lambda: all("COMPLETING" not in node.state.flags for node in slurm.nodes()), "the last job's epilogs end"
    )
    update_state(checked_lab.layout.node_dir(bad) / "nvml.state", **{"gpu1.present": 0})
    output = checked_lab.layout.root / "job.out"
    submit = (
        "sbatch",
        "--parsable",
        "-N1",
        "--requeue",
        "-w",
        bad,
        "-o",
        str(output),
        "--wrap",
        "echo line of the job",
    )
    job = run(checked_lab, *submit)
    drained = eventually(lambda: slurm.nodes([bad])[0].state.draining and slurm.nodes([bad])[0], "the node is drained")
    assert not output.exists() or "line of the job" not in output.read_text(), "nothing of it ran there"
    assert drained.reason
    assert not slurm.nodes([good])[0].state.draining
    notice = (checked_lab.layout.node_dir(bad) / "run" / "notice").read_text()
    assert notice.startswith(f"sovctl: node {bad} is not fit for this job") and "GPU_COUNT" in notice
    run(checked_lab, "scancel", job)
