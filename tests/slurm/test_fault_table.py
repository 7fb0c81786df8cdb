"""A table of faults on a real cluster: what each leads to, by the way back that the run was given.

Cells that have a story of their own elsewhere (test_stories, test_in_place, test_hangs) are not here.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.command import CommandRunner, Completed
from sovctl.lab import cluster, faults
from sovctl.lab.training import Training
from tests.slurm.conftest import TOY, wait
from tests.slurm.test_hangs import PACED, started
from tests.slurm.test_stories import assert_record_whole, nodes_of

pytestmark = pytest.mark.slurm

ROOT = os.geteuid() == 0
ENDLESS = replace(TOY, steps=100_000, step_seconds=0.1)
SPARE = "--spare-nodes=1"


@dataclass(frozen=True)
class Cell:
    """One fault of one node that is not the batch host (of the batch host, where the fault is its supervisor's)."""

    fault: str
    options: tuple[str, ...]
    """Of sovctl submit."""
    how: str
    """spare, in-place, or queue."""
    culprit: str
    blamed: bool = True
    """The node is named, and left."""
    script: str = ""
    """In place of the toy training."""
    where: int = 1
    """Which node of the run."""

    def __str__(self) -> str:
        return f"{self.fault}-{self.how}"


CELLS = (
    Cell("node-frozen", (SPARE, "--hang-timeout=6"), "spare", "hardware", where=2),
    # Its peers must not wait for the slow rank: then none is slower than another.
    Cell("gpu-slow", (SPARE, "--restart-stragglers"), "spare", "hardware", script=PACED),
    Cell("supervisor-killed", (SPARE,), "in-place", "unknown", blamed=False, where=0),
    Cell("ecc-uncorrectable", (), "queue", "hardware", where=3),
)
LAB = {"nodes": 7, "accounting": True, "scratch": ROOT, "out_limit_per_hour": 20}


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_what_a_fault_leads_to(whole_lab: cluster.Lab, work_dir: Path, user: str, cell: Cell) -> None:
    if cell.script:
        run = started(whole_lab, work_dir, user, cell.script, *cell.options)
        run.await_event("first_step", attempt=0)
    else:
        run = Training(whole_lab, work_dir, replace(ENDLESS, sbatch=cell.options), user)
        run.submit()
        run.await_event("checkpoint_saved", step=10)
    first = nodes_of(run, 0)
    victim = first[cell.where]
    faults.inject(whole_lab, cell.fault, victim, 3)
    run.await_event("first_step", 180, attempt=1)
    run.sovctl("run", "stop", run.job_id)
    run.await_event("run_ended")

    assert_record_whole(run, 2)
    ended = run.events("attempt_ended")[0]
    assert (ended["culprit"], ended["blamed"]) == (cell.culprit, [victim] if cell.blamed else []), ended["evidence"]
    restarts = cluster.slurm(whole_lab.layout).job(run.job_id).restarts
    ways = [event["how"] for event in run.events("restarted")]
    assert (ways, restarts) == (([], 1) if cell.how == "queue" else ([cell.how], 0)), run.events()
    again = nodes_of(run, 1)
    assert len(again) == len(first)
    assert (victim in again) is not cell.blamed
    assert run.loss_curve() or cell.script, "a repeated step gives the same loss"


def refuses_a_checkpoint(lab: cluster.Lab, run: Training) -> bool:
    return "was not saved: No space left on device" in run.output()


def _judged(lab: cluster.Lab, run: Training) -> Completed:
    """A health check of the node, as slurmd starts it."""
    node = nodes_of(run, 0)[1]
    check = [sys.executable, "-P", "-m", "sovctl", "health", "check", "--json"]
    return CommandRunner(cluster.node_environment(lab.layout, node)).run(check, timeout_s=60, check=False)


def was_judged(lab: cluster.Lab, run: Training) -> bool:
    """A single flap fails no node."""
    return _judged(lab, run).status == 0


def is_hot(lab: cluster.Lab, run: Training) -> bool:
    """The GPU that is slowed down by heat is named, and its node is not failed for it."""
    said = _judged(lab, run)
    verdict = json.loads(said.stdout)
    hot = [finding["gpu_index"] for finding in verdict["findings"] if finding["code"] == "GPU_HOT"]
    return (said.status, verdict["state"], hot) == (0, "degraded", [2])


SURVIVED = (("link-flap", was_judged), ("thermal-throttle", is_hot), ("disk-full", refuses_a_checkpoint))


@pytest.mark.parametrize(("fault", "felt"), SURVIVED, ids=[fault for fault, _ in SURVIVED])
def test_what_must_not_stop_a_run(
    whole_lab: cluster.Lab,
    work_dir: Path,
    user: str,
    fault: str,
    felt: Callable[[cluster.Lab, Training], bool],
) -> None:
    if fault == "disk-full" and not ROOT:
        pytest.skip("only root can mount a file system and fill it")
    saves = whole_lab.layout.scratch if fault == "disk-full" else work_dir
    options = (f"--checkpoint-dir={saves / 'checkpoints'}",)
    run = Training(whole_lab, work_dir, replace(ENDLESS, sbatch=options), user)
    run.submit()
    run.await_event("checkpoint_saved", step=10)
    victim = nodes_of(run, 0)[1]
    faults.inject(whole_lab, fault, victim, 2)
    run.wait("the fault to be felt", lambda: felt(whole_lab, run), 60)
    faults.heal(cluster.load(whole_lab.layout.root), victim)
    reached = max(item["step"] for item in run.losses())
    run.await_step(reached + 20)
    run.wait("a later checkpoint", lambda: run.events("checkpoint_saved")[-1]["step"] > reached, 60)
    assert len(run.events("attempt_started")) == 1
    assert not run.events("attempt_ended")
    node = cluster.slurm(whole_lab.layout).node(victim)
    assert (node.state.schedulable, node.reason) == (True, "")
    run.sovctl("run", "stop", run.job_id)
    run.await_event("run_ended")


COUNTS = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1
cat >"count.$SLURM_JOB_ID.py" <<'EOF'
import os, time
for step in range(100_000):
    time.sleep(0.2)
    try:
        os.write(1, b"step %d\\n" % step)
    except OSError:
        pass
EOF
srun python3 "count.$SLURM_JOB_ID.py"
"""


@pytest.mark.skipif(not ROOT, reason="only root can mount a file system and fill it")
def test_a_run_all_of_whose_files_are_on_a_full_disk_is_held_and_goes_on_from_there(
    whole_lab: cluster.Lab, user: str, eventually: Callable[..., Any]
) -> None:
    """Its record, the job's output and the next attempt's script find no room, and the supervisor's words none."""
    place = whole_lab.layout.scratch / "everything"
    place.mkdir()
    if user:
        os.chown(place, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    run = started(whole_lab, place, user, COUNTS)
    run.await_event("first_step")
    slurm, victim = cluster.slurm(whole_lab.layout), nodes_of(run, 0)[1]
    faults.inject(whole_lab, "disk-full", victim)
    faults.inject(whole_lab, "rank-crash", victim)
    eventually(lambda: (job := slurm.job(run.job_id)).pending and job.held, "the run to be held", 120.0)
    faults.heal(cluster.load(whole_lab.layout.root), victim)
    assert len(run.events("attempt_started")) == 1
    run.sovctl("run", "resume", run.job_id)
    run.await_event("first_step", 120, attempt=1)
    run.sovctl("run", "stop", run.job_id)
    run.await_event("run_ended")


DEAF = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8
srun bash -c 'trap "" TERM; exec sleep 1000'
"""


def test_ranks_that_ignore_sigterm_cost_no_kill_wait(whole_lab: cluster.Lab, work_dir: Path, user: str) -> None:
    """Slurm gives them KillWait (30 s) between SIGTERM and SIGKILL."""
    run = started(whole_lab, work_dir, user, DEAF)
    run.await_event("attempt_started")
    victim = nodes_of(run, 0)[1]
    ranks = wait("a rank that ignores SIGTERM", lambda: _ignores_sigterm(whole_lab, victim))
    faults.inject(whole_lab, "xid:79", victim, 5)
    run.await_event("attempt_started", attempt=1)
    run.sovctl("run", "stop", run.job_id)
    assert cluster.slurm(whole_lab.layout).job(run.job_id).restarts == 1
    assert victim not in nodes_of(run, 1)
    killed, done = (run.events(kind)[0]["at"] for kind in ("killed", "epilogs_done"))
    assert done - killed < 20
    assert not set(ranks) & set(faults.rank_processes(whole_lab.layout, victim))


CRASHES_AMONG_THE_DEAF = """#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=1 --gpus-per-node=8
srun bash -c 'trap "" TERM; [ $SLURM_PROCID-$SOVCTL_ATTEMPT = 1-0 ] && { sleep 2; exit 7; }; exec sleep 1000' &> own.log
"""


def test_a_rank_that_crashes_among_ranks_that_ignore_sigterm_costs_no_kill_wait(
    whole_lab: cluster.Lab, work_dir: Path, user: str
) -> None:
    """srun gives the others KillWait; their slurmds hear nothing meanwhile: slurmctld gives them up after 10 s. What
    it says of it goes to a file of the script's own."""
    run = started(whole_lab, work_dir, user, CRASHES_AMONG_THE_DEAF)
    run.await_event("attempt_started", attempt=1)
    run.sovctl("run", "stop", run.job_id)
    (died,) = run.events("script_ended")
    assert (died["signature"], died["rank"], died["node"]) == ("Exited with exit code 7", 1, nodes_of(run, 0)[1])
    assert run.events("survivors_ended")
    assert died["at"] - run.events("attempt_started")[0]["at"] < 25


def _ignores_sigterm(lab: cluster.Lab, node: str) -> list[int]:
    """The training processes of the node, if each ignores SIGTERM."""
    ranks = faults.rank_processes(lab.layout, node)
    try:
        states = [Path(f"/proc/{pid}/status").read_text("ascii", "replace") for pid in ranks]
    except (FileNotFoundError, ProcessLookupError):
        return []
    ignored = [int(line.split()[1], 16) for text in states for line in text.splitlines() if line.startswith("SigIgn:")]
    return ranks if ignored and all(mask >> (signal.SIGTERM - 1) & 1 for mask in ignored) else []
