"""Whole attempts of a run, from the start of the script to the job's return, without a real Slurm."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from format_builders import hf_trainer
from run_fakes import NOW, PLAN, XID79, FakeChild, Run
from slurm_fake import FakeSlurm

from sovctl.errors import CommandFailed, SovctlError, TryLaterError
from sovctl.health.drain import incident_id
from sovctl.model.job import JobView
from sovctl.model.job_evidence import JobEvidence
from sovctl.model.progress import Phase, Progress
from sovctl.model.rank_look import NodeLook, RankLook
from sovctl.model.reason import DrainReason
from sovctl.model.reservation import Reservation
from sovctl.model.verdict import Finding, Repair, Severity, VerdictState
from sovctl.operations.supervisor.live_run import LiveRun, gpus_of
from sovctl.ports.supervised import LookAnswer, WrittenFile
from sovctl.recovery.decide import Limits

STORY = ["attempt_started", "attempt_ended", "run_ended"]
CRASH = 'Traceback (most recent call last):\n  File "train.py", line 3\nValueError: document 7 is empty\n'


def fault(run: Run, node: str = "n002", at: float = 20.0) -> None:
    run.clock.at(at, lambda: run.slurm.drain(node, XID79))


def ends(run: Run, status: int, after_s: float = 10.0) -> None:
    """Every script that starts from now on ends so."""
    run.on_start = lambda child: run.clock.at(run.clock.time - NOW + after_s, lambda: child.end(status))


def whole(run: Run) -> None:
    """No attempt lost or doubled: each started once and ended at most once, in order, the last perhaps still open."""
    started = [record["attempt"] for record in run.of("attempt_started")]
    ended = [record["attempt"] for record in run.of("attempt_ended")]
    assert started == list(range(len(started)))
    assert ended == started[: len(ended)]
    assert len(started) - len(ended) <= 1
    assert [record["seq"] for record in run.journal.records] == list(range(1, len(run.journal.records) + 1))


# The straight way


def test_a_script_that_finishes_ends_the_run() -> None:
    run = Run()
    ends(run, 0)
    assert run.attempt() == 0
    assert [kind for kind in run.kinds if kind in STORY] == STORY
    assert run.of("run_ended")[0]["outcome"] == "finished"
    assert run.slurm.job(run.job_id).restarts == 0
    whole(run)


def test_slurmctld_is_asked_about_the_nodes_less_than_once_a_second_while_all_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, asked = Run(), count_looks(monkeypatch)
    ends(run, 0, after_s=100.0)
    run.attempt()
    assert 60 < len(asked) < 90
    assert "scheduler_passes" not in run.slurm.requests


def test_a_script_that_prints_seldom_costs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = Run(), count_looks(monkeypatch)
    monkeypatch.setattr(Run, "size", lambda self, path: 7)
    ends(run, 0, after_s=100.0)
    run.attempt()
    assert 60 < len(asked) < 90


def test_a_slow_slurmctld_is_asked_less(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    asked = count_looks(monkeypatch, lambda: run.clock.sleep(0.2))
    ends(run, 0, after_s=100.0)
    run.attempt()
    assert 5 < len(asked) < 15


def test_what_the_site_wrote_is_looked_at_in_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    count_looks(monkeypatch, lambda: run.clock.sleep(0.2))
    fault(run, at=21.0)
    run.site_wrote = lambda: run.clock.time > NOW + 21.0
    run.attempt()
    assert run.of("detected")[0]["at"] < NOW + 22.0


def count_looks(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None] = lambda: None) -> list[float]:
    """When slurmctld was asked about nodes."""
    asked: list[float] = []
    nodes = FakeSlurm.nodes

    def counted(self: FakeSlurm, names: Sequence[str] = ()) -> Any:
        asked.append(self._clock.now())
        then()
        return nodes(self, names)

    monkeypatch.setattr(FakeSlurm, "nodes", counted)
    return asked


def test_the_script_knows_its_run() -> None:
    run = Run()
    ends(run, 0)
    run.attempt()
    environment = run.environments[0]
    assert environment["SOVCTL_RUN_ID"] == "lab-1-1795384000"
    assert (environment["SOVCTL_ATTEMPT"], environment["SOVCTL_RESUME_FROM"]) == ("0", "")
    assert (environment["SLURM_KILL_BAD_EXIT"], environment["PATH"]) == ("1", "/runs/attempts/0/bin:/bin")


class AnImage:
    """An image that can be there or not."""

    def __init__(self, *problems: SovctlError | None) -> None:
        self.problems = list(problems)

    def prepare(self) -> str:
        problem = self.problems.pop(0)
        if problem is not None:
            raise problem
        return "sha256:1"

    def enter(self, argv: Any, env: Any, attempt: int) -> Any:
        return argv, {**env, "INSIDE": str(attempt)}


def test_a_script_starts_when_its_image_is_there() -> None:
    run = Run()
    run.image = AnImage(None)
    ends(run, 0)
    assert run.attempt() == 0
    assert run.of("image_ready")[0]["digest"] == "sha256:1"
    assert run.environments[0]["INSIDE"] == "0"


def test_a_registry_that_does_not_answer_holds_the_run() -> None:
    run = Run()
    run.image = AnImage(TryLaterError("reg does not answer"))
    run.attempt()
    assert run.children == []
    assert run.slurm.job(run.job_id).priority == 0
    assert "reg does not answer" in run.of("held")[0]["why"]


def test_a_wrong_image_fails_the_run_only_before_its_first_attempt() -> None:
    run = Run()
    run.image = AnImage(SovctlError("no such image"))
    with pytest.raises(SovctlError, match="no such image"):
        run.attempt()
    later = Run()
    later.image = AnImage(None, SovctlError("no such image"))
    fault(later)
    later.attempt()
    later.await_start()
    later.attempt()
    assert len(later.children) == 1
    assert "no such image" in later.of("held")[0]["why"]


def test_progress_is_written_down_once() -> None:
    run = Run()
    ends(run, 0, 8.0)
    run.clock.at(2.0, lambda: run.steps(3))
    run.clock.at(4.0, lambda: run.steps(6))
    run.attempt()
    assert run.kinds.count("rank_up") == 1
    assert run.of("attempt_ended")[0]["step"] == 6


def test_the_way_through_the_queue_is_written_down_once() -> None:
    run = Run()
    ends(run, 0, 8.0)
    run.attempt()
    (placed,) = run.of("allocated")
    assert placed["attempt"] == 0
    assert placed["began_at"] == pytest.approx(NOW, abs=1.0)
    assert {"eligible_at", "allocated_at"} < set(placed)
    assert placed["gpus"] == 0


@pytest.mark.parametrize(
    ("tres", "on_node", "gpus"),
    [
        ({"AllocTRES": "cpu=32,node=4,gres/gpu=30,gres/gpu:h100=30"}, "8", 30),
        ({"TRES": "cpu=32,node=4,billing=32,gres/gpu=16"}, "", 16),
        ({"AllocTRES": "(null)", "ReqTRES": "cpu=4,gres/gpu=8"}, "", 8),
        ({"AllocTRES": "cpu=32,node=4"}, "8", 32),
        ({"AllocTRES": "cpu=32,node=4"}, "", 0),
        ({}, "eight", 0),
    ],
)
def test_gpus_of_a_job_are_in_its_tres_or_as_on_the_batch_host(tres: dict[str, str], on_node: str, gpus: int) -> None:
    job = JobView("7", "", "", 1000, "RUNNING", nodes=("n1", "n2", "n3", "n4"), extra=tres)
    assert gpus_of(job, {"SLURM_GPUS_ON_NODE": on_node}) == gpus


def test_it_is_written_down_when_no_step_is_done_again_any_more() -> None:
    run = Run()
    run.journal.append("attempt_started", attempt=0, restarts=0, nodes=["n001"], batch_host="n001", resume_step=0)
    run.journal.append("attempt_ended", attempt=0, culprit="unknown", blamed=[], step=5, action="requeue")
    ends(run, 0, 8.0)
    run.clock.at(2.0, lambda: run.steps(3, attempt=1))
    run.clock.at(4.0, lambda: run.steps(6, attempt=1))
    run.clock.at(6.0, lambda: run.steps(9, attempt=1))
    run.attempt()
    assert [(record["attempt"], record["step"]) for record in run.of("caught_up")] == [(1, 6)]


# Hardware


def test_a_drained_node_moves_the_run_away_from_it() -> None:
    run = Run()
    fault(run)
    run.clock.at(19.9, lambda: run.steps(31))
    assert run.attempt() == 0
    detected = run.of("detected")[0]
    assert detected["nodes"] == ["n002"]
    assert detected["at"] < NOW + 21.5
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["blamed"], ended["step"]) == ("hardware", ["n002"], 31)
    assert ended["evidence"] == "n002: XID79 GPU 5 fell off the bus"
    assert run.children[0].status == -9
    assert run.await_start() < 6
    assert run.job.nodes == ("n001", "n003")
    ends(run, 0)
    run.attempt()
    assert run.of("attempt_started")[1]["excluded"] == ["n002"]
    assert run.environments[1]["SOVCTL_EXCLUDED_NODES"] == "n002"
    assert run.of("run_ended")[0]["outcome"] == "finished"
    whole(run)


def test_somebody_elses_drain_moves_nothing() -> None:
    run = Run()
    run.clock.at(5.0, lambda: run.slurm.drain("n002", "kernel update on Friday"))
    ends(run, 0, 30.0)
    run.attempt()
    assert run.of("run_ended")[0]["outcome"] == "finished"
    assert "detected" not in run.kinds


def test_a_controller_that_is_away_in_the_middle_changes_nothing() -> None:
    run = Run()
    fault(run, at=20.0)
    run.slurm.unreachable = lambda: NOW + 20.4 < run.clock.time < NOW + 80
    run.attempt()
    assert run.of("attempt_ended")[0]["blamed"] == ["n002"]
    assert "slurm_silent" in run.kinds
    run.await_start()
    assert "n002" not in run.job.nodes
    assert run.job.restarts == 1
    whole(run)


@pytest.mark.parametrize("away_s", [5.0, 120.0, 3600.0])
def test_a_script_runs_on_while_the_controller_is_away(away_s: float) -> None:
    run = Run()
    run.slurm.unreachable = lambda: NOW + 10 < run.clock.time < NOW + 10 + away_s
    ends(run, 0, 20 + away_s)
    run.attempt()
    assert run.kinds.count("slurm_silent") == 1
    assert run.kinds.count("slurm_back") == 1
    assert run.of("run_ended")[0]["outcome"] == "finished"


def test_a_silent_slurmd_with_silent_ranks_is_a_dead_node() -> None:
    run = Run()
    run.clock.at(9.9, lambda: run.steps(12))
    run.clock.at(10.0, lambda: run.silent_slurmds.add("n002"))
    run.attempt()
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["blamed"]) == ("hardware", ["n002"])
    assert ended["at"] < NOW + 20
    (detected,) = run.of("detected")
    assert detected["happened"] == NOW + 9.9, "the last step of the ranks"
    whole(run)


def test_when_a_node_was_drained_is_told_to_the_second() -> None:
    run = Run()
    reason = str(DrainReason(incident_id("n002", "boot", NOW + 20.4), "XID79", "GPU 5 fell off the bus"))
    run.clock.at(20.5, lambda: run.slurm.drain("n002", reason))
    run.attempt()
    (detected,) = run.of("detected")
    assert detected["happened"] == NOW + 20.0 <= detected["at"]


def test_a_slurmd_that_restarts_while_ranks_step_on_is_none() -> None:
    run = Run()
    for second in range(1, 40):
        run.clock.at(second, lambda at=second: run.steps(at))  # type: ignore[misc]
    run.clock.at(10.0, lambda: run.silent_slurmds.add("n002"))
    run.clock.at(25.0, lambda: run.silent_slurmds.clear())
    ends(run, 0, 35.0)
    run.attempt()
    assert run.of("run_ended")[0]["outcome"] == "finished"


def test_a_crash_whose_node_turns_out_sick_is_the_nodes() -> None:
    run = Run()
    ends(run, 1, 10.0)
    fault(run, at=10.6)
    run.attempt()
    assert run.of("attempt_ended")[0]["culprit"] == "hardware"


# Crashes


def test_the_same_crash_twice_is_held_with_an_explanation() -> None:
    run = Run()
    run.output = CRASH
    ends(run, 1)
    run.attempt()
    run.clock.sleep(1000)
    assert run.slurm.job(run.job_id).held
    first, second = run.of("attempt_ended")
    assert (first["action"], second["action"]) == ("restart", "hold")
    assert [event["how"] for event in run.of("restarted")] == ["in-place"]
    assert "ValueError: document 7 is empty" in second["evidence"]
    assert "happened 2 times" in run.of("held")[0]["why"]
    assert first["blamed"] == []
    assert run.job.excluded == ()
    whole(run)


def test_a_crash_is_judged_within_seconds() -> None:
    run = Run()
    run.output = CRASH
    ends(run, 1, 10.0)
    run.attempt()
    assert run.of("attempt_ended")[0]["at"] < NOW + 13


def test_no_requeue_ends_the_job_with_the_scripts_status() -> None:
    run = Run()
    run.job.requeue = False
    ends(run, 7)
    assert run.attempt() == 7
    assert run.of("run_ended")[0]["outcome"] == "failed"
    assert run.slurm.job(run.job_id).restarts == 0


def test_no_requeue_and_a_script_that_stops_well_as_asked_complete_the_job() -> None:
    run = Run()
    run.job.requeue = False
    run.clock.at(10.0, lambda: run.deliver(signal.SIGTERM))
    ends(run, 0, 12.0)
    assert run.attempt() == 0
    assert run.of("attempt_ended")[0]["action"] == "end"
    assert run.of("run_ended")[0]["outcome"] == "finished"


@pytest.mark.parametrize(("ends_with", "status"), [(0, 0), (93, 0), (7, 7), (-9, 1)])
def test_a_supervisor_that_takes_over_after_the_end_ends_with_the_same_status(ends_with: int, status: int) -> None:
    run = Run()
    run.job.requeue = False
    ends(run, ends_with)
    assert run.attempt() == status
    run.job.present, run.job.state = True, "RUNNING"
    assert run.attempt() == status
    assert len(run.of("run_ended")) == 1


def test_hardware_faults_have_a_budget_too() -> None:
    run = Run(nodes=9, count=1)
    for number in range(1, 5):
        run.clock.at(0.5 + run.clock.time - NOW, lambda: run.slurm.drain(run.job.nodes[0], XID79))
        run.attempt(limits=Limits(hardware=3))
        if number < 4:
            run.await_start()
    assert [record["action"] for record in run.of("attempt_ended")] == ["restart"] * 3 + ["hold"]
    assert run.of("attempt_ended")[-1]["blamed"] == ["n004"]
    whole(run)


# Steps that Slurm does not start

NO_GRES = "srun: error: Unable to create step for job 1: Invalid generic resource (gres) specification\n"
NO_CONTROLLER = "srun: error: Unable to create step for job 1: Unable to contact slurm controller (connect failure)\n"


@pytest.mark.parametrize(("said", "here_first"), [(NO_GRES, 0), (NO_CONTROLLER, 1)])
def test_a_job_whose_steps_slurm_no_longer_starts_gets_a_fresh_allocation(said: str, here_first: int) -> None:
    run = Run()
    run.output = said

    def starts(child: FakeChild) -> None:
        run.clock.at(run.clock.time - NOW + 5, lambda: child.end(0 if run.job.restarts else 1))

    run.on_start = starts
    run.attempt()
    assert len(run.of("restarted")) == here_first
    run.await_start()
    run.attempt()
    assert [event["action"] for event in run.of("attempt_ended")] == ["restart"] * here_first + ["requeue", "finish"]
    assert [event["culprit"] for event in run.of("attempt_ended")] == ["unknown"] * (here_first + 1) + ["none"]
    assert run.job.excluded == ()
    whole(run)


def test_a_job_whose_steps_never_start_is_held_in_the_end_and_not_as_a_crash() -> None:
    run = Run()
    run.output = NO_GRES
    ends(run, 1)
    for _ in range(4):
        run.attempt()
        if not run.job.held:
            run.await_start()
    assert run.job.held
    assert "Slurm started no step for the script" in run.of("held")[0]["why"]
    assert {event["culprit"] for event in run.of("attempt_ended")} == {"unknown"}
    whole(run)


def test_a_step_that_does_not_start_because_of_a_dead_node_is_the_nodes() -> None:
    run = Run(nodes=4, count=3)
    run.output = "srun: error: Unable to create step for job 1: Memory required by task is not available\n"
    run.clock.at(9.9, lambda: run.silent_slurmds.add("n002"))
    run.on_start = lambda child: run.clock.at(
        *((10.0, lambda: child.end(1)) if len(run.children) == 1 else (40.0, lambda: child.end(0)))
    )
    run.attempt(size=2, spares=1)
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["blamed"]) == ("hardware", ["n002"])
    assert run.of("restarted")[0]["how"] == "spare"


# Wishes of people


def term(run: Run, at: float) -> None:
    run.clock.at(at, lambda: run.deliver(signal.SIGTERM))


def test_scancel_ends_the_run_and_it_never_comes_back() -> None:
    run = Run()
    run.clock.at(15.0, lambda: run.slurm.cancel(run.job_id))
    term(run, 15.01)
    run.clock.at(16.0, lambda: run.children[0].end(-15))
    run.attempt()
    run.clock.sleep(1000)
    assert run.slurm.job(run.job_id).state == "CANCELLED"
    assert run.of("run_ended")[0]["outcome"] == "cancelled"
    assert run.of("attempt_ended")[0]["culprit"] == "stopped"
    assert len(run.job.starts) == 1
    whole(run)


@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.7, 1.5, 2.5, 4.0])
def test_scancel_in_the_middle_of_a_recovery_is_respected(after_s: float) -> None:
    run = Run()
    fault(run, at=20.0)
    run.clock.at(20.55 + after_s, lambda: run.slurm.cancel(run.job_id))
    run.attempt()
    run.clock.sleep(1000)
    assert run.slurm.job(run.job_id).state == "CANCELLED"
    assert len(run.job.starts) == 1
    whole(run)


def preempted(run: Run, by: Callable[[str], None]) -> None:
    """An attempt that Slurm ends so to make room for another job."""

    def preempt() -> None:
        run.job.preempted_at = int(run.clock.time)
        by(run.job_id)

    run.clock.at(15.0, preempt)
    term(run, 15.01)
    run.clock.at(16.0, lambda: run.children[0].end(-15))
    run.attempt()


def test_a_preemption_by_requeue_waits_for_room_without_blame() -> None:
    run = Run()
    preempted(run, run.slurm.requeue)
    assert run.of("attempt_ended")[0]["culprit"] == "preempted"
    assert run.await_start() < 10
    assert run.job.restarts == 1
    whole(run)


@pytest.mark.parametrize("status", [0, 75, 143, -15])
def test_a_script_that_ends_within_the_grace_time_of_a_preemption_was_preempted(status: int) -> None:
    """Slurm sends its SIGTERM to the steps alone, so the end of the script is the first that is heard of it."""
    run = Run()
    run.clock.at(15.0, lambda: setattr(run.job, "preempted_at", int(run.clock.time)))
    run.clock.at(16.0, lambda: run.children[0].end(status))
    run.attempt()
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["action"]) == ("preempted", "restart")
    assert not run.of("restarted")
    assert run.job.restarts == 1
    whole(run)


@pytest.mark.parametrize("told_s", [0.0, 1.0])
def test_a_requeue_that_ends_the_script_before_anybody_is_told_is_no_crash(told_s: float) -> None:
    run = Run()
    run.clock.at(15.0, lambda: run.children[0].end(-15))
    run.clock.at(15.0 + told_s, lambda: run.slurm.requeue(run.job_id))
    run.attempt()
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["action"]) == ("stopped", "requeue")
    assert run.await_start() < 10
    assert run.job.restarts == 1
    whole(run)


@pytest.mark.parametrize("cancel", [False, True])
def test_a_sigterm_that_came_before_the_supervisor_could_hear_it_is_found_out(cancel: bool) -> None:
    run = Run()
    live = run.supervisor()
    (run.slurm.cancel if cancel else run.slurm.requeue)(run.job_id)
    run.on_start = lambda child: run.clock.at(run.clock.time - NOW + 3.0, lambda: child.end(0 if child.received else 1))
    assert live() == 0
    assert run.children[0].received == [signal.SIGTERM]
    if cancel:
        assert run.of("run_ended")[0]["outcome"] == "cancelled"
    else:
        assert run.of("attempt_ended")[0]["action"] == "requeue"
        assert run.await_start() < 10


@pytest.mark.parametrize(("wish", "sigterm"), [("requeue", True), ("cancel", True), ("requeue", False)])
def test_a_job_that_ends_while_its_checkpoints_are_proven_is_let_go_at_once(wish: str, sigterm: bool) -> None:
    """A large one takes minutes, and KillWait is over before."""
    run = Run()

    def ask(work: Callable[[], Any], *, patience_s: float | None = None, meanwhile: Any = None) -> Any:
        for _ in range(600 if meanwhile else 0):
            run.clock.sleep(1.0)
            meanwhile()
        return work()

    def strike() -> None:
        getattr(run.slurm, wish)(run.job_id)
        run.deliver(signal.SIGTERM)

    run.checkpoints = ask
    live = run.supervisor()
    if sigterm:
        run.clock.at(20.0, strike)
    else:
        # Before the supervisor could hear it.
        run.slurm.requeue(run.job_id)
    assert live() == 0
    assert not run.children
    assert run.clock.time < NOW + 27
    if wish == "cancel":
        assert run.of("run_ended")[0]["outcome"] == "cancelled"
    else:
        assert run.await_start() < 10
    whole(run)


def test_a_slow_look_for_checkpoints_leaves_no_requeued_job_to_slurms_own_delay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run()
    run.clock.at(15.0, lambda: run.slurm.requeue(run.job_id))
    term(run, 15.01)
    run.clock.at(16.0, lambda: run.children[0].end(-15))
    asked: list[float] = []

    def newest(live: LiveRun, within_s: float) -> None:
        assert within_s < 10
        asked.append(run.clock.time)
        run.clock.sleep(40.0)

    monkeypatch.setattr(LiveRun, "newest", newest)
    run.attempt()
    assert run.slurm.begins[0] is not None
    assert run.slurm.begins[0] < NOW + 15 + 100
    assert run.slurm.requests.index(f"update {run.job_id}") < len(run.slurm.requests)
    assert asked


@pytest.mark.parametrize("state", ["STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT", "SOMETHING_NEW"])
def test_a_running_job_that_slurm_calls_by_another_name_is_not_over(state: str) -> None:
    """`scancel --signal=STOP` shows STOPPED; what is not known here ends nobody's run."""
    run = Run()
    run.clock.at(15.0, lambda: setattr(run.job, "state", state))
    term(run, 16.0)
    run.clock.at(80.0, lambda: setattr(run.job, "state", "RUNNING"))
    run.clock.at(90.0, lambda: run.children[0].end(0))
    assert run.attempt() == 0
    assert run.clock.time > NOW + 89
    assert [event["outcome"] for event in run.of("run_ended")] == []
    assert run.of("attempt_ended")[0]["culprit"] == "stopped", "it stopped as SIGTERM asked it to"


def test_a_site_that_cancels_whom_it_preempts_ends_the_run_as_preempted() -> None:
    run = Run()
    preempted(run, run.slurm.cancel)
    assert run.of("attempt_ended")[0]["culprit"] == "preempted"
    assert run.of("run_ended")[0]["outcome"] == "preempted"
    whole(run)


def test_a_request_to_stop_reaches_the_ranks_and_the_run_goes_on() -> None:
    run = Run()
    term(run, 15.0)
    run.clock.at(18.0, lambda: run.children[0].end(75))
    run.attempt()
    assert run.stops == [(0, "SIGTERM")]
    assert signal.SIGTERM in run.children[0].received
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["action"]) == ("stopped", "restart")
    run.await_start()
    whole(run)


def _silent(run: Run, begin: float, end: float) -> None:
    """Slurm answers nobody between these seconds."""
    run.slurm.unreachable = lambda: begin <= run.clock.time - NOW < end


@pytest.mark.parametrize("again", [20.0, 500.0])
def test_a_sigterm_that_comes_while_slurm_does_not_answer_reaches_the_script_once(again: float) -> None:
    run = Run()
    _silent(run, 14.0, again)
    term(run, 15.0)
    run.clock.at(40.0, lambda: run.children[0].end(75))
    run.clock.at(60.0, lambda: _silent(run, 0.0, 0.0))
    run.attempt()
    assert run.children[0].received == [signal.SIGTERM]
    assert run.stops == [(0, "SIGTERM")]
    assert NOW + 19 < run.of("stop_asked")[0]["at"] < NOW + 28
    assert [record["job_state"] for record in run.of("signal")] == ["unknown"]
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["action"]) == ("stopped", "restart")


def test_a_sigterm_of_slurm_that_it_explains_only_later_is_not_sent_again() -> None:
    run = Run()
    _silent(run, 15.5, 20.0)
    run.clock.at(15.0, lambda: run.slurm.cancel(run.job_id))
    term(run, 16.0)
    run.clock.at(30.0, lambda: run.children[0].end(0))
    run.attempt()
    assert run.children[0].received == []
    assert run.of("run_ended")[0]["outcome"] == "cancelled"


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGQUIT, signal.SIGALRM, signal.SIGURG, 40])
def test_other_signals_reach_the_script_and_stop_nothing(signum: int) -> None:
    run = Run()
    run.clock.at(5.0, lambda: run.deliver(signum))
    ends(run, 0)
    run.attempt()
    assert run.children[0].received == [signum]
    assert run.of("signal")[0]["name"] in ("SIGUSR1", "SIGQUIT", "SIGALRM", "SIGURG", "SIGRTMIN+6")
    assert run.stops == []


def test_near_the_time_limit_the_ranks_are_asked_to_save() -> None:
    run = Run()
    run.job.ends_at = int(NOW) + 600
    run.clock.at(545.0, lambda: run.children[0].end(75))
    run.attempt()
    assert run.stops == [(0, "time limit")]
    assert run.of("stop_asked")[0]["at"] < NOW + 543
    assert run.of("attempt_ended")[0]["action"] == "restart"


def near_the_limit(run: Run, phase: Phase | None, signum: int | None = None) -> dict[str, Any]:
    """The end of an attempt whose script ends with status 0 after the ranks were asked to save. `phase`: what rank 0
    says of itself at last; None: nothing. `signum`: comes before."""
    run.job.ends_at = int(NOW) + 600
    run.steps(10, at=NOW + 500.0)
    word, run.words = run.words, None
    if phase is not None:
        assert word is not None
        run.clock.at(501.0, lambda: setattr(run, "words", replace(word, phase=phase)))
    if signum is not None:
        run.clock.at(543.0, lambda: run.deliver(signum))
    run.clock.at(545.0, lambda: run.children[0].end(0))
    run.attempt()
    assert run.stops == [(0, "time limit")]
    return run.of("attempt_ended")[0]


@pytest.mark.parametrize("phase", [None, Phase.RUNNING, Phase.FINISHED])
def test_a_script_that_ends_near_its_time_limit_without_a_word_that_it_stops_has_finished(phase: Phase | None) -> None:
    run = Run()
    assert near_the_limit(run, phase)["culprit"] == "none"
    assert run.of("run_ended")[0]["outcome"] == "finished"


def test_a_rank_that_says_it_stops_is_believed() -> None:
    ended = near_the_limit(Run(), Phase.STOPPING)
    assert (ended["culprit"], ended["action"]) == ("stopped", "restart")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_every_script_hears_a_signal_so_status_0_after_one_is_a_stop(signum: int) -> None:
    ended = near_the_limit(Run(), None, signum)
    assert (ended["culprit"], ended["action"]) == ("stopped", "restart")


def test_a_script_that_does_not_stop_at_the_time_limit_is_brought_back_all_the_same() -> None:
    run = Run()
    run.job.ends_at = int(NOW) + 600
    run.attempt()
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["action"]) == ("time-limit", "restart")
    assert ended["at"] < NOW + 600


# Taking over


def lost(run: Run, node_words: Callable[[], Any]) -> None:
    """The batch host dies with its supervisor; Slurm notices and requeues."""

    def die() -> None:
        node_words()
        raise _Dead

    run.clock.at(20.0, die)
    with pytest.raises(_Dead):
        run.attempt()
    run.job.present = False


class _Dead(BaseException):
    """This supervisor is gone with its host."""


def test_an_attempt_lost_with_its_host_is_closed_with_the_right_blame() -> None:
    run = Run()
    run.clock.at(18.0, lambda: run.steps(12))
    lost(run, lambda: run.slurm.set_down("n001", "sovctl:20261122-1a2b NODE_DEAD silent for 6 s"))
    assert "attempt_ended" not in run.kinds
    run.await_start()
    ends(run, 0)
    run.attempt()
    ended = run.of("attempt_ended")[0]
    assert (ended["attempt"], ended["culprit"], ended["blamed"]) == (0, "hardware", ["n001"])
    assert ended["evidence"] == "n001: NODE_DEAD silent for 6 s"
    assert (ended["step"], ended["happened"]) == (12, NOW + 18.0)
    assert run.of("attempt_started")[1]["excluded"] == ["n001"]
    whole(run)


def test_a_script_that_takes_its_batch_host_along_each_time_is_held_by_the_same_budget() -> None:
    run = Run(nodes=8, count=1)
    for number in range(1, 5):
        began = run.clock.time - NOW
        node = run.job.nodes[0]

        def die(node: str = node) -> None:
            run.slurm.set_down(node, "sovctl:20261122-1a2b NODE_DEAD silent for 6 s")
            raise _Dead

        run.clock.at(began + 20.0, die)
        with pytest.raises(_Dead):
            run.attempt(limits=Limits(hardware=3))
        run.job.present = False
        run.await_start()
        assert len(run.of("attempt_started")) == number
    assert run.attempt(limits=Limits(hardware=3)) == 0
    assert len(run.of("attempt_started")) == 4
    why = "4 hardware faults stopped the run without a new checkpoint in between"
    assert run.of("held")[0]["why"] == why
    assert run.said[-1] == f"{why}; the run is held"
    # A person lets it go.
    run.clock.sleep(10)
    run.slurm.release(run.job_id)
    run.await_start()
    ends(run, 0)
    assert run.attempt(limits=Limits(hardware=3)) == 0
    assert run.of("run_ended")[0]["outcome"] == "finished"
    whole(run)


def killed(run: Run, at: float, **plan: Any) -> None:
    """The supervisor alone dies; the batch script starts another one."""

    def die() -> None:
        raise _Dead

    run.clock.at(at, die)
    with pytest.raises(_Dead):
        run.attempt(**plan)


def test_a_node_that_died_with_the_supervisor_is_found_out() -> None:
    run = Run(nodes=5, count=3)
    run.clock.at(19.9, lambda: run.steps(12))
    run.clock.at(20.0, lambda: run.silent_slurmds.add("n002"))
    killed(run, 20.1, size=2, spares=1)
    run.on_start = lambda child: child.end(0)
    run.attempt(size=2, spares=1)
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["blamed"], ended["step"]) == ("hardware", ["n002"], 12)
    assert ended["at"] < NOW + 20 + 5
    assert run.of("attempt_started")[1]["nodes"] == ["n001", "n003"]
    whole(run)


def test_a_node_that_was_cut_out_of_the_job_before_the_next_supervisor_came_is_blamed() -> None:
    run = Run(nodes=5, count=3)
    run.clock.at(19.0, lambda: vars(run.slurm.machines["n002"]).update(down=True, reason=XID79))
    killed(run, 19.01, size=2, spares=1)
    run.slurm.drop_nodes(run.job_id, ["n001", "n003"])
    run.on_start = lambda child: child.end(0)
    run.attempt(size=2, spares=1)
    assert run.of("attempt_ended")[0]["blamed"] == ["n002"]
    assert run.of("attempt_started")[1]["nodes"] == ["n001", "n003"]
    whole(run)


def test_a_slurmd_that_restarts_while_nobody_watches_the_ranks_is_no_dead_node() -> None:
    run = Run()
    killed(run, 20.0)
    for second in range(1, 20):
        run.clock.at(19.0 + second, lambda at=second: run.steps(at))  # type: ignore[misc]
    run.silent_slurmds.add("n002")
    run.clock.at(24.0, lambda: run.silent_slurmds.clear())
    run.on_start = lambda child: child.end(0)
    run.attempt()
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["blamed"]) == ("unknown", [])
    assert ended["at"] < NOW + 20 + 9
    whole(run)


def test_an_attempt_lost_without_a_trace_blames_nobody() -> None:
    run = Run()
    lost(run, lambda: run.slurm.requeue(run.job_id))
    run.await_start()
    ends(run, 0)
    run.attempt()
    assert (run.of("attempt_ended")[0]["culprit"], run.of("attempt_ended")[0]["blamed"]) == ("unknown", [])
    whole(run)


def test_an_allocation_on_a_blamed_node_is_left_at_once() -> None:
    run = Run()
    lost(run, lambda: run.slurm.set_down("n001", XID79))
    run.slurm.resume("n001")
    run.journal.append("attempt_ended", attempt=0, culprit="hardware", blamed=["n001"], evidence="XID79")
    run.await_start()
    assert "n001" in run.job.nodes
    run.attempt()
    assert run.of("misplaced")[0]["nodes"] == ["n001"]
    assert len(run.children) == 1, "no script started there"
    run.await_start()
    assert "n001" not in run.job.nodes
    ends(run, 0)
    run.attempt()
    assert run.of("run_ended")[0]["outcome"] == "finished"
    whole(run)


def test_a_cancelled_run_that_somebody_requeues_goes_on() -> None:
    run = Run()
    run.journal.append("run_ended", outcome="cancelled", job_id="1")
    ends(run, 0)
    run.attempt()
    assert run.kinds[1] == "run_reopened"
    assert run.of("run_ended")[-1]["outcome"] == "finished"


@pytest.mark.parametrize("after_s", [0.3, 0.8, 1.5, 2.5])
def test_a_controller_that_loses_the_requeue_is_asked_again(after_s: float) -> None:
    from copy import deepcopy

    run = Run()
    fault(run, at=20.0)
    before = deepcopy(run.job)

    def restart() -> None:
        if run.job.state == "COMPLETING":
            run.slurm.roll_back(run.job_id, before)

    run.clock.at(20.55 + after_s, restart)
    run.attempt()
    run.await_start()
    assert "n002" not in run.job.nodes
    assert run.job.restarts == 1
    assert len(run.of("requeued")) == 1
    whole(run)


def test_three_faults_in_a_row_three_moves() -> None:
    run = Run(nodes=6)
    for number in range(3):
        bad = run.job.nodes[1]
        run.clock.at(run.clock.time - NOW + 5, lambda bad=bad: run.slurm.drain(bad, XID79))  # type: ignore[misc]
        run.attempt()
        run.await_start()
        assert run.job.restarts == number + 1
    assert len({node for record in run.of("attempt_ended") for node in record["blamed"]}) == 3
    assert not set(run.job.nodes) & set(run.job.excluded)
    whole(run)


def test_a_child_leaves_nothing_behind() -> None:
    run = Run()
    fault(run)
    run.attempt()
    child: FakeChild = run.children[0]
    assert child.status is not None


# Again in the same allocation


def test_a_crash_starts_again_in_place_within_a_second_of_its_judgement() -> None:
    run = Run()
    run.output = CRASH
    scripts = iter((1, 0))
    run.on_start = lambda child: run.clock.at(run.clock.time - NOW + 10, lambda code=next(scripts): child.end(code))
    assert run.attempt() == 0
    first, second = run.of("attempt_started")
    assert (first["nodes"], second["nodes"]) == (["n001", "n002"], ["n001", "n002"])
    assert (first["restarts"], second["restarts"]) == (0, 0)
    assert second["at"] - run.of("attempt_ended")[0]["at"] < 1.0
    assert run.environments[1]["SOVCTL_ATTEMPT"] == "1"
    assert run.of("run_ended")[0]["outcome"] == "finished"
    whole(run)


def with_spares(run: Run, count: int) -> dict[str, Any]:
    run.job.count = count
    return {"size": 2, "spares": count - 2}


def test_a_spare_takes_over_without_the_scheduler() -> None:
    run = Run(nodes=4, count=3)
    fault(run)
    run.on_start = lambda child: len(run.children) > 1 and child.end(0)
    run.attempt(size=2, spares=1)
    first, second = run.of("attempt_started")
    assert (first["nodes"], first["spares"]) == (["n001", "n002"], ["n003"])
    assert (second["nodes"], second["spares"]) == (["n001", "n003"], [])
    assert run.of("restarted")[0]["dropped"] == ["n002"]
    assert run.job.restarts == 0
    assert "n002" not in run.job.starts[-1] or run.of("requeued") == []
    assert second["at"] < NOW + 20 + 3
    whole(run)


def slow_before_a_crash(run: Run, node: str) -> None:
    """A straggler is written down, then a rank crashes, and the next attempt finishes."""
    run.output = CRASH
    run.clock.at(5.0, lambda: run.journal.append("straggler", attempt=0, node=node, evidence="30 % slower") and None)
    scripts = iter((1, 0))
    run.on_start = lambda child: run.clock.at(run.clock.time - NOW + 10, lambda code=next(scripts): child.end(code))


def test_a_straggler_is_left_at_the_next_restart_where_a_spare_is_there() -> None:
    run = Run(nodes=4, count=3)
    slow_before_a_crash(run, "n002")
    run.attempt(size=2, spares=1)
    assert run.of("attempt_started")[1]["nodes"] == ["n001", "n003"]
    assert [(event["how"], event["dropped"]) for event in run.of("restarted")] == [("spare", ["n002"])]
    whole(run)


@pytest.mark.parametrize(("spares", "slow"), [(0, "n002"), (1, "n001"), (1, "n003")])
def test_a_straggler_that_no_good_spare_can_replace_costs_nothing(spares: int, slow: str) -> None:
    run = Run(nodes=4, count=2 + spares)
    slow_before_a_crash(run, slow)
    run.attempt(size=2, spares=spares)
    assert run.of("attempt_started")[1]["nodes"] == ["n001", "n002"]
    assert [(event["how"], event["dropped"]) for event in run.of("restarted")] == [("in-place", [])]
    whole(run)


def test_a_spare_with_a_bad_record_is_taken_last() -> None:
    run = Run(nodes=5, count=4)
    run.lemons = {"n003"}
    fault(run)
    run.on_start = lambda child: len(run.children) > 1 and child.end(0)
    run.attempt(size=2, spares=2)
    assert run.of("attempt_started")[1]["nodes"] == ["n001", "n004"]
    assert run.of("restarted")[0]["dropped"] == ["n002", "n003"]
    whole(run)


def test_the_spares_of_each_attempt_are_held_before_its_script_starts_and_let_go_at_the_end() -> None:
    run = Run(nodes=5, count=4)
    fault(run)
    at_start: list[tuple[str, ...]] = []

    def starts(child: FakeChild) -> None:
        at_start.append(run.hold.held)
        if len(run.children) > 1:
            child.end(0)

    run.on_start = starts
    run.attempt(size=2, spares=2)
    assert at_start == [("n003", "n004"), ("n004",)]
    assert run.hold.told == at_start
    assert run.hold.held == ()


def test_a_spare_that_died_unnoticed_goes_first_when_the_script_has_to_start_again() -> None:
    run = Run(nodes=5, count=4)
    run.output = CRASH
    run.clock.at(9.0, lambda: run.silent_slurmds.add("n003"))
    run.clock.at(10.0, lambda: run.children[0].end(1))
    run.on_start = lambda child: len(run.children) > 1 and child.end(0)
    run.attempt(size=2, spares=2)
    assert run.of("restarted")[0]["dropped"] == ["n003"]
    assert run.of("attempt_started")[1]["nodes"] == ["n001", "n002"]
    assert run.hold.told == [("n003", "n004"), ("n004",)]
    asked = [request.split()[0] for request in run.slurm.requests if request.split()[0] in ("drop", "kill_steps")]
    assert asked == ["drop", "kill_steps"]
    whole(run)


def test_the_script_sees_only_the_nodes_it_runs_on() -> None:
    run = Run(nodes=4, count=3)
    ends(run, 0)
    slurm = {"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "n[001-003]", "PATH": "/bin"}
    run.attempt(size=2, spares=1, environment=slurm)
    assert run.environments[0]["SLURM_JOB_NUM_NODES"] == "2"
    assert run.environments[0]["SLURM_JOB_NODELIST"] == "n001,n002"


def test_a_bad_spare_is_given_back_and_nobody_stops() -> None:
    run = Run(nodes=4, count=3)
    fault(run, "n003")
    ends(run, 0, 60.0)
    run.attempt(size=2, spares=1)
    assert run.of("spare_lost")[0]["nodes"] == ["n003"]
    assert run.hold.told == [("n003",)]
    assert len(run.of("attempt_started")) == 1


def test_when_slurm_does_not_let_the_node_go_the_queue_is_left() -> None:
    run = Run(nodes=4, count=3)
    fault(run)

    def never(job_id: str, keep: object) -> None:
        raise CommandFailed(["scontrol", "update"], 1, "Job update not available right now")

    run.slurm.drop_nodes = never  # type: ignore[method-assign, assignment]
    run.attempt(size=2, spares=1)
    assert run.of("restart_refused")
    run.await_start()
    assert "n002" not in run.job.starts[-1]
    whole(run)


def test_the_batch_host_falls_back_to_the_queue() -> None:
    run = Run(nodes=4, count=3)
    fault(run, "n001")
    run.attempt(size=2, spares=1)
    assert not run.of("restarted")
    run.await_start()
    assert "n001" not in run.job.starts[-1]


def test_fewer_nodes_while_no_replacement_is_free_then_all_of_them_again() -> None:
    run = Run(nodes=3, count=3)
    run.slurm.accounting = "accounting_storage/slurmdbd"
    fault(run, "n003")
    run.on_start = lambda child: len(run.children) == 2 and run.clock.at(60, lambda: child.end(75))
    run.attempt(size=3, least=2)
    second = run.of("attempt_started")[1]
    assert (run.of("restarted")[0]["how"], second["nodes"]) == ("fewer-nodes", ["n001", "n002"])
    # A third node is not to be had, so the job asks for two.
    assert run.job.count == 2
    run.await_start()
    ends(run, 0, 60.0)
    run.clock.at(run.clock.time - NOW + 10, lambda: run.slurm.resume("n003"))
    run.attempt(size=3, least=2)
    assert run.of("attempt_started")[2]["nodes"] == ["n001", "n002"]


@pytest.mark.parametrize(
    ("nodes", "begins_s", "fewer"),
    [
        pytest.param(("n004",), 3600, True, id="the free node"),
        pytest.param(("n001", "n002", "n003", "n004"), 3600, True, id="every node, its own too"),
        pytest.param(("n001", "n002", "n003", "n004"), 48 * 3600, False, id="when it is over"),
    ],
)
def test_a_node_of_which_a_maintenance_comes_soon_is_no_replacement(
    nodes: tuple[str, ...], begins_s: int, fewer: bool
) -> None:
    """A run that gave its nodes back for it would wait until the maintenance is over."""
    run = Run(nodes=4, count=3)
    run.job.limit_s = 24 * 3600.0
    run.slurm.reserved.append(Reservation("maint", nodes, int(NOW) + begins_s, None, over_others=True))
    fault(run, "n003")
    run.on_start = lambda child: len(run.children) == 2 and run.clock.at(60, lambda: child.end(75))
    run.attempt(size=3, least=2)
    assert [event["how"] for event in run.of("restarted")] == (["fewer-nodes"] if fewer else [])


@pytest.mark.parametrize(
    ("preempt_type", "qos", "fewer"),
    [("preempt/qos", "preemptible", False), ("preempt/none", "preemptible", True), ("preempt/qos", "normal", True)],
)
def test_a_node_of_preemptible_jobs_is_a_replacement(preempt_type: str, qos: str, fewer: bool) -> None:
    run = Run(nodes=4, count=3)
    run.slurm.accounting, run.slurm.preempt_type = "accounting_storage/slurmdbd", preempt_type
    other = run.slurm.submit(1)
    run.slurm.records[other].qos = qos
    fault(run, "n003")
    run.on_start = lambda child: len(run.children) == 2 and run.clock.at(60, lambda: child.end(75))
    run.attempt(size=3, least=2, preemptible_qos="preemptible")
    assert [event["how"] for event in run.of("restarted")] == (["fewer-nodes"] if fewer else [])
    assert run.job.count == (2 if fewer else 3)


def test_a_framework_that_requeues_the_job_itself_is_taken_over() -> None:
    run = Run()
    run.clock.at(10, lambda: run.requeues_asked.update({0: "requeue"}))
    run.attempt()
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["evidence"]) == ("stopped", "the script asked for a requeue")
    assert NOW + 70 < ended["at"] < NOW + 72, "other ranks may still save"
    assert run.stops == [(0, "the script asked for a requeue")]
    run.await_start()
    assert run.job.restarts == 1


@pytest.mark.parametrize("status", [0, 1, 75])
def test_a_script_that_ends_by_itself_after_it_asked_for_its_requeue_is_brought_back(status: int) -> None:
    run = Run()
    run.clock.at(10, lambda: run.requeues_asked.update({0: "requeue"}))
    run.clock.at(25, lambda: run.children[0].end(status))
    run.attempt()
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["evidence"]) == (
        "stopped",
        "the script stopped as asked (the script asked for a requeue)",
    )
    assert NOW + 25 < ended["at"] < NOW + 27
    assert "killed" in run.kinds
    run.await_start()
    whole(run)


def test_a_request_in_the_same_moment_as_the_end_of_the_script_is_heard() -> None:
    run = Run()

    def ask_and_end() -> None:
        run.requeues_asked[0] = "requeue"
        run.children[0].end(0)

    run.clock.at(10, ask_and_end)
    run.attempt()
    assert run.of("attempt_ended")[0]["action"] == "restart"


def test_measured_saves_say_how_long_the_other_ranks_may_save() -> None:
    run = Run()
    saved = Progress(0, "n001", 1, 0, Phase.RUNNING, NOW, step=9, step_at=NOW + 8, saved_step=9, save_seconds=6.0)
    run.clock.at(9, lambda: setattr(run, "words", saved))
    run.clock.at(10, lambda: run.requeues_asked.update({0: "requeue"}))
    run.attempt()
    assert NOW + 28 < run.of("attempt_ended")[0]["at"] < NOW + 30


def test_a_script_that_asks_to_be_held_is_held() -> None:
    run = Run()
    run.clock.at(10, lambda: run.requeues_asked.update({0: "requeuehold"}))
    run.clock.at(20, lambda: run.children[0].end(0))
    run.attempt()
    run.clock.sleep(1000)
    assert run.slurm.job(run.job_id).held
    assert run.of("held")[0]["why"] == "the script asked to be held (scontrol requeuehold)"


def test_scancel_during_a_restart_in_place_ends_the_run() -> None:
    run = Run()
    run.output = CRASH
    ends(run, 1)
    kill = run.slurm.kill_steps

    def cancelled_meanwhile(
        job_id: str, *, patience_s: float | None = None, lost_node: bool = False, looks: bool = True
    ) -> None:
        kill(job_id)
        run.slurm.cancel(job_id)

    run.slurm.kill_steps = cancelled_meanwhile  # type: ignore[method-assign]
    run.attempt()
    assert len(run.of("attempt_started")) == 1
    assert run.of("run_ended")[0]["outcome"] == "cancelled"
    whole(run)


# Hangs, and nodes that speak against themselves


class Nodes:
    """ports.JobLooks, RunOutput and AttemptFiles: what the nodes of a job answer after a second."""

    def __init__(self, run: Run, *looks: NodeLook) -> None:
        self.run, self.looks = run, looks
        self.ready: float | None = None
        self.kept: list[str] = []
        self.lines: list[str] = []
        """What the job prints next."""
        self.followed: list[str] = []
        self.ended: list[tuple[tuple[str, ...], int, float]] = []
        """Nodes on which a step's ranks were ended, the step, and when."""

    def begin(self, nodes: Sequence[str] = (), **_: Any) -> None:
        self.ready = self.run.clock.time + 1.0 if nodes else None

    @property
    def going_on(self) -> bool:
        return self.ready is not None

    def poll(self) -> LookAnswer | None:
        if self.ready is None or self.run.clock.time < self.ready:
            return None
        self.ready = None
        return LookAnswer(self.looks, first_s=1.0)

    def cancel(self) -> None:
        self.ready = None

    def follow(self, file: WrittenFile) -> None:
        self.followed.append(file.path)

    def end(self, nodes: Sequence[str], step: int) -> None:
        """Each rank that is left ends by it, and so does the script."""
        self.ended.append((tuple(nodes), step, self.run.clock.time - NOW))
        self.run.clock.at(self.run.clock.time - NOW + 1.0, lambda: self.run.children[-1].end(137))

    def read(self, paths: Sequence[str]) -> tuple[list[str], bool]:
        lines, self.lines = self.lines, []
        return lines, bool(lines)

    def keep(self, attempt: int, name: str, data: bytes) -> str:
        self.kept.append(f"{attempt}/{name}")
        return ""

    def changed(self, directory: str) -> float:
        return 0.0


def test_a_run_that_hangs_is_requeued_with_its_stacks_kept() -> None:
    run = Run()
    stack = ("all_reduce (dist.py:9)",)
    ranks = (RankLook(0, 9, "python", "S", stack=stack), RankLook(1, 9, "python", "T", stack=stack))
    run.nodes = nodes = Nodes(run, NodeLook("n001", ranks[:1]), NodeLook("n002", ranks[1:]))
    run.clock.at(9.9, lambda: run.steps(12))
    run.attempt(hang_timeout_s=20.0)
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["blamed"], ended["step"]) == ("unknown", ["n002"], 12)
    assert ended["at"] < NOW + 10 + 20 + 3
    assert [name for name in nodes.kept if "stacks" in name] == ["0/stacks.json", "0/stacks.txt"]
    run.await_start()
    whole(run)


def test_a_script_that_sends_the_words_of_its_steps_elsewhere_is_followed_there() -> None:
    run = Run()
    run.job.stdout = "/quiet"
    run.nodes = nodes = Nodes(run, NodeLook("n001"), NodeLook("n002"))
    run.output = "Traceback (most recent call last):\nValueError: loss is nan\n"
    run.written = {4711: [WrittenFile("/home/u/train.log", appended=False)]}
    run.clock.at(9.0, lambda: run.children[-1].end(1))
    run.attempt()
    assert set(run.followed) == set(nodes.followed) == {"/home/u/train.log"}
    assert run.of("script_ended")[0]["signature"] == "ValueError: loss is nan"


def test_a_node_that_dies_is_noticed_while_something_beside_the_ranks_goes_on_printing() -> None:
    """The output grows for ever, but it shows no more steps."""
    run = Run()
    run.nodes = nodes = Nodes(run, NodeLook("n001"), NodeLook("n002"))
    for step in range(1, 20):
        run.clock.at(2.0 * step, lambda step=step: nodes.lines.append(f"step {step} loss 2.4"))  # type: ignore[misc]
    run.clock.at(39.0, lambda: run.silent_slurmds.add("n002"))
    run.attempt()
    (ended, *_) = run.of("attempt_ended")
    assert (ended["culprit"], ended["blamed"]) == ("hardware", ["n002"])
    assert ended["at"] < NOW + 39 + 45


def crashes(run: Run, at: float, *, job: str = "") -> Nodes:
    """A rank crashes then, and the others outlive SIGTERM."""
    run.nodes = nodes = Nodes(run, NodeLook("n001"), NodeLook("n002"))
    run.job.steps = 1
    line = f"srun: launch/slurm: _step_signal: Terminating StepId={job or run.job_id}.0"
    run.clock.at(at, lambda: nodes.lines.append(line))
    return nodes


def test_ranks_that_outlive_the_end_of_their_step_are_ended_before_slurmctld_misses_their_nodes() -> None:
    run = Run()
    nodes = crashes(run, 10.0)
    run.attempt()
    (ended,) = nodes.ended
    assert ended[:2] == (("n001", "n002"), 0)
    assert 12 <= ended[2] <= 14, "they get two seconds, and slurmctld waits ten"
    assert (run.of("survivors_ended")[0]["step"], run.of("script_ended")[0]["exit_status"]) == (0, 137)


def test_ranks_that_end_by_themselves_and_steps_of_other_jobs_are_left_alone() -> None:
    run = Run()
    nodes = crashes(run, 10.0)
    run.clock.at(11.0, lambda: run.children[-1].end(1))
    run.attempt()
    assert nodes.ended == []
    other = Run()
    nodes = crashes(other, 10.0, job="77")
    other.clock.at(30.0, lambda: other.children[-1].end(0))
    other.attempt()
    assert nodes.ended == []


def test_a_rank_that_saves_when_another_failed_gets_all_of_kill_wait() -> None:
    run = Run()
    nodes = crashes(run, 10.0)
    saves = Progress(0, "n001", 1, 0, Phase.SAVING, NOW, step=9, step_at=NOW + 9, step_seconds=0.5)
    run.clock.at(9.5, lambda: setattr(run, "words", saves))
    run.clock.at(40.0, lambda: run.children[-1].end(137))
    run.attempt()
    assert nodes.ended == []


def test_a_step_that_ended_is_not_looked_for_in_a_script_that_goes_on_without_it() -> None:
    run = Run()
    nodes = crashes(run, 10.0)
    run.clock.at(11.0, lambda: setattr(run.job, "steps", 0))
    run.clock.at(30.0, lambda: run.children[-1].end(0))
    run.attempt()
    assert nodes.ended == []
    assert run.kinds[-1] == "run_ended"


def test_ranks_that_were_asked_to_stop_are_not_hurried_by_the_first_that_did() -> None:
    run = Run()
    nodes = crashes(run, 10.0)
    term(run, 9.0)
    run.clock.at(40.0, lambda: run.children[-1].end(75))
    run.attempt()
    assert nodes.ended == []


def test_nothing_waits_for_what_lies_below_a_silent_node_when_ranks_are_ended() -> None:
    """A rank crashed on a run that hangs on a frozen node: where the others die without that order, their slurmstepds
    wait a minute for it."""
    run = Run()
    nodes = crashes(run, 10.0)
    told: list[dict[str, Any]] = []
    run.slurm.kill_steps = lambda _job, **how: told.append({"ended": len(nodes.ended), **how})  # type: ignore[method-assign]
    run.clock.at(9.0, lambda: run.silent_slurmds.add("n002"))
    run.attempt()
    assert nodes.ended[0][0] == ("n001",)
    assert (told[0]["lost_node"], told[0]["ended"]) == (True, 0), "first, for later nobody hears"


def test_ranks_that_all_died_of_a_dead_node_need_no_end() -> None:
    """srun waits for the dead node alone, and whoever recovers from it needs not wait for more."""
    run = Run()
    nodes = crashes(run, 10.0)
    run.clock.at(8.9, lambda: run.steps(12))
    run.clock.at(9.0, lambda: run.silent_slurmds.add("n002"))
    run.clock.at(9.9, lambda: nodes.lines.append("srun: error: n001: task 0: Exited with exit code 1"))
    run.attempt()
    assert run.of("attempt_ended")[0]["blamed"] == ["n002"]
    assert nodes.ended == []


def test_a_fault_right_after_a_crash_ends_the_ranks_at_once() -> None:
    run = Run()
    nodes = crashes(run, 10.0)
    run.clock.at(10.0, lambda: run.slurm.drain("n002", "sovctl:261130-000010-n002-aaaa XID79 GPU 5"))
    run.attempt()
    assert run.of("attempt_ended")[0]["culprit"] == "hardware"
    assert nodes.ended and nodes.ended[0][2] < 13


@pytest.mark.parametrize(("save_s", "patience_s"), [(None, 60.0), (40.0, 120.0)])
def test_a_script_that_hangs_in_its_last_save_is_noticed(save_s: float | None, patience_s: float) -> None:
    run = Run()
    ranks = (RankLook(0, 9, "python", "S", stack=("save (a.py:9)",)), RankLook(1, 9, "python", "T"))
    run.nodes = Nodes(run, NodeLook("n001", ranks[:1]), NodeLook("n002", ranks[1:]))
    word = Progress(
        0, "n001", 1, 0, Phase.RUNNING, NOW, step=12, step_at=NOW + 14, step_seconds=0.5, saved_step=9,
        save_seconds=save_s,
    )  # fmt: skip
    run.clock.at(14.0, lambda: setattr(run, "words", word))
    term(run, 15.0)
    run.attempt(hang_timeout_s=20.0)
    hang = run.of("hang")[0]
    assert NOW + 15 + patience_s < hang["at"] < NOW + 15 + patience_s + 20 + 5
    assert run.of("attempt_ended")[0]["blamed"] == ["n002"]


def test_a_last_save_that_takes_its_time_is_no_hang() -> None:
    run = Run()
    run.nodes = Nodes(run, NodeLook("n001"), NodeLook("n002"))
    run.clock.at(14.0, lambda: run.steps(12))
    term(run, 15.0)
    run.clock.at(70.0, lambda: run.children[0].end(75))
    run.attempt(hang_timeout_s=20.0)
    assert run.of("hang") == []
    assert run.of("attempt_ended")[0]["culprit"] == "stopped"


def test_a_crash_is_the_nodes_when_the_node_says_so_itself() -> None:
    run = Run()
    run.output = CRASH
    run.nodes = Nodes(run, NodeLook("n001"), NodeLook("n002", findings=("XID79 GPU 5 fell off the bus",)))
    ends(run, 1)
    run.attempt()
    ended = run.of("attempt_ended")[0]
    assert (ended["culprit"], ended["blamed"]) == ("hardware", ["n002"])
    assert ended["evidence"] == "n002: XID79 GPU 5 fell off the bus"
    assert run.of("script_ended")[0]["crash"] == "python"
    run.await_start()
    assert "n002" not in run.job.nodes


def test_a_node_that_somebody_else_cut_out_meanwhile_leaves_the_way_back_open() -> None:
    """`watch` drops a dead node from the job in the same second in which the supervisor drops a bad one."""
    run = Run(nodes=6, count=4)
    fault(run)
    drop = run.slurm.drop_nodes

    def late(job_id: str, keep: Sequence[str]) -> None:
        run.slurm.drop_nodes = drop  # type: ignore[method-assign]
        drop(job_id, [node for node in run.job.nodes if node != "n003"])
        drop(job_id, keep)

    run.slurm.drop_nodes = late  # type: ignore[method-assign]
    run.on_start = lambda child: len(run.children) > 1 and child.end(0)
    run.attempt(size=2, spares=2)
    assert run.of("command_refused")
    assert run.of("attempt_started")[1]["nodes"] == ["n001", "n004"]
    assert run.job.restarts == 0
    whole(run)


def dies_at_the_restart(run: Run, node: str) -> None:
    """A node that stops answering when the allocation is about to be made ready; its part of the step never ends."""

    def die() -> None:
        if run.of("restart_intent"):
            run.silent_slurmds.add(node)

    append = run.journal.append

    def noticed(kind: str, **fields: Any) -> dict[str, Any]:
        record = append(kind, **fields)
        die()
        return record

    run.journal.append = noticed  # type: ignore[method-assign]
    run.slurm.steps = lambda job_id: (
        {f"{job_id}.0": run.clock.now()} if {node} & run.silent_slurmds & set(run.job.nodes) else {}
    )  # type: ignore[method-assign]


def test_a_second_node_that_dies_at_the_restart_is_replaced_by_a_spare_as_well() -> None:
    run = Run(nodes=8, count=5)
    fault(run)
    dies_at_the_restart(run, "n003")
    run.on_start = lambda child: len(run.children) > 1 and child.end(0)
    run.attempt(size=3, spares=2)
    assert run.of("restart_refused")
    assert [item["nodes"] for item in run.of("attempt_started")][-1] == ["n001", "n004", "n005"]
    assert run.job.restarts == 0
    assert "requeued" not in run.kinds
    whole(run)


def test_a_restart_that_is_refused_for_nothing_known_goes_through_the_queue_at_once() -> None:
    run = Run(nodes=8, count=5)
    fault(run)
    run.slurm.steps = lambda job_id: {f"{job_id}.0": run.clock.now()}  # type: ignore[method-assign]
    run.attempt(size=3, spares=2)
    assert len(run.of("restart_refused")) == 1
    assert run.of("requeued")[0]["exclude"] == ["n002"]
    whole(run)


def test_second_deaths_beyond_the_spares_go_through_the_queue_without_them() -> None:
    run = Run(nodes=8, count=4)
    fault(run)
    dies_at_the_restart(run, "n003")
    run.attempt(size=3, spares=1)
    assert run.of("requeued")
    asked = [request.split()[0] for request in run.slurm.requests]
    assert asked.index("drop") < asked.index("requeue"), "the job would complete until SlurmdTimeout"
    whole(run)


# Checkpoints that cannot be trusted


def test_a_run_is_held_rather_than_started_over(tmp_path: Path) -> None:
    (tmp_path / "step-40").mkdir()
    run = Run()
    ends(run, 0)
    assert run.attempt(checkpoint_dir=tmp_path) == 0
    assert "attempt_started" not in run.kinds
    said = run.of("held")[0]["why"]
    assert said == "there are checkpoints, but none is proven complete: step-40: it is empty"


def test_a_job_that_may_not_be_requeued_cannot_be_held_and_ends_with_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "step-40").mkdir()
    run = Run()
    run.job.requeue = False
    assert run.attempt(checkpoint_dir=tmp_path) == 1
    assert not any(request.startswith("requeue") for request in run.slurm.requests)
    assert not {"attempt_started", "hold_intent", "command_refused"} & {*run.kinds}
    ended = run.of("run_ended")[0]
    assert (ended["outcome"], ended["job_id"]) == ("failed", run.job_id)
    assert ended["why"] == "there are checkpoints, but none is proven complete: step-40: it is empty"
    assert run.said == [
        f"{ended['why']}; a job with --no-requeue cannot be held, so it ends and nothing was started from step 0",
        f"Look: sovctl ckpt ls {tmp_path}; or start over: sovctl submit --fresh SCRIPT",
    ]


def test_a_job_that_may_not_be_requeued_ends_when_its_supervisor_does_not_stay_alive() -> None:
    run = Run()
    run.job.requeue = False
    run.start(["train.sh"], {})
    run.journal.append("attempt_started", attempt=0, job_id=run.job_id, restarts=0, nodes=list(run.job.nodes))
    assert run.supervisor(gives_up=True)() == 1
    assert run.children[0].status == -9
    assert run.of("attempt_ended")[0]["action"] == "end"
    assert not any(request.startswith("requeue") for request in run.slurm.requests)
    assert run.of("run_ended")[0]["why"] == "killed too often"


def test_a_run_starts_over_where_its_user_said_so(tmp_path: Path) -> None:
    (tmp_path / "step-40").mkdir()
    run = Run()
    ends(run, 0)
    assert run.attempt(checkpoint_dir=tmp_path, fresh=True) == 0
    assert run.of("attempt_started")[0]["resume_from"] == ""


def test_a_run_goes_on_from_a_checkpoint_of_another_format(tmp_path: Path) -> None:
    hf_trainer(tmp_path, 500)
    hf_trainer(tmp_path, 1000)
    (tmp_path / "checkpoint-1000" / "trainer_state.json").unlink()
    run = Run()
    ends(run, 0)
    run.attempt(checkpoint_dir=tmp_path)
    started = run.of("attempt_started")[0]
    assert (started["resume_from"], started["resume_step"]) == (str(tmp_path / "checkpoint-500"), 500)


# What the epilogs found


def at_fault(node: str, ended_at: float) -> JobEvidence:
    finding = Finding("ECC_UNCORRECTED", Severity.FAIL, "GPU 3 has 2 uncorrected errors", repair=Repair.RESET_GPU)
    return JobEvidence(node, "1", "boot", None, ended_at, VerdictState.FAILED, findings=(finding,))


def test_a_node_whose_epilog_found_it_at_fault_is_left_though_nobody_saw_it_before() -> None:
    run = Run()
    run.clock.at(20.0, lambda: run.slurm.requeue(run.job_id) or run.deliver(signal.SIGTERM))
    run.attempt()
    run.evidence = [at_fault("n002", run.clock.time), at_fault("n004", run.clock.time)]
    run.await_start()
    run.attempt()
    assert [event["node"] for event in run.of("node_evidence")] == ["n002"]
    run.await_start()
    assert "n002" not in run.job.starts[-1]
    ends(run, 0)
    run.attempt()
    assert len(run.of("node_evidence")) == 1
    whole(run)


def test_what_an_epilog_found_before_the_attempt_is_no_news() -> None:
    run = Run()
    run.evidence = [at_fault("n002", NOW - 60)]
    run.clock.at(20.0, lambda: run.slurm.requeue(run.job_id) or run.deliver(signal.SIGTERM))
    run.attempt()
    run.await_start()
    ends(run, 0)
    run.attempt()
    assert run.of("node_evidence") == []
    assert run.of("run_ended")[0]["outcome"] == "finished"


def test_a_node_that_was_drained_and_given_back_is_free_for_the_run_again() -> None:
    run = Run(nodes=4)
    fault(run, "n002", 5.0)
    fault(run, "n001", 40.0)
    run.attempt()
    run.await_start()
    assert run.of("out_of_service")[0]["nodes"] == ["n002"]
    run.clock.at(30.0, lambda: run.slurm.resume("n002"))
    run.attempt()
    assert run.of("forgiven")[0]["nodes"] == ["n002"]
    run.await_start()
    assert run.job.excluded == ("n001",)


def test_a_run_has_the_name_of_its_job() -> None:
    """Twenty submissions of one script are told apart by --job-name, in squeue and here."""
    assert PLAN.job_name == PLAN.name
    assert replace(PLAN, environment={"SLURM_JOB_NAME": "ablation-7"}).job_name == "ablation-7"
