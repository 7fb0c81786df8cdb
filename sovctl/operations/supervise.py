"""The supervisor: runs one attempt of a run on its batch host, with the user's rights, and brings the run back.

`Supervisor.run` is the life of one attempt: take it over from the last one, start the user's script, watch it, and
when it stops (or a node under it is condemned) blame, decide, write down, act. The judgements are in sovctl.recovery;
bringing the job back is in operations/bring_back.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sovctl.checkpoint.find import latest_complete
from sovctl.errors import CheckpointDirUnreadable, SovctlError
from sovctl.model.blame import Blame, Culprit
from sovctl.model.checkpoint import Checkpoint
from sovctl.model.job import JobSize, JobView
from sovctl.model.progress import FINISHED
from sovctl.operations.allocation import Allocation, free_nodes
from sovctl.operations.bring_back import BringBack
from sovctl.operations.crash_look import CrashLook
from sovctl.operations.follow_progress import ProgressFollower, Quiet
from sovctl.operations.pass_watch import PassWatch
from sovctl.operations.suspicion import NodeSuspicion
from sovctl.operations.tolerant_journal import TolerantJournal
from sovctl.operations.watch_progress import ProgressPorts, ProgressSettings, ProgressWatch
from sovctl.ports import (
    AttemptFiles,
    ChildProcess,
    Clock,
    ClusterView,
    JobControl,
    JobLooks,
    Journal,
    NodePing,
    OutputTail,
    RunFiles,
    RunOutput,
    Signals,
    StartScript,
)
from sovctl.recovery.allocation_view import view
from sovctl.recovery.blame import NodeEvidence, ScriptEnd, blame_end, blame_nodes
from sovctl.recovery.decide import Action, Decision, Limits, decide, past_stops
from sovctl.recovery.exclusion import exclusions
from sovctl.recovery.hang import AUTO
from sovctl.recovery.lead import stop_lead_s
from sovctl.recovery.place import How, Place, choose_place, may_grow
from sovctl.recovery.requeue import ended_for_good
from sovctl.recovery.signature import says_preempted

FORWARDED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)
_JOB_CHECK_S = 5.0
_ROOM_CHECK_S = 5.0
"""How often a run on fewer nodes looks for a new checkpoint and free nodes."""
_SPARES_CHECK_S = 10.0
_STOP_PATIENCE_S = 60.0
"""How long a script that was asked to stop may take, when nothing but a wish is behind it."""
_CHECKPOINTS_PATIENCE_S = 60.0
"""How long a checkpoint directory that cannot be listed is tried again before the run is held."""
_SILENCE_S = 1.0
"""A slurmd counts as gone after so long when its ranks are silent too."""
_SILENCE_WITHOUT_RANKS_S = 20.0
"""The same for scripts whose ranks say nothing of themselves: longer than any restart of slurmd."""
_LOOK_S = 5.0
"""How long the nodes get after a crash to say what they know of themselves."""
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
    epilog_s: float = 2.0
    hang_timeout_s: float = AUTO
    progress_regex: str = ""
    restart_stragglers: bool = False
    size: int = 0
    """Nodes the script runs on, where the job may hold spares beyond them; 0: every node of the job."""
    spares: int = 0
    """Spares the job asks for (--spare-nodes)."""
    least: int = 0
    """Nodes it is content with where no replacement is free (--min-nodes); 0: no fewer than `size`."""

    def allocation(self) -> Allocation:
        """The nodes Slurm gave this execution."""
        size = self.size or len(self.nodes)
        return Allocation(self.nodes, self.batch_host, size, self.least or size)

    def job_size(self, usable: int | None) -> JobSize | None:
        """What to ask Slurm for when `usable` nodes could be had now; None: it is left as submitted.

        Exact figures: with one task a node, Slurm takes the least of a range of nodes (22.05 to 26.05).
        """
        if not self.size:
            return None
        least, most = self.least or self.size, self.size + self.spares
        nodes = most if usable is None else min(most, max(usable, least if usable < self.size else self.size))
        tasks = nodes * _figure(self.environment, "SLURM_NTASKS_PER_NODE")
        return JobSize(nodes, tasks, tasks * _figure(self.environment, "SLURM_CPUS_PER_TASK"))


def _figure(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return max(1, int(text)) if text.isascii() and text.isdigit() else 1


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
    fold: Callable[[Iterable[str]], str] = ",".join
    """Node names as one hostlist."""
    leftover: Callable[[str, str], ChildProcess] | None = None
    """What is left of a script whose supervisor was killed, by run id and Slurm's raw job id."""
    looks: JobLooks | None = None
    """A look at the ranks on their nodes; None: hangs are not noticed."""
    run_output: RunOutput | None = None
    kept: AttemptFiles | None = None


@dataclass(slots=True)
class _Watch:
    """What is known while the script runs."""

    job: JobView | None = None
    job_checked: float = 0.0
    nodes_checked: float = 0.0
    slurm_silent: bool = False
    stop_asked: str = ""
    stop_asked_at: float = 0.0
    room_checked: float = 0.0
    spares_checked: float = 0.0
    ended_by_slurm: str = ""


class Supervisor:
    """One attempt of one run."""

    def __init__(self, plan: RunPlan, ports: Ports) -> None:
        self._plan = plan
        self._ports = ports = replace(ports, journal=TolerantJournal(ports.journal, ports.clock, ports.say))
        self._attempt = 0
        self._resumed_at = 0
        self._lingering: tuple[str, ...] = ()
        self._down: frozenset[str] = frozenset()
        self._watch = _Watch()
        self._allocation = plan.allocation()
        self._progress = ProgressFollower(ports.files, ports.journal, ports.clock)
        self._passes = PassWatch(ports.cluster, ports.clock)
        self._suspicion = NodeSuspicion(ports.ping, ports.clock)
        self._began = ports.clock.now()
        self._moving = self._progress_watch()
        self._crash = self._crash_look()

    def run(self) -> int:
        """Returns the exit status for the batch script. Raises RunDirUnusable before anything was started."""
        plan, ports = self._plan, self._ports
        ports.files.prepare(self._record())
        events = ports.journal.events()
        if any(event["kind"] == "run_ended" and event.get("outcome") == "cancelled" for event in events):
            # Somebody requeued a job whose run was cancelled; that is a wish to run it again.
            ports.journal.append("run_reopened", job_id=plan.job_id)
        self._attempt = sum(event["kind"] == "attempt_started" for event in events)
        if self._died_here(events):
            status = self._take_over(events)
            if status is not None:
                return status
            self._attempt += 1
        else:
            self._close_lost_attempt(events)
        misplaced = self._misplaced(ports.journal.events())
        if misplaced and not self._leave_out(misplaced):
            return self._move_away(misplaced)
        while True:
            try:
                newest = self._newest(_CHECKPOINTS_PATIENCE_S)
            except CheckpointDirUnreadable as error:
                return self._hold_unstarted(error.message)
            status = self._follow(self._start_script(ports.journal.events(), newest))
            if status is not None:
                return status
            self._attempt += 1
            self._watch = _Watch()
            self._suspicion.clear()

    def give_up(self, why: str) -> int:
        """Hold the run: whoever supervises it does not stay alive."""
        events = self._ports.journal.events()
        open_attempt = _last_attempt(events)
        if open_attempt is not None and not _end_of(events, open_attempt["attempt"]):
            decision = Decision(Action.HOLD, why)
            self._append_end(open_attempt["attempt"], Blame(Culprit.UNKNOWN, evidence=why), decision, self._newest())
        back = self._bring_back()
        back.kill(self._leftover(), ())
        back.hold(why)
        return 0

    def _hold_unstarted(self, why: str) -> int:
        """Starting from step 0 because the checkpoints cannot be seen would throw the whole run away."""
        self._ports.say(f"{why}; the run is held and not started from step 0")
        self._ports.signals.ignore_termination()
        self._bring_back().hold(why)
        return 0

    # Taking over

    def _died_here(self, events: Sequence[Mapping[str, Any]]) -> bool:
        """Whether an earlier supervisor of this very execution of the job was killed."""
        last = _last_attempt(events)
        return last is not None and (last.get("job_id"), last.get("restarts")) == (
            self._plan.job_id,
            self._plan.restarts,
        )

    def _take_over(self, events: Sequence[Mapping[str, Any]]) -> int | None:
        """Go on where the killed supervisor was: every effect of a recovery can be repeated. None: start the script
        again in this allocation."""
        last = _last_attempt(events)
        assert last is not None
        self._attempt = last["attempt"]
        self._watch.job = job = self._ask_job()
        here = self._allocation
        if job is not None and job.running:
            here.dropped([node for node in here.nodes if node not in job.nodes])
        here.running_on = tuple(node for node in last.get("nodes", ()) if node in here.nodes)
        self._lingering = _lingering(events)
        self._ports.say("its supervisor was killed; a new one takes over")
        self._ports.journal.append("taken_over", attempt=self._attempt)
        ended = _end_of(events, self._attempt)
        if ended is None:
            return self._recover(self._leftover(), *self._unseen_end(events))
        return self._finish_recovery(ended)

    def _unseen_end(self, events: Sequence[Mapping[str, Any]]) -> tuple[Blame, int | None]:
        """How the script ended, if that was still written down; else only that nobody watched it."""
        said = [event for event in events if event["kind"] == "script_ended" and event["attempt"] == self._attempt]
        hardware = blame_nodes(self._evidence(None))
        if said:
            end = ScriptEnd(said[-1]["exit_status"], said[-1].get("signature", ""))
            return blame_end(end, self._evidence(None)), end.status
        words = "the supervisor was killed while the script ran"
        return hardware or Blame(Culprit.UNKNOWN, evidence=words, signature="supervisor killed"), None

    def _finish_recovery(self, ended: Mapping[str, Any]) -> int | None:
        """The decision was written down; carry it out."""
        culprit = past_stops([ended])[0].culprit
        blame = Blame(culprit, tuple(ended.get("blamed", ())), str(ended.get("evidence", "")))
        decision = Decision(
            Action(ended["action"]), str(ended.get("why", "")), blame.nodes, tuple(ended.get("suspects", ()))
        )
        if decision.action in (Action.FINISH, Action.END) and any(
            event["kind"] == "run_ended" for event in self._ports.journal.events()[-3:]
        ):
            return ended.get("exit_status") or 0
        return self._act(self._leftover(), blame, decision, ended.get("exit_status"))

    def _leftover(self) -> ChildProcess:
        raw_id = self._plan.environment.get("SLURM_JOB_ID", self._plan.job_id)
        assert self._ports.leftover is not None
        return self._ports.leftover(self._plan.run_id, raw_id)

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

    def _leave_out(self, nodes: tuple[str, ...]) -> bool:
        """Run on spares of the allocation in place of nodes that were blamed before, where there are enough."""
        here = self._allocation
        fit = [node for node in here.nodes if node not in nodes]
        if here.batch_host in nodes or len(fit) < here.size or not self._bring_back().drop(nodes):
            return False
        here.dropped(nodes)
        here.running_on = here.nodes[: here.size]
        return True

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
            nodes=list(self._allocation.running_on),
            spares=[node for node in self._allocation.nodes if node not in self._allocation.running_on],
            batch_host=plan.batch_host,
            resume_from=str(newest.path) if newest else "",
            resume_step=newest.step if newest else 0,
            excluded=excluded,
        )
        self._resumed_at = newest.step if newest else 0
        self._progress.begin(self._attempt, self._resumed_at)
        self._began = ports.clock.now()
        # Made anew: the nodes may be others now.
        self._moving = self._progress_watch()
        self._crash = self._crash_look()
        if self._moving is not None:
            self._moving.begin(self._attempt, self._began)
        ports.output.begin()
        return ports.start([path, *plan.arguments], self._script_environment(newest, excluded))

    def _script_environment(self, newest: Checkpoint | None, excluded: Sequence[str]) -> dict[str, str]:
        plan = self._plan
        here = self._allocation
        env = {
            **plan.environment,
            **(view(plan.environment, here.granted, here.running_on, self._ports.fold) if plan.size else {}),
            "SOVCTL_RUN_ID": plan.run_id,
            "SOVCTL_RUN_DIR": str(plan.run_dir),
            "SOVCTL_ATTEMPT": str(self._attempt),
            "SOVCTL_CHECKPOINT_DIR": str(plan.checkpoint_dir),
            "SOVCTL_RESUME_FROM": str(newest.path) if newest else "",
            "SOVCTL_RESUME_STEP": str(newest.step if newest else 0),
            "SOVCTL_EXCLUDED_NODES": ",".join(excluded),
        }
        guard = self._ports.files.guard_requeue(self._attempt)
        if guard:
            env["PATH"] = f"{guard}:{env['PATH']}" if env.get("PATH") else guard
        if self._lingering:
            env["SLURM_OVERLAP"] = "1"
        # A rank that dies must not leave the others waiting; srun's own default is to let them (KillOnBadExit=0).
        env.setdefault("SLURM_KILL_BAD_EXIT", "1")
        return env

    def _follow(self, child: ChildProcess) -> int | None:
        """Watch until the script ends or has to be ended. None: it is to run again in this allocation."""
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
            wanted = (
                self._look_at_time() or self._look_for_room() or self._look_for_requests() or self._look_at_progress()
            )
            if wanted is not None:
                return self._recover(child, wanted)

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
            self._watch.stop_asked, self._watch.stop_asked_at = why, self._ports.clock.now()
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
        self._look_at_spares(now)
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

    def _look_at_spares(self, now: float) -> None:
        """A spare with something against it is given back: whoever repairs it need not wait for the run to end."""
        here = self._allocation
        spares = [node for node in here.nodes if node not in here.running_on]
        if not spares or now - self._watch.spares_checked < _SPARES_CHECK_S:
            return
        self._watch.spares_checked = now
        try:
            lost = blame_nodes([NodeEvidence(item) for item in self._ports.cluster.nodes(spares)])
        except SovctlError:
            return
        if lost is not None and self._bring_back().drop(lost.nodes):
            here.dropped(lost.nodes)
            self._ports.journal.append(
                "spare_lost", attempt=self._attempt, nodes=list(lost.nodes), evidence=lost.evidence
            )

    def _look_at_progress(self) -> Blame | None:
        """Whether the run still moves."""
        if self._moving is None or self._watch.stop_asked:
            return None
        job = self._watch.job
        paths = [path for path in dict.fromkeys([job.stdout, job.stderr]) if path] if job is not None else []
        return self._moving.look(self._ports.clock.now(), paths)

    def _progress_watch(self) -> ProgressWatch | None:
        plan, ports = self._plan, self._ports
        if ports.looks is None or ports.run_output is None or ports.kept is None:
            return None
        settings = ProgressSettings(
            nodes=self._allocation.running_on,
            checkpoint_dir=str(plan.checkpoint_dir),
            gpus=self._gpus(),
            hang_timeout_s=plan.hang_timeout_s,
            progress_regex=plan.progress_regex,
            restart_stragglers=plan.restart_stragglers,
        )
        outside = ProgressPorts(ports.files, ports.kept, ports.run_output, ports.looks, ports.journal)
        return ProgressWatch(settings, outside, self._progress)

    def _crash_look(self) -> CrashLook:
        ports = self._ports
        return CrashLook(self._allocation.running_on, self._gpus(), ports.files, ports.kept, ports.looks)

    def _gpus(self) -> int | None:
        """How many GPUs the job was given on each node; the batch host's number, where nodes have the same."""
        count = self._plan.environment.get("SLURM_GPUS_ON_NODE", "")
        return int(count) if count.isdigit() and self._plan.environment.get("SLURM_GPUS_PER_NODE") else None

    def _output_size(self) -> int | None:
        job = self._watch.job
        return self._ports.output.size(job.stdout) if job is not None and job.stdout else None

    def _evidence(self, silence_s: float | None) -> list[NodeEvidence]:
        """The nodes of the allocation; `silence_s`: also ask slurmd, and count it as gone after so long."""
        try:
            views = self._ports.cluster.nodes(self._allocation.running_on)
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
        return [
            NodeEvidence(view, view.name in gone, silence_s is not None, self._crash.findings(view.name))
            for view in views
        ]

    def _look_at_time(self) -> Blame | None:
        """Near the time limit the ranks are asked to save and stop; if they do not, the last checkpoint must do."""
        now = self._ports.clock.now()
        if now - self._watch.job_checked > (_JOB_CHECK_S if self._watch.job is None else 60.0):
            self._watch.job_checked = now
            self._watch.job = self._ask_job() or self._watch.job
        job = self._watch.job
        if job is None or job.ends_at is None or not job.requeue:
            return None
        lead = stop_lead_s(
            self._plan.stop_lead_s, job.ends_at - (job.started_at or job.ends_at), self._progress.save_seconds
        )
        if now < job.ends_at - lead:
            return None
        self._ask_stop("time limit")
        if now > job.ends_at - min(10.0, lead / 2):
            return Blame(Culprit.TIME_LIMIT, evidence="the time limit was near", step=self._progress.step)
        return None

    def _look_for_room(self) -> Blame | None:
        """A run on fewer nodes than it wants goes back to all of them right after a checkpoint, when they are free."""
        here, now = self._allocation, self._ports.clock.now()
        if len(here.running_on) >= here.size or now - self._watch.room_checked < _ROOM_CHECK_S:
            return None
        self._watch.room_checked = now
        if self._watch.stop_asked:
            late = now - self._watch.stop_asked_at > _STOP_PATIENCE_S
            return Blame(Culprit.STOPPED, evidence=self._watch.stop_asked, step=self._progress.step) if late else None
        newest = self._newest()
        if newest is None or newest.step <= self._resumed_at:
            return None
        if may_grow(here.room(self._free_elsewhere((), self._watch.job), self._watch.job, now)):
            self._ask_stop(f"{here.size} nodes are free again")
        return None

    def _look_for_requests(self) -> Blame | None:
        """A framework that wants to requeue the job itself: there is one owner of the requeue, and it is this one."""
        if not self._ports.files.requeue_asked(self._attempt):
            return None
        self._ports.say("the script asked Slurm to requeue this job; sovctl does it, with its exclusions")
        return Blame(Culprit.STOPPED, evidence="the script asked for a requeue", step=self._progress.step)

    def _ask_job(self) -> JobView | None:
        try:
            return self._ports.jobs.job(self._plan.job_id)
        except SovctlError:
            return None

    # The end

    def _on_script_end(self, child: ChildProcess, status: int) -> int | None:
        self._progress.follow()
        job = self._ask_job()
        if job is not None and ended_for_good(job, self._plan.restarts):
            self._watch.job, self._watch.ended_by_slurm = job, job.state
            return self._on_ended_by_slurm(child)
        end = self._script_end(job, status)
        self._ports.journal.append(
            "script_ended",
            attempt=self._attempt,
            exit_status=status,
            signature=end.signature,
            crash=end.kind,
            rank=end.rank,
            node=end.node,
        )
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
        self._crash.begin(self._began)
        while True:
            owed = self._crash.pending
            blame = blame_end(end, self._evidence(_SILENCE_S), stop_asked=self._watch.stop_asked)
            if blame.culprit is not Culprit.USER_CODE:
                return blame
            quiet = not self._suspicion.any and not self._watch.slurm_silent
            waited = clock.now() - began
            if waited >= (patience / 2 if quiet else patience) and (not owed or waited >= _LOOK_S):
                return blame
            self._ports.signals.wait(0.25)

    def _script_end(self, job: JobView | None, status: int) -> ScriptEnd:
        if status in (0, FINISHED) or job is None:
            return ScriptEnd(status, step=self._progress.step)
        tails = [self._ports.output.read(path) for path in dict.fromkeys([job.stderr, job.stdout]) if path]
        crash = self._crash.read(self._attempt, tails, status)
        return ScriptEnd(status, crash.signature, self._progress.step, crash.kind.value, crash.rank, crash.node)

    def _recover(self, child: ChildProcess, blame: Blame, status: int | None = None) -> int | None:
        """Decide, write down, act. None: the script is to run again in this allocation."""
        newest = self._newest()
        job = self._watch.job or self._ask_job()
        free = self._free_elsewhere(blame.nodes, job)
        decision = decide(
            blame,
            past_stops(self._ports.journal.events()),
            newest.step if newest else 0,
            self._plan.limits,
            may_requeue=job is None or job.requeue,
            ran_on=self._allocation.running_on,
            replacements=(free or 0) + len(self._allocation.nodes) - len(self._allocation.running_on),
        )
        self._append_end(self._attempt, blame, decision, newest, status)
        if self._moving is not None:
            self._moving.end()
        return self._act(child, blame, decision, status, free)

    def _act(
        self, child: ChildProcess, blame: Blame, decision: Decision, status: int | None, free: int | None = None
    ) -> int | None:
        """Carry a decision out. None: the script is to run again in this allocation."""
        if decision.action in (Action.FINISH, Action.END):
            return self._end_run(child, decision, status)
        place = self._place(blame, decision, free, self._watch.job or self._ask_job())
        back = self._bring_back()
        while place.how is not How.QUEUE:
            held = len(self._allocation.nodes)
            if self._restart_here(child, back, place):
                return None
            if len(self._allocation.nodes) == held:
                break
            # The job lost nodes while it was made ready: there may be spares enough all the same.
            place = self._place(blame, decision, free, self._ask_job())
        self._ports.signals.ignore_termination()
        unfit = len(self._unfit({*decision.exclude, *decision.suspects}))
        back.size = self._plan.job_size(None if free is None else free + len(back.nodes) - unfit)
        gone = self._silent()
        back.kill(child, [node for node in blame.nodes if node in gone and node in back.nodes])
        if decision.action is Action.HOLD:
            back.hold(decision.why)
        else:
            back.requeue(exclude_reason=blame.evidence)
        return 0

    def _end_run(self, child: ChildProcess, decision: Decision, status: int | None) -> int:
        finished = decision.action is Action.FINISH
        self._ports.journal.append(
            "run_ended", outcome="finished" if finished else "failed", job_id=self._plan.job_id, why=decision.why
        )
        if finished:
            return 0
        child.kill_group()
        child.wait(10.0)
        return status if status is not None and status > 0 else 1

    def _place(self, blame: Blame, decision: Decision, free: int | None, job: JobView | None) -> Place:
        if decision.action is not Action.RESTART:
            return Place(How.QUEUE)
        room = self._allocation.room(free, job, self._ports.clock.now())
        return choose_place(blame, self._unfit({*decision.exclude, *decision.suspects}), room)

    def _unfit(self, avoid: set[str]) -> frozenset[str]:
        """Nodes of the job the next attempt must not get: those given, and spares with something against them."""
        try:
            views = self._ports.cluster.nodes(self._allocation.nodes)
        except SovctlError:
            return frozenset(avoid)
        self._down = frozenset(item.name for item in views if item.state.down)
        silent = self._ports.ping.silent(views) if self._suspicion.any else frozenset()
        bad = blame_nodes([NodeEvidence(item, item.name in silent, True) for item in views])
        return frozenset(avoid) | frozenset(bad.nodes if bad else ())

    def _free_elsewhere(self, avoid: Sequence[str], job: JobView | None) -> int | None:
        excluded = [item.node for item in exclusions(self._ports.journal.events(), self._ports.clock.now())]
        partition = job.extra.get("Partition", "") if job is not None else ""
        try:
            return free_nodes(self._ports.cluster.nodes(), partition, [*avoid, *excluded, *self._allocation.nodes])
        except SovctlError:
            return None

    def _silent(self) -> frozenset[str]:
        """Nodes whose part of the job cannot end by itself: no answer from slurmd, or everything on them stands."""
        frozen = self._moving.frozen if self._moving is not None else frozenset()
        return self._suspicion.silent_for(0.0) | frozen | self._down

    def _restart_here(self, child: ChildProcess, back: BringBack, place: Place) -> bool:
        """Make this allocation ready for the next attempt; False: only the queue is left."""
        here, journal = self._allocation, self._ports.journal
        journal.append("restart_intent", attempt=self._attempt, how=place.how.value, because=place.why)
        silent = self._silent()
        ready = back.clear(child, place.drop, [node for node in place.drop if node in silent])
        here.dropped([node for node in here.nodes if node not in back.nodes])
        if not ready or not set(place.nodes) <= set(here.nodes):
            journal.append("restart_refused", attempt=self._attempt, how=place.how.value)
            return False
        here.running_on = place.nodes
        self._lingering = back.lingering
        journal.append(
            "restarted",
            attempt=self._attempt,
            how=place.how.value,
            nodes=list(place.nodes),
            dropped=list(place.drop),
            lingering=list(back.lingering),
        )
        return True

    def _bring_back(self) -> BringBack:
        plan, ports = self._plan, self._ports
        return BringBack(
            plan.job_id,
            self._attempt,
            plan.restarts,
            self._allocation.nodes,
            plan.batch_host,
            plan.epilog_s,
            ports.jobs,
            ports.cluster,
            ports.journal,
            ports.clock,
            self._passes,
            size=plan.job_size(None),
            shrunk=self._allocation.shrunk,
            lingering=self._lingering,
        )

    def _newest(self, patience_s: float = 0.0) -> Checkpoint | None:
        """The newest complete checkpoint. A directory that cannot be listed is not an empty one: it is looked at again
        for `patience_s`, then CheckpointDirUnreadable is raised; without patience it counts as unknown (None)."""
        deadline = self._ports.clock.now() + patience_s
        while True:
            try:
                return latest_complete(self._plan.checkpoint_dir)
            except CheckpointDirUnreadable as error:
                if self._ports.clock.now() >= deadline:
                    if patience_s:
                        raise
                    self._ports.say(error.message)
                    return None
            self._ports.clock.sleep(1.0)

    def _append_end(
        self, attempt: int, blame: Blame, decision: Decision, newest: Checkpoint | None, status: int | None = None
    ) -> None:
        self._ports.journal.append(
            "attempt_ended",
            attempt=attempt,
            culprit=blame.culprit.value,
            blamed=list(blame.nodes),
            suspects=list(decision.suspects),
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
        }


def _last_attempt(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((event for event in reversed(events) if event["kind"] == "attempt_started"), None)


def _lingering(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Steps that were left on the books when the last attempt was started in its allocation."""
    last = [event for event in events if event["kind"] in ("restarted", "requeued")][-1:]
    return tuple(str(step) for event in last for step in event.get("lingering", ()))


def _end_of(events: Sequence[Mapping[str, Any]], attempt: int) -> Mapping[str, Any] | None:
    """How an attempt ended, if it did."""
    ends = (event for event in reversed(events) if event["kind"] == "attempt_ended" and event["attempt"] == attempt)
    return next(ends, None)
