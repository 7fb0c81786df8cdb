"""Whole stories on a real cluster: a fault, and what became of the run. Everything is read from the outside: the
run's journal, Slurm, and the losses the training wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovctl.lab import cluster, faults
from sovctl.lab.processes import gone_within
from sovctl.lab.training import Training, TrainingSpec
from sovctl.model.reason import parse_reason
from tests.slurm.conftest import STORY, TOY

pytestmark = pytest.mark.slurm

StartLab = Callable[..., cluster.Lab]
STRIKE_AT = 14


def start_run(
    lab: cluster.Lab,
    work_dir: Path,
    user: str,
    *extra: str,
    strike_at: int = STRIKE_AT,
    step_seconds: float = STORY.step_seconds,
    spec: TrainingSpec = STORY,
) -> Training:
    """Submit the story's training and wait until it is some steps past its first checkpoint."""
    run = Training(lab, work_dir, replace(spec, extra=extra, step_seconds=step_seconds), user)
    run.submit()
    if strike_at:
        run.await_step(strike_at)
        run.await_event("checkpoint_saved", step=10)
    return run


def nodes_of(run: Training, attempt: int) -> list[str]:
    return next(event["nodes"] for event in run.events("attempt_started") if event["attempt"] == attempt)


def assert_record_whole(run: Training, attempts: int) -> None:
    """No attempt lost or doubled, each begun and ended once and in order."""
    events = run.events()
    started = [event["attempt"] for event in events if event["kind"] == "attempt_started"]
    ended = [event["attempt"] for event in events if event["kind"] == "attempt_ended"]
    assert started == ended == list(range(attempts))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def assert_survived(run: Training, victim: str, losses: dict[int, str], *, attempts: int = 2) -> None:
    """The run finished on other nodes, from the last complete checkpoint, with the losses of an undisturbed run."""
    end = run.await_end()
    assert end["kind"] == "run_ended", end
    assert end["outcome"] == "finished", end
    assert_record_whole(run, attempts)
    first = run.events("attempt_ended")[0]
    assert first["culprit"] == "hardware", first
    assert first["blamed"] == [victim], first
    assert victim in nodes_of(run, 0)
    second = run.events("attempt_started")[1]
    assert victim not in second["nodes"]
    saved = [event["step"] for event in run.events("checkpoint_saved") if event["attempt"] == 0]
    assert second["resume_step"] >= max(saved) > 0
    assert second["resume_from"].endswith(f"step-{second['resume_step']}")
    resumed = [item["step"] for item in run.losses() if item["attempt"] == 1]
    assert resumed[0] == second["resume_step"] + 1
    assert run.loss_curve() == losses


def incident_of(run: Training) -> dict[str, Any]:
    """The one incident in `sovctl report --json`, which root sees with what the site knows."""
    words = [sys.executable, "-P", "-m", "sovctl", "report", "--json"]
    env = {**run.lab.environment, "XDG_STATE_HOME": str(run.work_dir / ".state")}
    done = subprocess.run(words, cwd=run.work_dir, env=env, capture_output=True, text=True, timeout=60, check=True)
    (found,) = json.loads(done.stdout)["incidents"]
    return dict(found)


def assert_ours(lab: cluster.Lab, victim: str, *codes: str) -> None:
    """Exactly the bad node is out of service, with our reason."""
    for node in cluster.slurm(lab.layout).nodes():
        out = node.state.draining or node.state.down
        assert out == (node.name == victim), node
    reason = parse_reason(cluster.slurm(lab.layout).node(victim).reason)
    assert reason is not None
    assert reason.code in codes


def test_xid_79(story_lab: StartLab, work_dir: Path, user: str, undisturbed: dict[int, str]) -> None:
    lab = story_lab()
    run = start_run(lab, work_dir, user)
    victim = nodes_of(run, 0)[2]
    faults.inject(lab, "xid:79", victim, 5)
    assert_survived(run, victim, undisturbed)
    assert_ours(lab, victim, "XID79")
    why = run.sovctl("run", "why", run.job_id).stdout
    assert victim in why
    stamps = incident_of(run)["stamps"]
    assert stamps["fault"] <= stamps["detected"] <= stamps["decided"], stamps


def test_xid_79_on_the_batch_host(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str]
) -> None:
    lab = story_lab()
    run = start_run(lab, work_dir, user, spec=TOY)
    victim = nodes_of(run, 0)[0]
    faults.inject(lab, "xid:79", victim, 0)
    assert_survived(run, victim, undisturbed_toy)
    assert_ours(lab, victim, "XID79")


def test_node_dead(story_lab: StartLab, work_dir: Path, user: str, undisturbed: dict[int, str]) -> None:
    lab = story_lab()
    run = start_run(lab, work_dir, user)
    victim = nodes_of(run, 0)[1]
    struck = faults.inject(lab, "node-dead", victim).at
    assert_survived(run, victim, undisturbed)
    run.wait("the watch to set the node down", lambda: cluster.slurm(lab.layout).node(victim).state.down, 30)
    assert_ours(lab, victim, "NODE_DEAD")
    (detected,) = run.events("detected")
    assert detected["happened"] <= detected["at"]
    stamps = incident_of(run)["stamps"]
    assert struck - 2 <= stamps["fault"] <= stamps["detected"], stamps


def test_node_dead_with_users_rights_only(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str]
) -> None:
    """No watcher, no watch, nobody with rights: the supervisor alone cuts the node out and goes on without it."""
    lab = story_lab(health=False, accounting=True)
    run = start_run(lab, work_dir, user, spec=TOY)
    victim = nodes_of(run, 0)[1]
    faults.inject(lab, "node-dead", victim)
    assert_survived(run, victim, undisturbed_toy)
    assert not cluster.slurm(lab.layout).node(victim).state.draining


def test_a_node_that_dies_in_a_large_step_costs_no_minute(story_lab: StartLab, work_dir: Path, user: str) -> None:
    """From seven nodes on a step has a tree, and the slurmstepd above the dead node would wait 60 s for it."""
    lab = story_lab(accounting=True)
    run = start_run(lab, work_dir, user, spec=replace(TOY, nodes=7, steps=100_000))
    victim = nodes_of(run, 0)[3]
    at = faults.inject(lab, "node-dead", victim).at
    again = run.await_event("attempt_started", 90, attempt=1)
    assert victim not in again["nodes"]
    assert again["at"] - at < 55
    run.sovctl("run", "stop", run.job_id)


def test_batch_host_dead(story_lab: StartLab, work_dir: Path, user: str, undisturbed: dict[int, str]) -> None:
    lab = story_lab()
    run = start_run(lab, work_dir, user)
    victim = nodes_of(run, 0)[0]
    struck = faults.inject(lab, "node-dead", victim).at
    assert_survived(run, victim, undisturbed)
    assert_ours(lab, victim, "NODE_DEAD")
    # No supervisor lived to see it: what the watch wrote stands in its place.
    incident = incident_of(run)
    assert (incident["nodes"], incident["culprit"], incident["outcome"]) == ([victim], "hardware", "recovered")
    stamps = incident["stamps"]
    told = [stamps[name] for name in ("fault", "detected", "decided", "allocated", "script_started", "first_step")]
    assert struck - 2 <= told[0] and [*told[:3], *told[4:]] == sorted([*told[:3], *told[4:]]), stamps
    assert incident["seconds_lost"] > 0


def test_a_rank_dies_once(story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str]) -> None:
    """A segmentation fault of one rank: nobody's node is blamed, the run goes on."""
    lab = story_lab()
    run = start_run(lab, work_dir, user, spec=TOY)
    faults.inject(lab, "rank-crash", nodes_of(run, 0)[3])
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 2)
    crash = run.events("attempt_ended")[0]
    assert (crash["culprit"], crash["blamed"]) == ("user-code", [])
    assert all(node.state.schedulable for node in cluster.slurm(lab.layout).nodes())
    assert run.loss_curve() == undisturbed_toy


def test_a_bug_gets_two_tries_and_an_explanation(story_lab: StartLab, work_dir: Path, user: str) -> None:
    lab = story_lab()
    run = start_run(lab, work_dir, user, "--crash-at-step=12", "--crash-attempts=99", strike_at=0, spec=TOY)
    end = run.await_end()
    assert end["kind"] == "held"
    assert_record_whole(run, 2)
    assert [event["culprit"] for event in run.events("attempt_ended")] == ["user-code", "user-code"]
    assert all(event["blamed"] == [] for event in run.events("attempt_ended"))
    assert all(node.state.schedulable for node in cluster.slurm(lab.layout).nodes())
    run.wait("the job to be held", lambda: cluster.slurm(lab.layout).job(run.job_id).held, 45)
    why = run.sovctl("run", "why", run.job_id).stdout
    assert "RuntimeError" in why
    assert "2 times" in why or "twice" in why

    # Nobody lets it run by himself; a person who has fixed the bug does.
    run.sovctl("run", "resume", run.job_id)
    run.await_event("attempt_started", attempt=2)
    run.sovctl("run", "stop", run.job_id)


@pytest.mark.parametrize("moment", ["attempt_ended", "requeue_intent", "requeued"])
def test_scancel_in_the_middle_of_a_recovery(story_lab: StartLab, work_dir: Path, user: str, moment: str) -> None:
    lab = story_lab()
    run = start_run(lab, work_dir, user, spec=TOY)
    victim = nodes_of(run, 0)[1]
    faults.inject(lab, "xid:79", victim, 5)
    run.await_event(moment)
    run.command("scancel", run.job_id)
    run.wait("the job to end", lambda: cluster.slurm(lab.layout).job(run.job_id).over, 60)
    assert cluster.slurm(lab.layout).job(run.job_id).state == "CANCELLED"
    assert_record_whole(run, 1)
    assert "cancelled" in run.sovctl("run", "show", run.job_id).stdout.lower()


def test_scancel_ends_a_run(story_lab: StartLab, work_dir: Path, user: str) -> None:
    lab = story_lab()
    run = start_run(lab, work_dir, user, spec=TOY)
    run.command("scancel", run.job_id)
    assert run.await_end()["outcome"] == "cancelled"
    run.wait("the job to end", lambda: cluster.slurm(lab.layout).job(run.job_id).over, 60)
    assert cluster.slurm(lab.layout).job(run.job_id).state == "CANCELLED"
    assert_record_whole(run, 1)
    assert run.events("attempt_ended")[0]["culprit"] == "stopped"


def test_slurmctld_dies_in_the_middle_of_a_recovery(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed: dict[int, str]
) -> None:
    lab = story_lab()
    # Slow steps: the ranks go on without a controller, and must not be done before it is back.
    run = start_run(lab, work_dir, user, step_seconds=1.5)
    victim = nodes_of(run, 0)[1]
    faults.inject(lab, "xid:79", victim, 5)
    run.await_event("attempt_ended")
    controller = next(item for item in lab.processes if item.role == "slurmctld")
    os.kill(controller.pid, signal.SIGKILL)
    assert gone_within([controller], 5)
    run.await_event("slurm_silent", seconds=60)
    cluster.restart_slurmctld(lab)
    assert_survived(run, victim, undisturbed)
    # It saves its state every few seconds. Where the drain is lost, the node is drained again for what NVML still says.
    assert_ours(lab, victim, "XID79", "GPU_COUNT")


def test_slurmctld_away_while_training(
    story_lab: StartLab, work_dir: Path, user: str, undisturbed_toy: dict[int, str]
) -> None:
    """Nothing is wrong with the run: it neither stops nor moves because the controller is restarted."""
    lab = story_lab()
    run = start_run(lab, work_dir, user, spec=TOY)
    # It saves its state every few seconds; killed before, it would come back with a job that has not started yet.
    began, saved = run.events("attempt_started")[0]["at"], lab.layout.state_dir / "job_state"
    run.wait("the job in slurmctld's saved state", lambda: saved.exists() and saved.stat().st_mtime > began, 30)
    controller = next(item for item in lab.processes if item.role == "slurmctld")
    os.kill(controller.pid, signal.SIGKILL)
    run.await_event("slurm_silent", seconds=60)
    cluster.restart_slurmctld(lab)
    assert run.await_end()["outcome"] == "finished"
    assert_record_whole(run, 1)
    assert run.loss_curve() == undisturbed_toy
