"""Runs that stop without a word, on a real cluster and with the user's rights only: no watcher, no health check."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sovctl.lab import cluster, faults
from sovctl.lab.training import Training, TrainingSpec
from tests.slurm.conftest import STORY

pytestmark = [pytest.mark.slurm]

StartLab = Callable[..., cluster.Lab]
TIMEOUT_S = 6.0
PRINTS = """#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=1
srun bash -c 'for step in $(seq 400); do [ $SLURM_PROCID = 0 ] && echo "step $step loss 2.5"; sleep 0.2; done'
"""
BEATS = """#!/bin/bash
#SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=8
srun "$PYTHON" -c '
import time
from sovctl.train import Heartbeat, RunContext
heartbeat = Heartbeat(RunContext.from_env())
for step in range(1, 100000):
    until = time.process_time() + 0.03
    while time.process_time() < until:
        pass
    time.sleep(0.07)
    heartbeat.beat(step)
'
"""


# A process that is stopped for a part of the time sleeps as much longer; unlike work, that is so on a busy machine too.
PACED = BEATS.replace(
    """    until = time.process_time() + 0.03
    while time.process_time() < until:
        pass
    time.sleep(0.07)
""",
    """    for _ in range(20):
        time.sleep(0.005)
""",
)


def started(lab: cluster.Lab, work_dir: Path, user: str, script: str, *options: str) -> Training:
    """Submit a script of one's own."""
    path = work_dir / "own.sbatch"
    path.write_text(script)
    run = Training(lab, work_dir, TrainingSpec(), user)
    run.job_id = run.sovctl("submit", "--parsable", f"--chdir={work_dir}", *options, str(path)).stdout.strip()
    return run


def stop(run: Training) -> None:
    run.sovctl("run", "stop", run.job_id)


def test_a_stopped_rank_is_named_within_seconds_and_the_run_goes_on(
    story_lab: StartLab, work_dir: Path, user: str
) -> None:
    lab = story_lab(health=False)
    run = Training(lab, work_dir, replace(STORY, sbatch=(f"--hang-timeout={TIMEOUT_S:g}",)), user)
    run.submit()
    run.await_step(14)
    run.await_event("checkpoint_saved", step=10)
    nodes = run.events("attempt_started")[0]["nodes"]
    at = faults.inject(lab, "rank-hang", nodes[2]).at
    hang = run.await_event("hang", 60)
    assert hang["at"] - at < TIMEOUT_S + 10
    assert (hang["ranks"], hang["source"]) == ("2", "ranks")
    ended = run.await_event("attempt_ended", attempt=0)
    assert (ended["culprit"], ended["blamed"]) == ("unknown", [nodes[2]])
    assert f"rank 2 on {nodes[2]} is stopped" in ended["evidence"]

    shown = run.sovctl("run", "show", "--stacks", run.job_id).stdout
    assert f"rank 2 on {nodes[2]}, stopped <- odd" in shown
    assert ("toy_training.py" if STORY.toy else "train_lm.py") in shown
    record = json.loads(run.sovctl("run", "show", "--stacks", "--json", run.job_id).stdout)
    assert sorted(item["ranks"] for item in record["groups"] if item["odd"]) == ["2"]
    assert sum(item["count"] for item in record["groups"]) == 4

    again = run.await_event("attempt_started", 60, attempt=1)
    assert again["resume_step"] >= 10
    run.wait("a step of the next attempt", lambda: any(item["attempt"] == 1 for item in run.losses()), 60)
    assert run.loss_curve(), "a repeated step gives the same loss"
    stop(run)


def test_a_script_that_only_prints_is_followed_and_a_frozen_node_is_left(
    story_lab: StartLab, work_dir: Path, user: str
) -> None:
    lab = story_lab(health=False, accounting=True)
    run = started(lab, work_dir, user, PRINTS, f"--hang-timeout={TIMEOUT_S:g}")
    run.await_event("first_step")
    nodes = run.events("attempt_started")[0]["nodes"]
    run.wait("some steps", lambda: "step 12 " in run.output(), 60)
    # The batch host prints; it is its silence that is noticed.
    at = time.time()
    faults.inject(lab, "rank-hang", nodes[0])
    faults.inject(lab, "node-frozen", nodes[2])
    hang = run.await_event("hang", 60)
    # Two deadlines, both longer where the nodes share a busy machine.
    assert hang["at"] - at < TIMEOUT_S + 20
    assert hang["source"] == "steps"
    ended = run.await_event("attempt_ended", attempt=0)
    assert (ended["culprit"], ended["blamed"]) == ("hardware", [nodes[2]])
    assert (ended["step"] or 0) >= 11
    again = run.await_event("attempt_started", 90, attempt=1)
    assert nodes[2] not in again["nodes"]
    stop(run)


def test_a_lost_gpu_that_crashed_the_script_is_the_nodes_fault_without_any_right(
    story_lab: StartLab, work_dir: Path, user: str
) -> None:
    lab = story_lab(health=False)
    run = started(lab, work_dir, user, BEATS)
    run.await_event("first_step")
    nodes = run.events("attempt_started")[0]["nodes"]
    faults.inject(lab, "xid:79", nodes[2], 5)
    faults.inject(lab, "rank-crash", nodes[2])
    ended = run.await_event("attempt_ended", attempt=0)
    assert (ended["culprit"], ended["blamed"]) == ("hardware", [nodes[2]])
    assert "XID79" in ended["evidence"]
    said = run.events("script_ended")[0]
    assert (said["crash"], said["rank"], said["node"]) == ("signal", 2, nodes[2])
    assert nodes[2] not in run.await_event("attempt_started", 90, attempt=1)["nodes"]
    assert all(node.state.schedulable for node in cluster.slurm(lab.layout).nodes()), "a user drains nothing"
    stop(run)


def test_a_rank_that_is_slower_than_its_peers_is_found_and_left(story_lab: StartLab, work_dir: Path, user: str) -> None:
    lab = story_lab(health=False)
    assert PACED != BEATS
    run = started(lab, work_dir, user, PACED, "--restart-stragglers")
    run.await_event("first_step")
    nodes = run.events("attempt_started")[0]["nodes"]
    faults.inject(lab, "gpu-slow", nodes[1], 3)
    found = run.await_event("straggler", 180)
    assert (found["rank"], found["node"]) == (1, nodes[1])
    assert found["ratio"] > 1.1
    ended = run.await_event("attempt_ended", attempt=0)
    assert (ended["blamed"], "STRAGGLER" in ended["evidence"]) == ([nodes[1]], True)
    assert nodes[1] not in run.await_event("attempt_started", 90, attempt=1)["nodes"]
    stop(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and freeze a file system")
def test_ranks_that_wait_for_the_storage_blame_the_storage(story_lab: StartLab, work_dir: Path, user: str) -> None:
    lab = story_lab(health=False, scratch=True)
    writes = f"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1
srun "$PYTHON" -c '
import os, time
path = "{lab.layout.scratch}/data-" + os.environ["SLURM_PROCID"]
for step in range(1, 100000):
    print("step", step, flush=True) if os.environ["SLURM_PROCID"] == "0" else None
    with open(path, "w") as file:
        file.write(str(step))
    time.sleep(0.2)
'
"""
    own = lab.layout.scratch / "own"
    own.mkdir()
    own.chmod(0o1777)
    (work_dir / ".sovctl").symlink_to(own)
    run = started(lab, work_dir, user, writes, f"--hang-timeout={TIMEOUT_S:g}")
    run.await_event("first_step")
    faults.inject(lab, "storage-hang", lab.nodes[0])
    # The run directory hangs as well: what the supervisor decides meanwhile is written when the storage is back.
    run.wait("word of the storage", lambda: "the storage of the run has not answered" in run.output(), 60)
    slurm = cluster.slurm(lab.layout)
    run.wait("the job to be requeued", lambda: slurm.job(run.job_id).restarts > 0, 60)
    assert not run.events("attempt_ended")
    faults.heal(lab, lab.nodes[0])
    ended = run.await_event("attempt_ended", attempt=0)
    assert (ended["culprit"], ended["blamed"]) == ("storage", []), ended["evidence"]
    assert "blocked in the kernel" in ended["evidence"]
    stop(run)
    kinds = [event["kind"] for event in run.events()]
    assert kinds.count("attempt_ended") == kinds.count("hang") == 1


def test_ranks_that_wait_beside_a_dead_port_blame_the_fabric(story_lab: StartLab, work_dir: Path, user: str) -> None:
    lab = story_lab(health=False, nodes=4)
    stands = """#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=1
srun bash -c 'for step in $(seq 1000); do
    while [ -e stand-still ]; do sleep 0.2; done
    [ $SLURM_PROCID = 0 ] && echo "step $step loss 2.5"; sleep 0.2
done'
"""
    run = started(lab, work_dir, user, stands, f"--hang-timeout={TIMEOUT_S:g}")
    run.await_event("first_step")
    nodes = run.events("attempt_started")[0]["nodes"]
    at = faults.inject(lab, "port-down", nodes[1]).at
    (work_dir / "stand-still").touch()
    ended = run.await_event("attempt_ended", attempt=0)
    assert (ended["culprit"], ended["blamed"]) == ("fabric", [nodes[1]])
    assert f"{nodes[1]}: port mlx5_0/1 is DOWN" in ended["evidence"]
    assert ended["at"] - at < TIMEOUT_S + 10
    (work_dir / "stand-still").unlink()
    again = run.await_event("attempt_started", attempt=1)
    assert nodes[1] not in again["nodes"]
    stop(run)


@pytest.mark.train
def test_a_rank_that_dies_under_torchrun_leaves_nobody_waiting(story_lab: StartLab, work_dir: Path, user: str) -> None:
    """The other ranks never talk to it, so nothing but the launchers can tell them."""
    lab = story_lab(health=False, nodes=3)
    (work_dir / "waits.py").write_text("import time\nprint('step 1 loss 2', flush=True)\ntime.sleep(1000)\n")
    torchrun = f"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1
srun "$PYTHON" -m torch.distributed.run --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d \\
    --rdzv-endpoint=127.0.0.1:{lab.port + 5000} --rdzv-id=$SLURM_JOB_ID waits.py
"""
    run = started(lab, work_dir, user, torchrun)
    run.wait("both ranks", lambda: run.output().count("step 1 ") == 2, 120)
    nodes = run.events("attempt_started")[0]["nodes"]
    at = faults.inject(lab, "rank-crash", nodes[1]).at
    said = run.await_event("script_ended", 60)
    assert said["at"] - at < 30
    assert said["rank"] in (0, 1)
    assert "Signal 11 (SIGSEGV)" in (run.run_dir or work_dir).joinpath("attempts/0/traceback.txt").read_text()
    stop(run)
