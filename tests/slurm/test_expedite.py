"""Jobs that Slurm itself brings back at once, where such a Slurm is installed (25.11 or newer)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sovctl.lab import cluster, faults
from sovctl.lab.training import Training
from sovctl.submit.expedite import new_enough
from tests.slurm.conftest import installed_slurm, start_script

StartLab = Callable[..., cluster.Lab]
Eventually = Callable[..., Any]
WAITS = "#!/bin/bash\nsleep 600\n"


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not new_enough(installed_slurm()), reason="needs Slurm 25.11 or newer: --requeue=expedite"),
]


@pytest.fixture
def lab(story_lab: StartLab) -> Iterator[cluster.Lab]:
    yield story_lab(nodes=3, gpus=1, health=False, overrides={"SlurmctldParameters": "enable_expedited_requeue"})


def running(lab: cluster.Lab, run: Training, eventually: Eventually, restarts: int = 0) -> tuple[str, ...]:
    """The nodes of the run's job once its script is there for the so manieth time."""

    def there() -> bool:
        started = [event for event in run.events() if event["kind"] == "attempt_started"]
        return len(started) == restarts + 1

    eventually(there, f"attempt {restarts} starts", 60.0)
    return cluster.slurm(lab.layout).job(run.job_id).nodes


def test_a_dead_batch_host_costs_no_121_s(lab: cluster.Lab, work_dir: Path, user: str, eventually: Eventually) -> None:
    run = start_script(lab, work_dir, user, WAITS, "--nodes=2", "--exclusive")
    first, _ = running(lab, run, eventually)
    slurm = cluster.slurm(lab.layout)
    assert slurm.job(run.job_id).expedited
    faults.inject(lab, "node-dead", first)
    slurm.set_down(first, "dead")
    assert first not in running(lab, run, eventually, restarts=1)


def test_a_run_that_failed_is_failed_and_neither_held_nor_back(
    lab: cluster.Lab, work_dir: Path, user: str, eventually: Eventually
) -> None:
    run = start_script(lab, work_dir, user, WAITS, "--nodes=1", "--hold")
    runs = work_dir / ".sovctl" / "runs"
    runs.rename(work_dir / "elsewhere")
    runs.write_text("no directory")
    cluster.slurm(lab.layout).release(run.job_id)
    eventually(lambda: cluster.slurm(lab.layout).job(run.job_id).over, "the job is over", 60.0)
    job = cluster.slurm(lab.layout).job(run.job_id)
    assert (job.state, job.requeue, job.restarts) == ("FAILED", False, 0)
