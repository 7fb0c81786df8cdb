"""Faults, crashes, requests and deaths of the supervisor in every order Hypothesis finds: no run is lost, none loops,
none goes back to a blamed node, none is brought back twice."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from run_fakes import NOW, XID79, FakeChild, Run

from sovctl.model.checkpoint import Checkpoint, CheckpointState, ResumePoint
from sovctl.recovery.decide import Limits

NODES = 8
LIMITS = Limits(same_crash=2, unknown=2, hardware=3)
DELAYS = st.sampled_from([0.5, 1.0, 1.05, 2.0, 4.0])
MACHINES = st.sampled_from([f"n{number:03d}" for number in range(1, NODES + 1)])
PLANS: dict[str, dict[str, Any]] = {"plain": {}, "spare": {"size": 3, "spares": 1}, "fewer": {"size": 3, "least": 2}}


class Killed(BaseException):
    """The supervisor got SIGKILL."""


@dataclass
class Moment:
    """Something that happens so long after the script started."""

    after_s: float
    act: Callable[[], None]


class EveryOrder(RuleBasedStateMachine):
    """Rules plan what happens to the next execution; `live` lets it happen."""

    def __init__(self) -> None:
        super().__init__()
        self.plan: dict[str, Any] = {}
        self.run_ = Run(nodes=NODES, count=3)
        self.run_.slurm.accounting = "accounting_storage/slurmdbd"
        self.run_.on_start = self._script_starts
        self.run_.slurm.unreachable = self._on_request
        self.moments: list[Moment] = []
        self.checkpoint = 0
        self.silent_until = 0.0
        self.kill = False
        self.alive = False
        self.executions = 0
        self.allowed: set[str] = set()
        """Nodes a person has repaired, or Slurm's shortage brought back."""
        self._patch = mock.patch("sovctl.operations.live_run.resume_point", self._resume_point)
        self._patch.start()

    def teardown(self) -> None:
        """Left alone, every run comes to an end."""
        try:
            for _ in range(12):
                if self.over:
                    break
                self.live()
            assert self.over, f"still going: {self.run_.kinds[-12:]}"
            if not self.cancelled:
                assert self.run_.of("run_ended") or self.run_.job.held, self.run_.kinds
        finally:
            self._patch.stop()

    # What is planned

    @precondition(lambda self: self.executions == 0 and not self.moments)
    @rule(kind=st.sampled_from(sorted(PLANS)))
    def submitted_as(self, kind: str) -> None:
        self.plan = PLANS[kind]
        self.run_.job.count = 4 if kind == "spare" else 3
        self.run_.job.nodes = tuple(f"n{number:03d}" for number in range(1, self.run_.job.count + 1))
        self.run_.job.starts[-1] = self.run_.job.nodes

    @rule(after=DELAYS, node=MACHINES)
    def a_node_is_condemned(self, after: float, node: str) -> None:
        self._plan(after, lambda: vars(self.run_.slurm.machines[node]).update(drained=True, reason=XID79))

    @rule(after=DELAYS, node=MACHINES)
    def slurm_declares_a_node_down(self, after: float, node: str) -> None:
        def down() -> None:
            held_by_us = node in self.run_.job.nodes and self.run_.job.state == "RUNNING"
            silent, self.silent_until = self.silent_until, 0.0
            self.run_.slurm.set_down(node, "Not responding")
            self.silent_until = silent
            if held_by_us:
                self.run_.pending_signals.append(signal.SIGTERM)

        self._plan(after, down)

    @rule(after=DELAYS, text=st.sampled_from(["ValueError: a", "KeyError: b"]))
    def the_script_crashes(self, after: float, text: str) -> None:
        def crash() -> None:
            self.run_.output = f"Traceback (most recent call last):\n{text}\n"
            self.run_.children[-1].end(1)

        self._plan(after, crash)

    @rule(after=DELAYS, status=st.sampled_from([75, -9, 137]))
    def the_script_ends(self, after: float, status: int) -> None:
        self._plan(after, lambda: self.run_.children[-1].end(status))

    @rule(after=DELAYS)
    def a_checkpoint_is_saved(self, after: float) -> None:
        def saved() -> None:
            self.checkpoint += 10

        self._plan(after, saved)

    @rule(after=DELAYS)
    def somebody_requeues_the_job(self, after: float) -> None:
        def requeue() -> None:
            if self.run_.job.state == "RUNNING":
                silent, self.silent_until = self.silent_until, 0.0
                self.run_.slurm.requeue(self.run_.job_id)
                self.silent_until = silent
                self.run_.pending_signals.append(signal.SIGTERM)

        self._plan(after, requeue)

    @rule(after=DELAYS, command=st.sampled_from(["requeue", "requeuehold"]))
    def the_script_asks_for_a_requeue(self, after: float, command: str) -> None:
        self._plan(after, lambda: self.run_.requeues_asked.update({len(self.run_.children) - 1: command}))

    @rule(after=DELAYS)
    def the_supervisor_is_killed(self, after: float) -> None:
        def kill() -> None:
            self.kill = self.alive

        self._plan(after, kill)

    @rule(after=DELAYS, seconds=st.sampled_from([0.3, 3.0]))
    def slurmctld_is_away(self, after: float, seconds: float) -> None:
        def away() -> None:
            self.silent_until = self.run_.clock.time + seconds

        self._plan(after, away)

    @rule(node=MACHINES)
    def a_person_repairs_a_node(self, node: str) -> None:
        machine = self.run_.slurm.machines[node]
        machine.drained = machine.down = False
        machine.reason = ""

    @precondition(lambda self: self.executions > 0 and not self.over)
    @rule()
    def scancel(self) -> None:
        self.run_.slurm.cancel(self.run_.job_id)
        self.run_.journal.append("run_ended", outcome="cancelled")

    # What happens

    @precondition(lambda self: not self.over)
    @rule()
    def live(self) -> None:
        """One execution of the batch script, with up to three supervisors; then Slurm starts it again, or never."""
        run = self.run_
        if not self._started():
            return
        self.executions += 1
        lives = [run.supervisor(limits=LIMITS, **self.plan) for _ in range(4)]
        last = run.supervisor(gives_up=True, **self.plan)
        began = run.clock.time - NOW
        moments, self.moments = self.moments, []
        for moment in moments:
            run.clock.at(began + moment.after_s, moment.act)
        for life in lives:
            self.alive = True
            try:
                life()
            except Killed:
                self.kill = False
                continue
            finally:
                self.alive = False
            return
        last()

    def _started(self) -> bool:
        """Wait for Slurm to run the job; a job that lacks nodes waits until somebody repairs some."""
        run = self.run_
        self.silent_until = 0.0
        for _ in range(2):
            for _ in range(300):
                if run.slurm.job(run.job_id).state == "RUNNING":
                    return True
                if run.job.held or run.job.state == "CANCELLED":
                    return False
                run.clock.sleep(1.0)
            for name in run.slurm.machines:
                self.a_person_repairs_a_node(name)
            run.job.excluded = ()
            self.allowed |= set(run.slurm.machines)
        raise AssertionError(f"the job never starts: {run.job}")

    def _plan(self, after: float, act: Callable[[], None]) -> None:
        if len(self.moments) < 6:
            self.moments.append(Moment(after, act))

    def _script_starts(self, child: FakeChild) -> None:
        run = self.run_
        run.output = ""
        run.clock.at(run.clock.time - NOW + 6.0, lambda: child.end(0))

    def _on_request(self) -> bool:
        if self.kill and self.alive:
            raise Killed
        return self.alive and self.run_.clock.time < self.silent_until

    def _resume_point(self, _directory: Path, *_: Any, **__: Any) -> ResumePoint:
        if not self.checkpoint:
            return ResumePoint(None)
        path = Path(f"/checkpoints/step-{self.checkpoint}")
        return ResumePoint(Checkpoint(path, self.checkpoint, "dcp", CheckpointState.COMPLETE, 1, 0.0, 1, False, ""))

    # What must hold

    @property
    def cancelled(self) -> bool:
        return any(event.get("outcome") == "cancelled" for event in self.run_.of("run_ended"))

    @property
    def over(self) -> bool:
        return bool(self.run_.of("run_ended")) or self.run_.job.held

    @invariant()
    def every_attempt_begins_once_and_ends_at_most_once(self) -> None:
        started = [event["attempt"] for event in self.run_.of("attempt_started")]
        ended = [event["attempt"] for event in self.run_.of("attempt_ended")]
        assert started == list(range(len(started)))
        assert len(set(ended)) == len(ended), self.run_.kinds

    @invariant()
    def nobody_goes_back_to_a_blamed_node(self) -> None:
        blamed: set[str] = set()
        for event in self.run_.journal.records:
            if event["kind"] == "attempt_ended" and event["culprit"] == "hardware":
                blamed |= set(event["blamed"])
            if event["kind"] == "requeued":
                blamed -= set(event["given_up"])
            if event["kind"] == "forgiven":  # given back by a person after it was out of service
                blamed -= set(event["nodes"])
            if event["kind"] == "attempt_started":
                assert not blamed & set(event["nodes"]) - self.allowed, (event, blamed)

    @invariant()
    def the_run_is_not_lost(self) -> None:
        if self.run_.job.state in ("COMPLETED", "FAILED"):
            assert self.run_.of("run_ended"), self.run_.kinds

    @invariant()
    def it_is_brought_back_once_for_each_start(self) -> None:
        assert len(self.run_.job.starts) <= self.run_.job.restarts + 1

    @invariant()
    def nothing_loops(self) -> None:
        assert len(self.run_.of("attempt_started")) <= 12 + 4 * self.executions


TestEveryOrder = EveryOrder.TestCase
TestEveryOrder.settings = settings(
    max_examples=80, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
