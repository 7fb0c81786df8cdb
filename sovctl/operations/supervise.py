"""The supervisor: runs one attempt of a run on its batch host, with the user's rights, and brings the run back.

`Supervisor.run` is the life of one attempt: take it over from the last one, start the user's script, watch it, and
when it stops (or a node under it is condemned) blame, decide, write down, act. The judgements are in sovctl.recovery;
bringing the job back is in operations/bring_back.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sovctl.checkpoint.find import resume_point
from sovctl.errors import CheckpointDirUnreadable, SovctlError
from sovctl.model.blame import Blame, Culprit
from sovctl.model.checkpoint import Checkpoint, ResumePoint
from sovctl.model.job import JobView
from sovctl.operations.bring_back import BringBack
from sovctl.operations.follow_progress import ProgressFollower, Quiet
from sovctl.operations.pass_watch import PassWatch
from sovctl.operations.suspicion import NodeSuspicion
from sovctl.operations.tolerant_journal import TolerantJournal
from sovctl.ports import (
    ChildProcess,
    Clock,
    ClusterView,
    JobControl,
    Journal,
    NodePing,
    OutputTail,
    RunFiles,
    Signals,
    StartScript,
)
from sovctl.recovery.blame import NodeEvidence, ScriptEnd, blame_end, blame_nodes
from sovctl.recovery.decide import Action, Decision, Limits, decide, past_stops
from sovctl.recovery.exclusion import exclusions
from sovctl.recovery.requeue import ended_for_good
from sovctl.recovery.signature import crash_signature, says_preempted

FORWARDED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)
_JOB_CHECK_S = 5.0
_CHECKPOINTS_PATIENCE_S = 60.0
"""How long a checkpoint directory that cannot be listed is tried again before the run is held."""
_SILENCE_S = 1.0
"""A slurmd counts as gone after so long when its ranks are silent too."""
_SILENCE_WITHOUT_RANKS_S = 20.0
"""The same for scripts whose ranks say nothing of themselves: longer than any restart of slurmd."""
_SETTLE_S = 8.0
"""How long a script that lost a rank gets to end by itself, and a fault to show, before the crash is judged."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What the supervisor was started with; the same at every attempt but for the Slurm part."""

    run_id: str
    cluster: str
    job_id: str
    """Names just this job, also within an array."""
    submitted: int
    name: str
    script: bytes
    arguments: tuple[str, ...]
    run_dir: Path
    checkpoint_dir: Path
    work_dir: str
    limits: Limits
    nodes: tuple[str, ...]
    batch_host: str
    restarts: int
    """SLURM_RESTART_COUNT of this execution."""
    environment: Mapping[str, str]
    poll_s: float = 0.5
    stop_lead_s: float = 60.0
    checkpoint_format: str = "auto"
    fresh: bool = False
    """Begin at step 0 where checkpoints lie but none is proven complete, instead of being held."""
    epilog_s: float = 2.0


def _unsaid(_words: str) -> None:
    """For callers without an output."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside of the supervisor."""

    jobs: JobControl
    cluster: ClusterView
    journal: Journal
    files: RunFiles
    ping: NodePing
    start: StartScript
    signals: Signals
    output: OutputTail
    clock: Clock
    say: Callable[[str], None] = _unsaid
    """One line into the job's own output."""


@dataclass(slots=True)
class _Watch:
    """What is known while the script runs."""

    job: JobView | None = None
    job_checked: float = 0.0
    nodes_checked: float = 0.0
    slurm_silent: bool = False
    stop_asked: str = ""
    ended_by_slurm: str = ""


class Supervisor:
    """One attempt of one run."""

    def __init__(self, plan: RunPlan, ports: Ports) -> None:
        self._plan = plan
        self._ports = ports = replace(ports, journal=TolerantJournal(ports.journal, ports.clock, ports.say))
        self._attempt = 0
        self._watch = _Watch()
        self._progress = ProgressFollower(ports.files, ports.journal, ports.clock)
        self._passes = PassWatch(ports.cluster, ports.clock)
        self._suspicion = NodeSuspicion(ports.ping, ports.clock)

    def run(self) -> int:
        """Returns the exit status for the batch script. Raises RunDirUnusable before anything was started."""
        plan, ports = self._plan, self._ports
        ports.files.prepare(self._record())
        events = ports.journal.events()
        if any(event["kind"] == "run_ended" and event.get("outcome") == "cancelled" for event in events):
            # Somebody requeued a job whose run was cancelled; that is a wish to run it again.
            ports.journal.append("run_reopened", job_id=plan.job_id)
        self._attempt = sum(event["kind"] == "attempt_started" for event in events)
        self._close_lost_attempt(events)
        events = ports.journal.events()
        misplaced = self._misplaced(events)
        if misplaced:
            return self._move_away(misplaced)
        try:
            found = self._resume_point(_CHECKPOINTS_PATIENCE_S)
        except CheckpointDirUnreadable as error:
            return self._hold_unstarted(error.message)
        if found.loses and not plan.fresh:
            return self._hold_unstarted(found.loses)
        return self._follow(self._start_script(events, found.checkpoint))

    def _hold_unstarted(self, why: str) -> int:
        """Starting from step 0 because the checkpoints cannot be seen would throw the whole run away."""
        self._ports.say(f"{why}; the run is held and not started from step 0")
        self._ports.signals.ignore_termination()
        self._bring_back().hold(why)
        return 0

    # Taking over

    def _close_lost_attempt(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Write the end of an attempt whose supervisor died with its node, so that none is lost in the record."""
        started = [event for event in events if event["kind"] == "attempt_started"]
        ended = {event.get("attempt") for event in events if event["kind"] == "attempt_ended"}
        if not started or started[-1]["attempt"] in ended:
            return
        last = started[-1]
        blame = self._blame_lost(last)
        word = self._ports.files.progress(0)
        if word is not None and word.attempt == last["attempt"]:
            blame = replace(blame, step=word.step)
        self._append_end(last["attempt"], blame, Decision(Action.REQUEUE, "Slurm requeued the job"), self._newest())

    def _blame_lost(self, last: Mapping[str, Any]) -> Blame:
        names = [str(name) for name in last.get("nodes", ())]
        host = str(last.get("batch_host", ""))
        try:
            views = self._ports.cluster.nodes(names)
        except SovctlError as error:
            return Blame(Culprit.UNKNOWN, evidence=f"the supervisor on {host} was lost ({error.message})")
        silent = self._ports.ping.silent(views)
        blame = blame_nodes([NodeEvidence(view, view.name in silent, True) for view in views])
        job = self._ask_job()
        if blame is None and job is not None and job.preempted_at:
            return Blame(Culprit.PREEMPTED, evidence="the job was preempted")
        return blame or Blame(
            Culprit.UNKNOWN,
            evidence=f"the attempt ended without a word of its supervisor on {host}; no node shows a fault",
        )

    def _misplaced(self, events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """Blamed nodes that Slurm gave us all the same: the last supervisor died before it could exclude them."""
        blamed = {item.node for item in exclusions(events, self._ports.clock.now())}
        given_up = {node for event in events if event["kind"] == "requeued" for node in event.get("given_up", ())}
        return tuple(node for node in self._plan.nodes if node in blamed - given_up)

    def _move_away(self, nodes: tuple[str, ...]) -> int:
        self._ports.journal.append(
            "misplaced", nodes=list(nodes), why="the allocation holds a node that was blamed before; no script started"
        )
        self._bring_back().requeue(exclude_reason="misplaced")
        return 0

    # The script

    def _start_script(self, events: Sequence[Mapping[str, Any]], newest: Checkpoint | None) -> ChildProcess:
        plan, ports = self._plan, self._ports
        path = ports.files.start_attempt(self._attempt, plan.name, plan.script)
        excluded = [item.node for item in exclusions(events, ports.clock.now())]
        ports.journal.append(
            "attempt_started",
            attempt=self._attempt,
            job_id=plan.job_id,
            restarts=plan.restarts,
            nodes=list(plan.nodes),
            batch_host=plan.batch_host,
            resume_from=str(newest.path) if newest else "",
            resume_step=newest.step if newest else 0,
            excluded=excluded,
        )
        self._progress.begin(self._attempt, newest.step if newest else 0)
        return ports.start([path, *plan.arguments], self._script_environment(newest, excluded))

    def _script_environment(self, newest: Checkpoint | None, excluded: Sequence[str]) -> dict[str, str]:
        plan = self._plan
        env = {
            **plan.environment,
            "SOVCTL_RUN_ID": plan.run_id,
            "SOVCTL_RUN_DIR": str(plan.run_dir),
            "SOVCTL_ATTEMPT": str(self._attempt),
            "SOVCTL_CHECKPOINT_DIR": str(plan.checkpoint_dir),
            "SOVCTL_RESUME_FROM": str(newest.path) if newest else "",
            "SOVCTL_RESUME_STEP": str(newest.step if newest else 0),
            "SOVCTL_EXCLUDED_NODES": ",".join(excluded),
        }
        # A rank that dies must not leave the others waiting; srun's own default is to let them (KillOnBadExit=0).
        env.setdefault("SLURM_KILL_BAD_EXIT", "1")
        return env

    def _follow(self, child: ChildProcess) -> int:
        """Watch until the script ends or has to be ended."""
        while True:
            received = self._ports.signals.wait(0.0 if child.poll() is not None else self._poll_s())
            self._on_signals(received, child)
            self._progress.follow()
            if self._watch.ended_by_slurm:
                return self._on_ended_by_slurm(child)
            status = child.poll()
            if status is not None:
                return self._on_script_end(child, status)
            condemned = self._look_at_nodes()
            if condemned is not None:
                return self._recover(child, condemned)
            late = self._look_at_time()
            if late is not None:
                return self._recover(child, late)

    def _poll_s(self) -> float:
        # Nobody polls a controller twice a second for a thousand nodes: the answer grows with the job.
        return self._plan.poll_s * max(1.0, len(self._plan.nodes) / 128)

    # Signals

    def _on_signals(self, received: Sequence[int], child: ChildProcess) -> None:
        for signum in received:
            if signum in FORWARDED:
                self._ports.journal.append("signal", attempt=self._attempt, name=signal.Signals(signum).name)
                child.send(signum)
        if signal.SIGTERM in received:
            self._on_sigterm(child)

    def _on_sigterm(self, child: ChildProcess) -> None:
        """Slurm sends it before the end of a job, and for `--signal=B:TERM` and a preemption's grace time."""
        job = self._ask_job()
        state = "+".join([job.state, *sorted(job.flags)]) if job else "unknown"
        self._ports.journal.append("signal", attempt=self._attempt, name="SIGTERM", job_state=state)
        if job is None:
            return
        self._watch.job = job
        if not job.running or job.restarts > self._plan.restarts:
            self._watch.ended_by_slurm = state
            return
        # The job runs on: only the batch shell got it, or a grace time has begun. The ranks are told either way.
        self._ask_stop("preemption" if job.preempted_at else "SIGTERM")
        child.send(signal.SIGTERM)

    def _ask_stop(self, why: str) -> None:
        if not self._watch.stop_asked:
            self._watch.stop_asked = why
            self._ports.files.ask_stop(self._attempt, why)
            self._ports.journal.append("stop_asked", attempt=self._attempt, why=why)

    def _on_ended_by_slurm(self, child: ChildProcess) -> int:
        """scancel, the time limit, a preemption, somebody's requeue: Slurm is ending the job; nothing to decide."""
        job = self._watch.job
        assert job is not None
        ended = ended_for_good(job, self._plan.restarts)
        if ended:
            culprit = Culprit.TIME_LIMIT if ended in ("TIMEOUT", "DEADLINE") else Culprit.STOPPED
            hardware = blame_nodes(self._evidence(None)) if ended == "NODE_FAIL" else None
            blame = hardware or Blame(culprit, evidence=f"Slurm ended the job: {ended}", step=self._progress.step)
            self._append_end(self._attempt, blame, Decision(Action.END, f"the job is {ended}"), self._newest())
            self._ports.journal.append("run_ended", outcome=ended.lower(), job_id=self._plan.job_id)
            child.wait(30.0)
            return 0
        self._ports.signals.ignore_termination()
        child.wait(1.0)
        blame = blame_nodes(self._evidence(None)) or (
            Blame(Culprit.PREEMPTED, evidence="the job was preempted", step=self._progress.step)
            if job.preempted_at or says_preempted(self._ports.output.read(job.stderr))
            else Blame(Culprit.STOPPED, evidence="the job was requeued from outside", step=self._progress.step)
        )
        self._append_end(self._attempt, blame, Decision(Action.REQUEUE, "the job was requeued"), self._newest())
        child.wait(20.0)
        self._bring_back().settle()
        return 0

    # Looking

    def _look_at_nodes(self) -> Blame | None:
        """Node states of the allocation, and slurmd itself once the ranks have gone silent."""
        now = self._ports.clock.now()
        if now - self._watch.nodes_checked < self._poll_s() * 0.9:
            return None
        self._watch.nodes_checked = now
        self._passes.look()
        quiet = self._progress.quiet(self._output_size(), now)
        if quiet is Quiet.NO:
            self._suspicion.clear()
        patience = _SILENCE_S if quiet is Quiet.RANKS else _SILENCE_WITHOUT_RANKS_S
        blame = blame_nodes(self._evidence(patience if quiet is not Quiet.NO else None))
        if blame is not None:
            self._ports.journal.append(
                "detected", attempt=self._attempt, nodes=list(blame.nodes), evidence=blame.evidence
            )
            return Blame(blame.culprit, blame.nodes, blame.evidence, step=self._progress.step)
        return None

    def _output_size(self) -> int | None:
        job = self._watch.job
        return self._ports.output.size(job.stdout) if job is not None and job.stdout else None

    def _evidence(self, silence_s: float | None) -> list[NodeEvidence]:
        """The nodes of the allocation; `silence_s`: also ask slurmd, and count it as gone after so long."""
        try:
            views = self._ports.cluster.nodes(self._plan.nodes)
        except SovctlError as error:
            # Nobody's training ends because Slurm, its configuration or its commands are away for a while.
            if not self._watch.slurm_silent:
                self._ports.journal.append("slurm_silent", attempt=self._attempt, detail=error.message)
            self._watch.slurm_silent = True
            return []
        if self._watch.slurm_silent:
            self._watch.slurm_silent = False
            self._ports.journal.append("slurm_back", attempt=self._attempt)
        gone: frozenset[str] = frozenset()
        if silence_s is not None:
            self._suspicion.look(views)
            gone = self._suspicion.silent_for(silence_s)
        return [NodeEvidence(view, view.name in gone, silence_s is not None) for view in views]

    def _look_at_time(self) -> Blame | None:
        """Near the time limit the ranks are asked to save and stop; if they do not, the last checkpoint must do."""
        now = self._ports.clock.now()
        if now - self._watch.job_checked > (_JOB_CHECK_S if self._watch.job is None else 60.0):
            self._watch.job_checked = now
            self._watch.job = self._ask_job() or self._watch.job
        job = self._watch.job
        if job is None or job.ends_at is None or not job.requeue:
            return None
        lead = min(self._plan.stop_lead_s, 0.25 * (job.ends_at - (job.started_at or job.ends_at)))
        if now < job.ends_at - lead:
            return None
        self._ask_stop("time limit")
        if now > job.ends_at - min(10.0, lead / 2):
            return Blame(Culprit.TIME_LIMIT, evidence="the time limit was near", step=self._progress.step)
        return None

    def _ask_job(self) -> JobView | None:
        try:
            return self._ports.jobs.job(self._plan.job_id)
        except SovctlError:
            return None

    # The end

    def _on_script_end(self, child: ChildProcess, status: int) -> int:
        self._progress.follow()
        job = self._ask_job()
        if job is not None and ended_for_good(job, self._plan.restarts):
            self._watch.job, self._watch.ended_by_slurm = job, job.state
            return self._on_ended_by_slurm(child)
        end = ScriptEnd(status, self._signature(job, status), self._progress.step)
        self._ports.journal.append("script_ended", attempt=self._attempt, exit_status=status, signature=end.signature)
        blame = blame_end(end, (), stop_asked=self._watch.stop_asked)
        if blame.culprit is Culprit.USER_CODE:
            blame = self._settle_crash(end)
        return self._recover(child, blame, status)

    def _settle_crash(self, end: ScriptEnd) -> Blame:
        """A crash may be the first sign of a fault: look until the evidence speaks, at most a short while.

        A crash whose own words name the cause needs no waiting beyond the second look at slurmd.
        """
        clock = self._ports.clock
        began = clock.now()
        patience = 2.0 if end.signature and end.status > 0 else _SETTLE_S
        while True:
            blame = blame_end(end, self._evidence(_SILENCE_S), stop_asked=self._watch.stop_asked)
            if blame.culprit is not Culprit.USER_CODE:
                return blame
            quiet = not self._suspicion.any and not self._watch.slurm_silent
            if clock.now() - began >= (patience / 2 if quiet else patience):
                return blame
            self._ports.signals.wait(0.25)

    def _signature(self, job: JobView | None, status: int) -> str:
        if status == 0 or job is None:
            return ""
        tails = [self._ports.output.read(path) for path in dict.fromkeys([job.stderr, job.stdout]) if path]
        return next((found for tail in tails if (found := crash_signature(tail))), "")

    def _recover(self, child: ChildProcess, blame: Blame, status: int | None = None) -> int:
        events = self._ports.journal.events()
        newest = self._newest()
        job = self._watch.job or self._ask_job()
        decision = decide(
            blame,
            past_stops(events),
            newest.step if newest else 0,
            self._plan.limits,
            may_requeue=job is None or job.requeue,
        )
        self._append_end(self._attempt, blame, decision, newest, status)
        if decision.action in (Action.FINISH, Action.END):
            outcome = "finished" if decision.action is Action.FINISH else "failed"
            self._ports.journal.append("run_ended", outcome=outcome, job_id=self._plan.job_id, why=decision.why)
            if decision.action is Action.END:
                child.kill_group()
                child.wait(10.0)
                return status if status is not None and status > 0 else 1
            return 0
        self._ports.signals.ignore_termination()
        back = self._bring_back()
        gone = self._suspicion.silent_for(0.0)
        back.kill(child, [node for node in blame.nodes if node in gone])
        if decision.action is Action.HOLD:
            back.hold(decision.why)
        else:
            back.requeue(exclude_reason=blame.evidence)
        return 0

    def _bring_back(self) -> BringBack:
        plan, ports = self._plan, self._ports
        return BringBack(
            plan.job_id,
            self._attempt,
            plan.restarts,
            plan.nodes,
            plan.batch_host,
            plan.epilog_s,
            ports.jobs,
            ports.cluster,
            ports.journal,
            ports.clock,
            self._passes,
        )

    def _newest(self) -> Checkpoint | None:
        """The newest complete checkpoint; None also when nobody can tell."""
        try:
            return self._resume_point(record=False).checkpoint
        except CheckpointDirUnreadable as error:
            self._ports.say(error.message)
            return None

    def _resume_point(self, patience_s: float = 0.0, *, record: bool = True) -> ResumePoint:
        """From where to go on. `record`: no rank of this run writes any more, so that a proof may be kept.

        A directory that cannot be listed is not an empty one: it is looked at again for `patience_s`, then
        CheckpointDirUnreadable is raised.
        """
        deadline = self._ports.clock.now() + patience_s
        while True:
            try:
                where, kind = self._plan.checkpoint_dir, self._plan.checkpoint_format
                return resume_point(where, kind, quiet_s=0.0, record=record)
            except CheckpointDirUnreadable:
                if self._ports.clock.now() >= deadline:
                    raise
            self._ports.clock.sleep(1.0)

    def _append_end(
        self, attempt: int, blame: Blame, decision: Decision, newest: Checkpoint | None, status: int | None = None
    ) -> None:
        self._ports.journal.append(
            "attempt_ended",
            attempt=attempt,
            culprit=blame.culprit.value,
            blamed=list(blame.nodes),
            evidence=blame.evidence,
            signature=blame.signature,
            step=blame.step,
            checkpoint=str(newest.path) if newest else "",
            checkpoint_step=newest.step if newest else 0,
            action=decision.action.value,
            why=decision.why,
            exit_status=status,
        )

    def _record(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "schema": "sovctl.run/1",
            "run_id": plan.run_id,
            "cluster": plan.cluster,
            "job_id": plan.job_id,
            "submitted": plan.submitted,
            "name": plan.name,
            "arguments": list(plan.arguments),
            "user": plan.environment.get("SLURM_JOB_USER") or plan.environment.get("USER", ""),
            "work_dir": plan.work_dir,
            "run_dir": str(plan.run_dir),
            "checkpoint_dir": str(plan.checkpoint_dir),
            "checkpoint_format": plan.checkpoint_format,
        }
