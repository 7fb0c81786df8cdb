"""Two faults at once on a real cluster, and a second one while the run recovers from the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sovctl.lab import cluster, faults
from sovctl.lab.training import Training
from tests.slurm.conftest import TOY
from tests.slurm.test_stories import assert_record_whole, nodes_of

pytestmark = pytest.mark.slurm

SPARES = ("--spare-nodes=2",)
LAB = {"nodes": 8, "accounting": True, "out_limit_per_hour": 40}


def start(lab: cluster.Lab, work_dir: Path, user: str, options: tuple[str, ...]) -> Training:
    """A run without an end that is past its first checkpoint."""
    run = Training(lab, work_dir, replace(TOY, steps=100_000, step_seconds=0.1, sbatch=options), user)
    run.submit()
    run.await_event("checkpoint_saved", step=10)
    return run


def assert_both_left(run: Training, struck: list[str]) -> None:
    """The run computes on as many nodes as before, none of them struck, and did no step twice with another result."""
    run.wait("an attempt without the struck nodes to compute", lambda: _computes_without(run, struck), 180)
    run.sovctl("run", "stop", run.job_id)
    run.await_event("run_ended")
    attempts = len(run.events("attempt_started"))
    assert attempts in (2, 3)
    assert_record_whole(run, attempts)
    assert len(nodes_of(run, attempts - 1)) == len(nodes_of(run, 0))
    # Two at once may be one stop or two; nobody else is named in any of them.
    blamed = [node for event in run.events("attempt_ended")[:-1] for node in event["blamed"]]
    assert blamed
    assert set(blamed) <= set(struck)
    assert all(event["culprit"] == "hardware" for event in run.events("attempt_ended")[:-1])
    assert run.loss_curve()
    saved = max(event["step"] for event in run.events("checkpoint_saved") if event["attempt"] == 0)
    assert run.events("attempt_started")[1]["resume_step"] >= saved


def _computes_without(run: Training, struck: list[str]) -> bool:
    last = run.events("attempt_started")[-1]
    began = any(event["attempt"] == last["attempt"] for event in run.events("first_step"))
    return began and not set(struck) & set(last["nodes"])


@pytest.mark.parametrize("options", [SPARES, ()], ids=["spares", "queue"])
def test_two_nodes_die_at_once(whole_lab: cluster.Lab, work_dir: Path, user: str, options: tuple[str, ...]) -> None:
    run = start(whole_lab, work_dir, user, options)
    struck = nodes_of(run, 0)[1:3]
    for node in struck:
        faults.inject(whole_lab, "node-dead", node)
    assert_both_left(run, struck)
    restarts = cluster.slurm(whole_lab.layout).job(run.job_id).restarts
    ways = {event["how"] for event in run.events("restarted")}
    assert (ways, restarts > 0) == (({"spare"}, False) if options else (set(), True))


@pytest.mark.parametrize("second", ["xid:79", "node-dead"])
@pytest.mark.parametrize(("moment", "options"), [("restart_intent", SPARES), ("requeue_intent", ())])
def test_a_second_node_breaks_while_the_run_recovers(
    whole_lab: cluster.Lab, work_dir: Path, user: str, moment: str, options: tuple[str, ...], second: str
) -> None:
    run = start(whole_lab, work_dir, user, options)
    struck = nodes_of(run, 0)[1:3]
    faults.inject(whole_lab, "xid:79", struck[0], 5)
    run.await_event(moment, attempt=0)
    faults.inject(whole_lab, second, struck[1], 3)
    assert_both_left(run, struck)
