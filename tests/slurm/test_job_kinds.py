"""Jobs that are more than one batch script: arrays, ids that come back, time slices."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sovctl.lab import cluster
from tests.slurm.conftest import start_script
from tests.slurm.test_stories import assert_record_whole

pytestmark = pytest.mark.slurm

StartLab = Callable[..., cluster.Lab]

TASKS = """#!/bin/bash
#SBATCH --nodes=1 --array=3-4
echo "$SLURM_ARRAY_TASK_ID $SOVCTL_ATTEMPT" >>tasks.txt
[ "$SOVCTL_ATTEMPT" = 0 ] && [ "$SLURM_ARRAY_TASK_ID" = 4 ] && scontrol requeue "$SLURM_JOB_ID"
exit 0
"""


def test_each_task_of_an_array_is_a_run_of_its_own(story_lab: StartLab, work_dir: Path, user: str) -> None:
    lab = story_lab(health=False)
    run = start_script(lab, work_dir, user, TASKS)
    tasks = work_dir / "tasks.txt"
    run.wait("both tasks", lambda: tasks.exists() and len(tasks.read_text().splitlines()) == 3, 60)
    assert sorted(tasks.read_text().splitlines()) == ["3 0", "4 0", "4 1"]
    runs = work_dir / ".sovctl" / "runs"
    run.wait("both ends", lambda: len(list(runs.glob("*/events.jsonl"))) == 2, 30)
    ends = lambda: [path for path in runs.glob("*/events.jsonl") if "run_ended" in path.read_text()]  # noqa: E731
    run.wait("both records to end", lambda: len(ends()) == 2, 60)


def test_a_job_id_that_comes_back_is_another_run(story_lab: StartLab, work_dir: Path, user: str) -> None:
    """Slurm counts from FirstJobId again after MaxJobId."""
    lab = story_lab(health=False, overrides={"MaxJobId": "3", "MinJobAge": "2"})
    script = '#!/bin/bash\n#SBATCH --nodes=1\necho "$SOVCTL_RUN_ID $SOVCTL_RESUME_STEP" >>seen.txt\n'
    ids = []
    for _ in range(4):
        run = start_script(lab, work_dir, user, script)
        ids.append(run.job_id)
        done = len(ids)
        seen = work_dir / "seen.txt"
        run.wait("the script", lambda: seen.exists() and len(seen.read_text().splitlines()) == done, 60)  # noqa: B023
        run.wait("Slurm to forget the job", lambda: forgotten(lab, run.job_id), 60)  # noqa: B023
    assert len(set(ids)) < 4
    lines = (work_dir / "seen.txt").read_text().split()[::2]
    assert len(set(lines)) == 4


def forgotten(lab: cluster.Lab, job_id: str) -> bool:
    return job_id not in [job.job_id for job in cluster.slurm(lab.layout).jobs()]


SLICES = """#!/bin/bash
#SBATCH --nodes=1 --time=1
stop="$SOVCTL_RUN_DIR/attempts/$SOVCTL_ATTEMPT/stop"
[ "$SOVCTL_ATTEMPT" = 1 ] && exit 0
while ! [ -e "$stop" ]; do sleep 0.2; done
exit 75
"""


def test_a_run_longer_than_its_time_limit_goes_on_in_a_new_slice(
    story_lab: StartLab, work_dir: Path, user: str
) -> None:
    lab = story_lab(health=False)
    run = start_script(lab, work_dir, user, SLICES)
    run.await_event("attempt_started")
    slice_ = cluster.slurm(lab.layout).job(run.job_id)
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 2)
    second = run.events("attempt_started")[1]
    asked = run.events("stop_asked")[0]
    assert asked["why"] == "time limit"
    # A quarter of the slice before its end, by Slurm's clock: a supervisor may be long in starting.
    assert slice_.started_at is not None
    assert 40 <= asked["at"] - slice_.started_at <= 60
    # The next one begins without Slurm's 121 s. On a busy machine the begin time is set further ahead, and the pass
    # that takes the job is then backfill's, which comes every 30 s.
    assert second["at"] - asked["at"] < 90


DEAF = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1
[ "$SOVCTL_ATTEMPT" = 1 ] && exit 0
trap '' TERM
srun bash -c 'trap "" TERM; echo up; while :; do sleep 0.2; done'
"""


def test_a_requeue_by_hand_is_spared_slurms_delay_though_kill_wait_ends_the_supervisor(
    story_lab: StartLab, work_dir: Path, user: str
) -> None:
    """SIGTERM ends no rank and not the script, so slurmd kills them all, the supervisor too."""
    lab = story_lab(health=False, overrides={"KillWait": "8", "SchedulerParameters": "bf_interval=3"})
    run = start_script(lab, work_dir, user, DEAF)
    run.wait("both ranks", lambda: run.output().count("up") == 2, 60)
    at = time.time()
    run.command("scontrol", "requeue", run.job_id)
    again = run.await_event("attempt_started", 150, attempt=1)
    assert again["at"] - at < 75, "Slurm's own delay is 121 s"
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 2)
    assert run.events("attempt_ended")[0]["culprit"] == "stopped"
    assert cluster.slurm(lab.layout).job(run.job_id).restarts == 1
