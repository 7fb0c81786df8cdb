"""Ways back that need no scheduler: again in place, on a spare of the allocation, on fewer nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovctl.lab import cluster, faults
from sovctl.lab.training import Training
from tests.slurm.conftest import STORY
from tests.slurm.test_stories import assert_record_whole, nodes_of

pytestmark = [pytest.mark.slurm, pytest.mark.train]

StartLab = Callable[..., cluster.Lab]


def start(
    lab: cluster.Lab, work_dir: Path, user: str, *sbatch: str, step_seconds: float = STORY.step_seconds
) -> Training:
    run = Training(lab, work_dir, replace(STORY, sbatch=sbatch, step_seconds=step_seconds), user)
    run.submit()
    run.await_step(14)
    run.await_event("checkpoint_saved", step=10)
    return run


def restarts(run: Training) -> list[dict[str, Any]]:
    return run.events("restarted")


def script_again_s(run: Training, since: float) -> float:
    return float(run.events("attempt_started")[1]["at"]) - since


def test_a_spare_takes_the_place_of_a_gpu_that_fell_off(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed: dict[int, str]
) -> None:
    lab = story_lab(accounting=True)
    run = start(lab, work_dir, user, "--spare-nodes=2")
    first = nodes_of(run, 0)
    victim = first[2]
    assert len(first) == 4
    assert len(run.events("attempt_started")[0]["spares"]) == 2
    injected = faults.inject(lab, "xid:79", victim, 5)
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 2)
    assert [event["how"] for event in restarts(run)] == ["spare"]
    assert restarts(run)[0]["dropped"] == [victim]
    again = nodes_of(run, 1)
    assert len(again) == 4
    assert victim not in again
    assert cluster.slurm(lab.layout).job(run.job_id).restarts == 0
    assert run.loss_curve() == undisturbed
    print("took", injected, run.events())
