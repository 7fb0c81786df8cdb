"""Runs that cannot do without the node that was blamed, on a real cluster and with the user's rights only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sovctl.lab import cluster, faults
from sovctl.lab.training import Training
from tests.slurm.conftest import start_script
from tests.slurm.test_hangs import BEATS

pytestmark = [pytest.mark.slurm]

StartLab = Callable[..., cluster.Lab]


def stop(run: Training) -> None:
    run.sovctl("run", "stop", run.job_id)


def lose_gpu(lab: cluster.Lab, run: Training, node: str) -> None:
    """The node is to blame, and nobody takes it out of service."""
    faults.inject(lab, "xid:79", node, 5)
    faults.inject(lab, "rank-crash", node)
    ended = run.await_event("attempt_ended", attempt=len(run.events("attempt_started")) - 1)
    assert (ended["culprit"], ended["blamed"]) == ("hardware", [node])


def test_a_run_as_large_as_its_partition_waits_for_a_repair_and_else_tries_the_node_again(
    story_lab: StartLab, work_dir: Path, user: str
) -> None:
    lab = story_lab(health=False, accounting=True, nodes=4)
    run = start_script(lab, work_dir, user, BEATS)
    run.await_event("first_step")
    nodes = run.events("attempt_started")[0]["nodes"]
    slurm = cluster.slurm(lab.layout)
    slurm.drain(nodes[2], "sovctl:20261122-1a2b XID79 GPU 5 fell off the bus")
    requeued = run.await_event("requeued")
    short = f"4 nodes are needed and 3 of partition main are left ({nodes[2]} out of service)"
    assert (requeued["exclude"], requeued["short"]) == ([], short)
    run.wait("Slurm to wait for the node", lambda: "DRAINED" in slurm.job(run.job_id).reason, 60)
    shown = " ".join(run.sovctl("run", "show", run.job_id).stdout.split())
    assert f"when it was requeued, {short}" in shown
    assert short in " ".join(run.sovctl("run", "why", run.job_id).stdout.split())
    assert f"{short}; the run waits" in run.output()
    slurm.resume(nodes[2])
    run.await_event("first_step", attempt=1)

    lose_gpu(lab, run, nodes[3])
    again = run.await_event("attempt_started", attempt=2)
    assert sorted(again["nodes"]) == sorted(nodes)
    assert nodes[3] in run.events("requeued")[-1]["given_up"]
    assert not run.events("misplaced")
    stop(run)


def test_a_node_of_nodelist_is_tried_again(story_lab: StartLab, work_dir: Path, user: str) -> None:
    lab = story_lab(health=False, accounting=True, nodes=6)
    named = cluster.slurm(lab.layout).nodes()[1].name
    run = start_script(lab, work_dir, user, BEATS, f"--nodelist={named}")
    run.await_event("first_step")
    assert cluster.slurm(lab.layout).job(run.job_id).required == (named,)
    lose_gpu(lab, run, named)
    assert named in run.await_event("attempt_started", attempt=1)["nodes"]
    assert run.events("requeued")[-1]["given_up"] == [named]
    stop(run)
