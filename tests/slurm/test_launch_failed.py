"""A run whose job Slurm holds because a node did not launch it: the watch lets it go again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sovctl.lab import cluster
from sovctl.lab.training import Training
from tests.slurm.conftest import TOY
from tests.slurm.test_stories import assert_record_whole, nodes_of

pytestmark = pytest.mark.slurm


def test_a_run_that_slurm_holds_after_a_failed_launch_goes_on_elsewhere(
    story_lab: Callable[..., cluster.Lab], tmp_path: Path, work_dir: Path, user: str
) -> None:
    """Without nohold_on_prolog_fail a prolog that fails drains its node and holds the job (22.05 to 26.05)."""
    refused, prolog = tmp_path / "refused", tmp_path / "prolog"
    prolog.write_text(f'#!/bin/sh\n[ "$(cat {refused} 2>/dev/null)" != "$SLURMD_NODENAME" ]\n')
    prolog.chmod(0o755)
    lab = story_lab(nodes=3, overrides={"Prolog": str(prolog)})
    run = Training(lab, work_dir, replace(TOY, nodes=1, steps=100_000, step_seconds=0.1), user)
    run.submit()
    run.await_event("checkpoint_saved", step=10)
    (first,) = nodes_of(run, 0)
    refused.write_text(first)
    slurm = cluster.slurm(lab.layout)
    slurm.requeue(run.job_id)
    run.await_event("first_step", 120, attempt=1)
    assert nodes_of(run, 1) != (first,)
    assert slurm.node(first).state.draining
    lines = (lab.layout.journal_dir / "watch.jsonl").read_text("utf-8").splitlines()
    kinds = [event["kind"] for event in map(json.loads, lines) if event.get("job_id") == run.job_id]
    assert kinds.count("launch-again-intended") == kinds.count("launch-again-done") == 1
    run.sovctl("run", "stop", run.job_id)
    run.await_event("run_ended")
    assert_record_whole(run, 2)
    assert run.loss_curve()
