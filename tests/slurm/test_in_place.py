"""Ways back that need no scheduler: again in place, on a spare of the allocation, on fewer nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovctl.errors import SovctlError
from sovctl.lab import cluster, faults
from sovctl.lab.training import Training
from tests.slurm.conftest import TOY, start_script
from tests.slurm.test_stories import assert_record_whole, nodes_of

pytestmark = [pytest.mark.slurm]

StartLab = Callable[..., cluster.Lab]


def start(
    lab: cluster.Lab, work_dir: Path, user: str, *sbatch: str, step_seconds: float = TOY.step_seconds
) -> Training:
    run = Training(lab, work_dir, replace(TOY, sbatch=sbatch, step_seconds=step_seconds), user)
    run.submit()
    run.await_step(14)
    run.await_event("checkpoint_saved", step=10)
    return run


def kill_supervisor(run: Training, *, missing_ok: bool = False) -> None:
    """SIGKILL to the process that supervises, as the kernel does when memory is short; never to its waiting parent."""
    host = run.events("attempt_started")[-1]["batch_host"]
    try:
        faults.inject(run.lab, "supervisor-killed", host)
    except SovctlError:
        assert missing_ok


def restarts(run: Training) -> list[dict[str, Any]]:
    return run.events("restarted")


def test_a_spare_takes_the_place_of_a_gpu_that_fell_off(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str]
) -> None:
    lab = story_lab(accounting=True)
    run = start(lab, work_dir, user, "--spare-nodes=2")
    first = nodes_of(run, 0)
    victim = first[2]
    assert len(first) == 4
    assert len(run.events("attempt_started")[0]["spares"]) == 2
    faults.inject(lab, "xid:79", victim, 5)
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 2)
    assert [event["how"] for event in restarts(run)] == ["spare"]
    assert restarts(run)[0]["dropped"] == [victim]
    again = nodes_of(run, 1)
    assert len(again) == 4
    assert victim not in again
    assert cluster.slurm(lab.layout).job(run.job_id).restarts == 0
    assert run.loss_curve() == undisturbed_toy


def test_a_crash_starts_again_on_the_same_nodes_and_slurm_is_not_asked(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str]
) -> None:
    lab = story_lab(health=False)
    run = start(lab, work_dir, user)
    faults.inject(lab, "rank-crash", nodes_of(run, 0)[3])
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 2)
    assert [event["how"] for event in restarts(run)] == ["in-place"]
    assert nodes_of(run, 1) == nodes_of(run, 0)
    assert cluster.slurm(lab.layout).job(run.job_id).restarts == 0
    assert run.loss_curve() == undisturbed_toy
    assert "in place" in run.sovctl("run", "why", "--attempt=0", run.job_id).stdout


def test_a_dead_node_and_a_second_fault_are_both_replaced_by_spares(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str]
) -> None:
    """With a user's rights only: nobody declares anything down, the supervisor drops what does not answer."""
    lab = story_lab(health=False, accounting=True)
    run = start(lab, work_dir, user, "--spare-nodes=2", step_seconds=0.4)
    first = nodes_of(run, 0)
    faults.inject(lab, "node-dead", first[1])
    run.await_event("attempt_started", attempt=1)
    second = nodes_of(run, 1)
    run.await_event("first_step", attempt=1)
    faults.inject(lab, "node-dead", second[2])
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 3)
    assert [event["how"] for event in restarts(run)] == ["spare", "spare"]
    assert [event["blamed"] for event in run.events("attempt_ended")][:2] == [[first[1]], [second[2]]]
    assert not {first[1], second[2]} & set(nodes_of(run, 2))
    assert cluster.slurm(lab.layout).job(run.job_id).restarts == 0
    assert run.loss_curve() == undisturbed_toy


def test_a_fault_of_the_batch_host_goes_through_the_queue_and_the_spares_come_along(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str]
) -> None:
    lab = story_lab(accounting=True)
    run = start(lab, work_dir, user, "--spare-nodes=1")
    victim = nodes_of(run, 0)[0]
    faults.inject(lab, "xid:79", victim, 1)
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 2)
    assert not restarts(run)
    second = run.events("attempt_started")[1]
    assert (len(second["nodes"]), len(second["spares"])) == (4, 1)
    assert victim not in [*second["nodes"], *second["spares"]]
    assert run.loss_curve() == undisturbed_toy


STARTS_NOTHING = """#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=1 --gres=gpu:8
[ -n "$SLURM_RESTART_COUNT" ] || exec srun --gres=gpu:9 true
exec srun true
"""
"""In its first allocation every step is refused with the words of a job whose GPUs slurmctld lost from its books."""


def test_an_allocation_in_which_no_step_starts_is_exchanged_for_a_fresh_one(
    story_lab: StartLab, work_dir: Path, user: str
) -> None:
    lab = story_lab(health=False, accounting=True)
    run = start_script(lab, work_dir, user, STARTS_NOTHING, "--spare-nodes=1")
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 2)
    first = run.events("attempt_ended")[0]
    assert (first["culprit"], first["blamed"], first["action"]) == ("unknown", [], "requeue")
    assert "Slurm started no step for the script: Invalid generic resource" in first["evidence"]
    assert not restarts(run)
    assert cluster.slurm(lab.layout).job(run.job_id).restarts == 1
    assert "for a fresh allocation" in run.sovctl("run", "why", "--attempt=0", run.job_id).stdout


SEES = """#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=2 --exclusive
{
    echo "env $SLURM_JOB_NUM_NODES $SLURM_NNODES $SLURM_JOB_NODELIST $SLURM_NTASKS $SLURM_TASKS_PER_NODE"
    echo "srun $(srun -l hostname | wc -l) $(srun printenv SLURMD_NODENAME | sort -u | tr '\\n' ' ')"
    echo "show $(scontrol show hostnames | tr '\\n' ' ')"
} >seen.txt
"""


def test_a_script_with_spares_sees_an_ordinary_allocation(story_lab: StartLab, work_dir: Path, user: str) -> None:
    lab = story_lab(health=False)
    run = start_script(lab, work_dir, user, SEES, "--spare-nodes=2")
    assert run.await_end()["outcome"] == "finished"
    seen = (work_dir / "seen.txt").read_text().splitlines()
    assert seen == ["env 3 3 n[001-003] 6 2(x3)", "srun 6 n001 n002 n003 ", "show n001 n002 n003 "]
    assert run.events("attempt_started")[0]["spares"] == ["n004", "n005"]


BESIDE = """#!/bin/bash
#SBATCH --nodes=3 --ntasks-per-node=2 --exclusive
second=$(scontrol show hostnames | sed -n 2p)
scancel --signal=USR1 "$SLURM_JOB_ID"
srun --nodes=1 --ntasks=1 --nodelist="$second" sh -c ': >beside; sleep 3' &
until [ -e beside ]; do :; done
where() { srun "$@" printenv SLURMD_NODENAME | sort -u | tr '\\n' ' '; echo; }
{
    where
    where
    for step in 1 2 3 4; do where --nodes=1 --ntasks=1; done | sort -u | grep -c 'n00[45]'
} >seen.txt
wait
"""


def test_no_step_of_a_script_runs_on_its_spares(story_lab: StartLab, work_dir: Path, user: str) -> None:
    """Slurm takes nodes without steps first (22.05), or those after the last step's (24.11 on)."""
    lab = story_lab(health=False)
    run = start_script(lab, work_dir, user, BESIDE, "--spare-nodes=2")
    assert run.await_end()["outcome"] == "finished"
    assert (work_dir / "seen.txt").read_text().splitlines() == ["n001 n002 n003 ", "n001 n002 n003 ", "0"]


ASKS = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1
if [ "$SOVCTL_ATTEMPT" = 0 ]; then
    srun bash -c 'if [ $SLURM_PROCID = 0 ]; then scontrol requeue $SLURM_JOB_ID; else sleep 3; echo >saved.txt; fi'
fi
"""


def test_a_script_that_requeues_its_own_job_is_brought_back_by_one_owner(
    story_lab: StartLab, work_dir: Path, user: str
) -> None:
    """What Lightning, submitit and NeMo-Run do."""
    lab = story_lab(health=False)
    run = start_script(lab, work_dir, user, ASKS)
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 2)
    assert cluster.slurm(lab.layout).job(run.job_id).restarts == 1
    ended = run.events("attempt_ended")[0]
    assert (ended["culprit"], ended["evidence"]) == (
        "stopped",
        "the script stopped as asked (the script asked for a requeue)",
    )
    assert (work_dir / "saved.txt").exists(), "the other rank was left to its save"
    assert "is left to sovctl" in run.output()


def test_fewer_nodes_while_others_use_the_rest_then_all_of_them(story_lab: StartLab, work_dir: Path, user: str) -> None:
    lab = story_lab(accounting=True)
    filler = Training(lab, work_dir, TOY, user)
    run = Training(lab, work_dir, replace(TOY, sbatch=("--min-nodes=3",), steps=200, step_seconds=0.3), user)
    run.submit()
    run.await_event("attempt_started")
    others = filler.command("sbatch", "--parsable", "-N4", "--exclusive", "-o/dev/null", "--wrap=sleep 600").stdout
    run.await_event("checkpoint_saved", step=10)
    victim = nodes_of(run, 0)[2]
    faults.inject(lab, "xid:79", victim, 5)
    again = run.await_event("attempt_started", attempt=1)
    assert (restarts(run)[0]["how"], len(again["nodes"])) == ("fewer-nodes", 3)
    assert victim not in again["nodes"]
    run.await_event("first_step", attempt=1)
    filler.command("scancel", others.strip())
    full = run.await_event("attempt_started", attempt=2)
    assert len(full["nodes"]) == 4
    assert victim not in full["nodes"]
    assert full["resume_step"] > again["resume_step"]
    run.sovctl("run", "stop", run.job_id)


@pytest.mark.parametrize("kills", [1, 2])
def test_a_killed_supervisor_is_followed_by_another(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str], kills: int
) -> None:
    lab = story_lab(health=False)
    # Nobody ends the script before the nodes were asked what killed its supervisor: it must not be through by then.
    run = start(lab, work_dir, user, step_seconds=0.4)
    for number in range(kills):
        run.await_event("first_step", attempt=number)
        kill_supervisor(run)
        run.await_event("taken_over", attempt=number)
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 1 + kills)
    assert cluster.slurm(lab.layout).job(run.job_id).restarts == 0
    assert run.loss_curve() == undisturbed_toy


@pytest.mark.parametrize("moment", ["detected", "attempt_ended", "requeue_intent", "requeued"])
def test_a_supervisor_killed_in_the_middle_of_a_recovery(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str], moment: str
) -> None:
    lab = story_lab()
    run = start(lab, work_dir, user)
    victim = nodes_of(run, 0)[2]
    faults.inject(lab, "xid:79", victim, 5)
    run.await_event(moment)
    kill_supervisor(run, missing_ok=True)
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, len(run.events("attempt_started")))
    assert cluster.slurm(lab.layout).job(run.job_id).restarts == 1
    assert victim not in [node for event in run.events("attempt_started")[1:] for node in event["nodes"]]
    assert run.loss_curve() == undisturbed_toy
