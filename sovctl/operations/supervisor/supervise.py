"""The supervisor: runs one attempt of a run on its batch host, with the user's rights, and brings the run back.

`Supervisor.run` is the life of one attempt: take it over from the last one, start the user's script, watch it, and
when it stops (or a node under it is condemned) blame, decide, write down, act. The judgements are in sovctl.recovery;
bringing the job back is in operations/supervisor/bring_back.py.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sovctl.errors import CheckpointDirUnreadable, CommandMissing, RunDirUnusable, SovctlError, TryLaterError
from sovctl.model.blame import Blame, Culprit
from sovctl.model.checkpoint import Checkpoint
from sovctl.model.job import JobView
from sovctl.model.pauses import due
from sovctl.model.progress import FINISHED
from sovctl.model.signals import PASSED_ON, signal_name
from sovctl.operations.supervisor.live_run import JobIsEnding, LiveRun, Ports, RunPlan, end_of, last_attempt
from sovctl.operations.supervisor.look_at_run import RunLooks
from sovctl.operations.supervisor.recover import Recovery, failed_status
from sovctl.operations.supervisor.settle import Question, settle
from sovctl.operations.supervisor.take_over import TakeOver
from sovctl.ports.supervised import ChildProcess
from sovctl.recovery.allocation_view import view
from sovctl.recovery.attempts import furthest_step
from sovctl.recovery.blame import (
    PREEMPTION,
    NodeEvidence,
    ScriptEnd,
    blame_end,
    blame_nodes,
    no_step_started,
    worth_looking_at,
)
from sovctl.recovery.decide import Action, Decision
from sovctl.recovery.exclusion import exclusions
from sovctl.recovery.paces import paces
from sovctl.recovery.requeue import ended_for_good
from sovctl.recovery.signature import says_preempted
from sovctl.recovery.story import Story, story_of

if TYPE_CHECKING:  # most runs have no image
    from sovctl.operations.supervisor.image_of_run import RunImage

_FORWARDED = frozenset(PASSED_ON) - {signal.SIGTERM}
"""SIGTERM may mean that the job ends."""
_ENDED_BY = {
    "TIMEOUT": Culprit.TIME_LIMIT,
    "DEADLINE": Culprit.TIME_LIMIT,
    # Where the site cancels whom it preempts (PreemptMode=CANCEL).
    "PREEMPTED": Culprit.PREEMPTED,
}
_EXPLAINED_S = 10.0
"""How long Slurm may leave open what a SIGTERM means; then the script gets it, twice perhaps rather than never."""
_CHECKPOINTS_PATIENCE_S = 60.0
"""How long a checkpoint directory that cannot be listed is tried again before the run is held."""
_RECORD_BACK_S = 1800.0
"""How long a record that cannot be read is waited for; less than what tells one death of a supervisor from another."""
_PROOF_S = 8.0
"""How long the newest checkpoint may take to be found where KillWait runs."""
_SETTLE_S = 8.0
"""How long a script that lost a rank gets to end by itself, and a fault to show, before the crash is judged."""


class Supervisor:
    """One execution of a run's batch script: one attempt, or several in the same allocation."""

    def __init__(self, plan: RunPlan, ports: Ports) -> None:
        self._live = live = LiveRun(plan, ports)
        self._looks = RunLooks(live)
        self._recovery = Recovery(live)
        self._take_over = TakeOver(live, self._recovery)
        self._unexplained_since: float | None = None
        """When a SIGTERM came of which Slurm has not yet told whether the job ends."""

    def run(self) -> int:
        """Returns the exit status for the batch script. Raises RunDirUnusable before anything was started."""
        try:
            return self._run()
        finally:
            self._live.release_spares()

    def _run(self) -> int:
        plan, ports = self._live.plan, self._live.ports
        events = self._prepare()
        if any(event["kind"] == "run_ended" and event.get("outcome") == "cancelled" for event in events):
            # Somebody requeued a job whose run was cancelled; that is a wish to run it again.
            ports.journal.append("run_reopened", job_id=plan.job_id)
        self._live.attempt = sum(event["kind"] == "attempt_started" for event in events)
        if self._take_over.died_here(events):
            status = self._take_over.go_on(events)
            if status is not None:
                return status
            self._live.attempt += 1
        else:
            self._take_over.close_lost_attempt(events)
            self._take_over.read_evidence(ports.journal.events())
            worn_out = self._take_over.too_often(ports.journal.events())
            if worn_out:
                return self._hold_unstarted(worn_out, f"Look: sovctl run why {plan.job_id}", began_anew=False)
        misplaced = self._misplaced(ports.journal.events())
        if misplaced and not self._leave_out(misplaced):
            return self._move_away(misplaced)
        while True:
            status = self._attempt()
            if status is not None:
                return status
            self._live.next_attempt()

    def _prepare(self) -> list[dict[str, Any]]:
        """The run directory made and its record read. Raises RunDirUnusable where nothing is lost yet."""
        live, problem = self._live, None
        try:
            live.ports.files.prepare(live.record())
        except RunDirUnusable as error:  # a quota is full, the storage is silent: an earlier attempt made it all
            problem = error
        again = problem is None or live.plan.restarts > 0
        events = live.record_of_run.read_first(_RECORD_BACK_S if again else 0.0)
        if problem is not None and not _has_begun(events):
            raise problem
        return events

    def _attempt(self) -> int | None:
        """Start the script and follow it. None: it is to run again in this allocation."""
        try:
            found = self._live.resume_point(_CHECKPOINTS_PATIENCE_S)
        except CheckpointDirUnreadable as error:
            return self._hold_unstarted(error.message, error.hint)
        except JobIsEnding:
            return self._leave_unstarted()
        if found.loses and not self._live.plan.fresh:
            where = shlex.quote(str(self._live.plan.checkpoint_dir))
            advice = f"Look: sovctl ckpt ls {where}; or start over: sovctl submit --fresh SCRIPT"
            return self._hold_unstarted(found.loses, advice)
        if self._live.ports.image is not None:
            missing = self._get_image(self._live.ports.image)
            if missing:
                return self._hold_unstarted(missing, "Once it can be had, submit the script again.", began_anew=False)
        try:
            child = self._start_script(self._live.ports.journal.events(), found.checkpoint)
        except (RunDirUnusable, CommandMissing) as error:
            if not self.has_begun:
                raise  # whoever submitted it is told at once, and nothing is lost
            return self._hold_unstarted(error.message, error.hint, began_anew=False)
        return self._follow(child)

    @property
    def has_begun(self) -> bool:
        """Whether a script of this run was ever started: what it did must not be lost."""
        return self._live.plan.restarts > 0 or _has_begun(self._live.ports.journal.events())

    def give_up(self, why: str) -> int:
        """Hold the run: whoever supervises it does not stay alive."""
        events, never_held = self._live.ports.journal.events(), self._never_held()
        open_attempt = last_attempt(events)
        if open_attempt is not None and not end_of(events, open_attempt["attempt"]):
            decision = Decision(Action.END if never_held else Action.HOLD, why)
            self._live.append_end(open_attempt["attempt"], Blame(Culprit.UNKNOWN, evidence=why), decision)
        back = self._live.bring_back()
        back.kill(self._live.leftover(), ())
        if never_held:
            return self._end_for_good(why, f"Look: sovctl run why {self._live.plan.job_id}")
        back.hold(why)
        return 0

    def _get_image(self, image: RunImage) -> str:
        """Have the image here before the script starts; what keeps it away, where trying later may help."""
        before = self._live.ports.clock.now()
        try:
            digest = image.prepare()
        except SovctlError as error:
            if not isinstance(error, TryLaterError) and not self._live.attempt:
                raise  # nothing is lost yet: whoever submitted it is told at once
            return error.message
        took = round(self._live.ports.clock.now() - before, 3)
        self._live.ports.journal.append("image_ready", attempt=self._live.attempt, digest=digest, seconds=took)
        return ""

    def _never_held(self) -> bool:
        """Whether Slurm would refuse: held is requeued held, which --no-requeue forbids (ESLURM_DISABLED)."""
        job = self._live.ask_job()
        return job is not None and not job.requeue

    def _end_for_good(self, why: str, advice: str, instead: str = "") -> int:
        """End the job where nobody could let it go again."""
        self._live.ports.say(f"{why}; a job with --no-requeue cannot be held, so it ends{instead}")
        self._live.ports.say(advice)
        self._live.ports.journal.append("run_ended", outcome="failed", job_id=self._live.plan.job_id, why=why)
        return failed_status(None)

    def _hold_unstarted(self, why: str, advice: str, *, began_anew: bool = True) -> int:
        """Starting from step 0 because the checkpoints cannot be seen would throw the whole run away. `advice`: what to
        type where the run cannot be held; `began_anew`: whether it would have."""
        if self._never_held():
            return self._end_for_good(why, advice, " and nothing was started from step 0" if began_anew else "")
        self._live.ports.say(f"{why}; the run is held{' and not started from step 0' if began_anew else ''}")
        self._live.ports.signals.ignore_termination()
        self._live.bring_back().hold(why)
        return 0

    def _leave_unstarted(self) -> int:
        """Slurm ends the job while its checkpoints are looked for: there is no attempt to close."""
        job = self._live.watch.job
        assert job is not None
        ended = ended_for_good(job, self._live.plan.restarts)
        if ended:
            self._live.ports.journal.append("run_ended", outcome=ended.lower(), job_id=self._live.plan.job_id)
            return 0
        self._live.ports.signals.ignore_termination()
        back = self._live.bring_back()
        back.stand_by()
        back.settle()
        return 0

    def _misplaced(self, events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """Blamed nodes that Slurm gave us all the same: the last supervisor died before it could exclude them. Whoever
        let a held run go answers for the nodes it got."""
        if story_of(events) is Story.HELD:
            return ()
        blamed = {item.node for item in exclusions(events, self._live.ports.clock.now())}
        last = [event for event in events if event["kind"] == "requeued"][-1:]
        given_up = {node for event in last for node in event.get("given_up", ())}
        return tuple(node for node in self._live.plan.nodes if node in blamed - given_up)

    def _leave_out(self, nodes: tuple[str, ...]) -> bool:
        """Run on spares of the allocation in place of nodes that were blamed before, where there are enough."""
        here = self._live.here
        fit = [node for node in here.nodes if node not in nodes]
        if here.batch_host in nodes or len(fit) < here.size or not self._live.bring_back().drop(nodes):
            return False
        here.dropped(nodes)
        here.running_on = here.nodes[: here.size]
        return True

    def _move_away(self, nodes: tuple[str, ...]) -> int:
        self._live.ports.journal.append(
            "misplaced", nodes=list(nodes), why="the allocation holds a node that was blamed before; no script started"
        )
        self._live.bring_back().requeue(exclude_reason="misplaced")
        return 0

    def _start_script(self, events: Sequence[Mapping[str, Any]], newest: Checkpoint | None) -> ChildProcess:
        plan, ports = self._live.plan, self._live.ports
        path = ports.files.start_attempt(self._live.attempt, plan.name, plan.script)
        excluded = [item.node for item in exclusions(events, ports.clock.now())]
        ports.journal.append(
            "attempt_started",
            attempt=self._live.attempt,
            job_id=plan.job_id,
            restarts=plan.restarts,
            nodes=list(self._live.here.running_on),
            spares=list(self._live.here.spares),
            batch_host=plan.batch_host,
            resume_from=str(newest.path) if newest else "",
            resume_step=newest.step if newest else 0,
            excluded=excluded,
            gpus=self._live.gpus(),
        )
        self._live.resumed_at = newest.step if newest else 0
        known = paces(events)
        self._live.progress.begin(self._live.attempt, self._live.resumed_at, furthest_step(events), known.saves_s)
        self._live.began = self._live.script_began = ports.clock.now()
        # Made anew: the nodes may be others now.
        self._live.moving = self._live.progress_watch()
        self._live.crash = self._live.crash_look()
        if self._live.moving is not None:
            self._live.moving.begin(self._live.attempt, self._live.began, known)
        self._live.hold_spares()
        ports.output.begin()
        env = self._script_environment(newest, excluded)
        argv = [path, *plan.arguments]
        if ports.image is not None:
            return ports.start(*ports.image.enter(argv, env, self._live.attempt))
        return ports.start(argv, env)

    def _script_environment(self, newest: Checkpoint | None, excluded: Sequence[str]) -> dict[str, str]:
        plan = self._live.plan
        here = self._live.here
        env = {
            **plan.environment,
            **(view(plan.environment, here.granted, here.running_on, self._live.ports.fold) if plan.size else {}),
            "SOVCTL_RUN_ID": plan.run_id,
            "SOVCTL_RUN_DIR": str(plan.run_dir),
            "SOVCTL_ATTEMPT": str(self._live.attempt),
            "SOVCTL_CHECKPOINT_DIR": str(plan.checkpoint_dir),
            "SOVCTL_RESUME_FROM": str(newest.path) if newest else "",
            "SOVCTL_RESUME_STEP": str(newest.step if newest else 0),
            "SOVCTL_EXCLUDED_NODES": ",".join(excluded),
        }
        guard = self._live.ports.files.guard_requeue(self._live.attempt)
        if guard:
            env["PATH"] = f"{guard}:{env['PATH']}" if env.get("PATH") else guard
        if self._live.lingering:
            env["SLURM_OVERLAP"] = "1"
        # A rank that dies must not leave the others waiting; srun's own default is to let them (KillOnBadExit=0).
        env.setdefault("SLURM_KILL_BAD_EXIT", "1")
        return env

    def _follow(self, child: ChildProcess) -> int | None:
        """Watch until the script ends or has to be ended. None: it is to run again in this allocation."""
        self._unexplained_since = None
        while True:
            received = self._live.ports.signals.wait(0.0 if child.poll() is not None else self._live.poll_s())
            self._on_signals(received, child)
            self._live.progress.follow()
            self._live.follow_output(child.pid)
            if self._live.watch.ended_by_slurm:
                return self._on_ended_by_slurm(child)
            status = child.poll()
            if status is not None:
                return self._on_script_end(child, status)
            blame = self._looks.look()
            if blame is not None:
                return self._recovery.recover(child, blame)

    def _on_signals(self, received: Sequence[int], child: ChildProcess) -> None:
        for signum in received:
            if signum in _FORWARDED:
                self._live.ports.journal.append("signal", attempt=self._live.attempt, name=signal_name(signum))
                self._live.watch.signalled = True
                child.send(signum)
        if signal.SIGTERM in received or self._unexplained_since is not None:
            self._on_sigterm(child, news=signal.SIGTERM in received)

    def _on_sigterm(self, child: ChildProcess, *, news: bool) -> None:
        """Slurm sends it before the end of a job, and for `--signal=B:TERM` and a preemption's grace time. Where it
        does not answer it is asked again, for a while: a job that ends has had it in every process."""
        live = self._live
        job = live.ask_job()
        state = "+".join([job.state, *sorted(job.flags)]) if job else "unknown"
        if news:
            live.ports.journal.append("signal", attempt=live.attempt, name="SIGTERM", job_state=state)
        if job is None and self._may_be_explained():
            return
        self._unexplained_since = None
        if live.ended_by_slurm(job):
            return
        live.watch.job = job or live.watch.job
        # The job runs on: only the batch shell got it, or a grace time has begun. The ranks are told either way.
        live.ask_stop(PREEMPTION if job is not None and job.preempted_at else "SIGTERM")
        live.watch.signalled = True
        child.send(signal.SIGTERM)

    def _may_be_explained(self) -> bool:
        """Whether to go on waiting for Slurm to tell what a SIGTERM means."""
        now = self._live.ports.clock.now()
        if self._unexplained_since is None:
            self._unexplained_since = now
        return not due(now, self._unexplained_since, _EXPLAINED_S)

    def _on_ended_by_slurm(self, child: ChildProcess) -> int:
        """scancel, the time limit, a preemption, somebody's requeue: Slurm is ending the job; nothing to decide."""
        job = self._live.watch.job
        assert job is not None
        self._pass_on_unheard(child)
        ended = ended_for_good(job, self._live.plan.restarts)
        if ended:
            culprit = _ENDED_BY.get(ended, Culprit.STOPPED)
            hardware = blame_nodes(self._live.evidence(None)) if ended == "NODE_FAIL" else None
            blame = hardware or Blame(culprit, evidence=f"Slurm ended the job: {ended}", step=self._live.progress.step)
            decision = Decision(Action.END, f"the job is {ended}")
            self._live.append_end(self._live.attempt, blame, decision, within_s=_PROOF_S)
            self._live.ports.journal.append("run_ended", outcome=ended.lower(), job_id=self._live.plan.job_id)
            child.wait(30.0)
            return 0
        self._live.ports.signals.ignore_termination()
        back = self._live.bring_back()
        back.stand_by()
        child.wait(1.0)
        blame = blame_nodes(self._live.evidence(None)) or (
            Blame(Culprit.PREEMPTED, evidence="the job was preempted", step=self._live.progress.step)
            if job.preempted_at or says_preempted(self._live.ports.output.read(job.stderr))
            else Blame(Culprit.STOPPED, evidence="the job was requeued from outside", step=self._live.progress.step)
        )
        decision = Decision(Action.REQUEUE, "the job was requeued")
        self._live.append_end(self._live.attempt, blame, decision, within_s=_PROOF_S)
        back.size = self._live.size_for(self._live.free_elsewhere(blame.nodes, job), self._live.unfit(set(blame.nodes)))
        back.settle(child)
        return 0

    def _pass_on_unheard(self, child: ChildProcess) -> None:
        """slurmd's SIGTERM may have come before the script was there: it gets it now, to save while there is time."""
        came = self._live.ports.signals.terminated_at
        if child.poll() is None and (came is None or came < self._live.began):
            child.send(signal.SIGTERM)

    def _on_script_end(self, child: ChildProcess, status: int) -> int | None:
        self._live.progress.follow()
        job = self._live.ask_job()
        if self._live.ended_by_slurm(job):
            return self._on_ended_by_slurm(child)
        if job is not None and job.preempted_at:
            # SIGTERM of a grace time goes to the steps alone (preempt.c, 22.05 to 26.05): the script may end by it
            # before anybody else hears of it, and nodes that are about to go need no second look.
            self._live.watch.stop_asked = PREEMPTION
        self._live.hear_requeue()
        end = self._script_end(job, status)
        self._live.ports.journal.append(
            "script_ended",
            attempt=self._live.attempt,
            exit_status=status,
            signature=end.signature,
            crash=end.kind,
            rank=end.rank,
            node=end.node,
        )
        blame = blame_end(end, (), stop_asked=self._live.watch.stop_asked, heard=self._live.stop_heard())
        if blame.culprit is Culprit.USER_CODE or no_step_started(blame.signature):
            blame = self._settle_crash(end)
            # Slurm may have ended the script before it told anybody of a requeue.
            if blame.culprit is not Culprit.HARDWARE and self._live.ended_by_slurm(self._live.ask_job()):
                return self._on_ended_by_slurm(child)
        return self._recovery.recover(child, blame, status)

    def _settle_crash(self, end: ScriptEnd) -> Blame:
        """A crash may be the first sign of a fault: look until the evidence speaks, at most a short while.

        A crash whose own words name the cause needs no waiting beyond the second look at slurmd.
        """
        live = self._live
        nodes = live.here.running_on

        def judge(evidence: Sequence[NodeEvidence], links: Mapping[str, str]) -> Blame:
            return blame_end(end, evidence, stop_asked=live.watch.stop_asked, links=links)

        patience_s = 2.0 if end.signature and end.status > 0 else _SETTLE_S
        ask = worth_looking_at(end, nodes)
        return settle(live, Question(live.began, ask, nodes, judge, patience_s, quiet_s=patience_s / 2))

    def _script_end(self, job: JobView | None, status: int) -> ScriptEnd:
        if status in (0, FINISHED) or job is None:
            return ScriptEnd(status, step=self._live.progress.step)
        paths = dict.fromkeys([job.stderr, job.stdout, *self._live.output_files])
        tails = [self._live.ports.output.read(path) for path in paths if path]
        crash = self._live.crash.read(self._live.attempt, tails, status)
        step, kind = self._live.progress.step, crash.kind.value
        return ScriptEnd(status, crash.signature, step, kind, crash.rank, crash.node, crash.words)


def _has_begun(events: Sequence[Mapping[str, Any]]) -> bool:
    return any(event["kind"] == "attempt_started" for event in events)
