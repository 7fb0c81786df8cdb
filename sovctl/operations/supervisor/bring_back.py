"""Brings a job whose attempt is over back into the queue, away from blamed nodes, without Slurm's 121 s.

Every step can be repeated: what to do next is read off the job (recovery/requeue.py), so a slurmctld that was killed
in between, or that lost the last seconds of its state, is simply told again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sovctl.errors import SlurmConfMissing, SovctlError, TryLaterError
from sovctl.model.job import JobSize, JobView
from sovctl.operations.supervisor.pass_watch import PassWatch
from sovctl.ports.common import Clock, Journal
from sovctl.ports.slurm import ClusterView, JobControl
from sovctl.ports.supervised import ChildProcess
from sovctl.recovery.exclusion import ExclusionList, renew
from sovctl.recovery.requeue import (
    KILL_WAIT_S,
    LINGER_S,
    Goal,
    Step,
    Told,
    begin_at,
    earliest_begin,
    ended_for_good,
    epilog_estimate_s,
    exit_s,
    kill_wait_s,
    late_begin,
    leave_s,
    locked_after_shrink,
    next_step,
    own_delay_s,
    provisional_begin,
    sched_delay_s,
    stays_until,
    told,
)

_Result = TypeVar("_Result")
_RETRY_S = 0.5
_LONGEST_RETRY_S = 5.0
_STEPS_END_S = 10.0
"""So long steps that were killed may take to end, before the queue is the quicker way."""
_LOST_STEP_ENDS_S = 0.5
"""So long a step gets to end that lost a node which does not answer: the slurmstepd above that node in the step's tree
waits LINGER_S for it."""
_OLD_STEPS_S, _CLOCKS_S = 1.5, 2.0
"""Steps that began before the attempt, by more than the clocks may differ, and are still there so long after the kill:
slurmctld came back with an older state and knows nothing of the end of these, nor of the steps that run."""
_STEPS_LOOK_S = 0.05
_PASS_LOOK_S = 0.1
_DEAF_END_S = 4.0
"""So long the ranks may take to end that another step of the job has to end."""
_ALL_ANSWER_S = 4.0
"""The same where none is known to be dead: one that froze a moment ago keeps scancel for MessageTimeout (10 s)."""
_LOOKS_END_S = 4.0
"""What is left so long after the kill is killed too: looks of an earlier life of the supervisor may be among it."""
_ANSWERS_S = 1.5
"""So long the nodes of a step may take to say that they were told to end it, where one of them is dead."""
_MARGIN_S = 0.3
_SELDOM_LOOK_S = 3.0
"""slurmd's looks that are farther apart than this must not be missed."""
_TICK_S = 1.2
"""slurmctld's background loop sleeps one second and works a little."""
_MOST_REFUSALS = 5
"""So often Slurm may refuse what the look at the job said is next."""


@dataclass(slots=True)
class BringBack:
    """One job, seen from its own batch host."""

    job_id: str
    attempt: int
    restarts: int
    """Restart count of the attempt that is over."""
    nodes: Sequence[str]
    batch_host: str
    epilog_s: float
    jobs: JobControl
    cluster: ClusterView
    journal: Journal
    clock: Clock
    passes: PassWatch
    size: JobSize | None = None
    """What the job asks for from now on; None: as it was submitted."""
    asked: int = 0
    """The least number of nodes it was submitted with; 0: as many as it has."""
    say: Callable[[str], None] = lambda _words: None
    """One line into the job's own output."""
    shrunk: bool = False
    """Nodes were dropped from the job."""
    lingering: tuple[str, ...] = ()
    """Steps whose processes are dead and that are still on the books, for up to a minute: nothing waits for them, and
    new steps have to share their resources (--overlap)."""
    lingers_until: float = 0.0
    """When Slurm gives up the last of them; 0: there is none."""
    crowding: Callable[[], float] = lambda: 1.0
    """How many times longer than alone our work takes on this machine."""
    sigterm_at: Callable[[], float | None] = lambda: None
    """When SIGTERM last came."""
    began: float = 0.0
    """When the script of the attempt that is over was started; 0: not known."""
    ran_at: float = 0.0
    """When the job was last seen to run on; 0: nobody looked."""
    end_survivors: Callable[[], bool] = lambda: False
    """Ends ranks whose slurmstepds take no order at present; whether there were such."""
    _end: str = ""
    """The state in which Slurm ended the job for good, as of the last look at where it is."""
    _orders_s: list[float] = field(default_factory=list)
    """How long our updates of the job took: a busy controller or machine takes longer."""
    _record_s: float = 0.0
    """How long the last line of the record took: one more is to come."""
    _epilog: float = 0.0
    _kill_wait: float = KILL_WAIT_S
    _told: Told | None = None
    """When slurmd was told to end the job; None: it was not, as far as is known."""
    _script: ChildProcess | None = None
    """Still runs after somebody else's requeue, until it has saved or slurmd kills it; None: we have ended it."""
    _settings: Mapping[str, str] = field(default_factory=dict)
    _asked: float = 0.0
    """When the job was last updated after its requeue: a pass of the scheduler comes of it; 0: not yet."""

    def kill(
        self, child: ChildProcess, dead_nodes: Sequence[str], *, silent: bool = False, for_queue: bool = False
    ) -> None:
        """End the script and its steps at once, so that Slurm has nothing to wait KillWait for.

        A node that does not answer is first cut out of the job: a completing job waits for every one of its nodes,
        and for one that does not answer until SlurmdTimeout (300 s). While slurmctld is away nothing is ended: a step
        that ends then keeps its nodes for a minute more, because slurmstepd repeats its report so seldom.
        `silent`: such a node has been cut out already. `for_queue`: the job leaves its nodes next, so the passes of the
        scheduler are counted meanwhile: the one that a drain asked for comes within these seconds.
        """
        count = for_queue and self.passes.look()
        # Whatever slurmctld says of the batch host, somebody is alive there: this process.
        dead_nodes = [node for node in dead_nodes if node != self.batch_host]
        if dead_nodes:
            self.drop(dead_nodes)
        lost = silent or bool(dead_nodes)
        if lost:
            self.lingers_until = self.clock.now() + LINGER_S
        patience_s = _ANSWERS_S if lost or self.lingering else _ALL_ANSWER_S
        deaf = child.poll() is None and self.end_survivors()
        # Looks have been told to end; told twice, a slurmstepd may wait a minute for itself.
        self._command(lambda: self.jobs.kill_steps(self.job_id, patience_s=patience_s, lost_node=lost, looks=False))
        # srun first collects its tasks: without it every slurmstepd tries for 4 s to report to it.
        self._await_script(child, _DEAF_END_S if deaf and not lost else 1.0, count=count)
        child.kill_group()
        self._await_script(child, 5.0, count=count)
        self.journal.append("killed", attempt=self.attempt)

    def _await_script(self, child: ChildProcess, patience_s: float, *, count: bool) -> None:
        until = self.clock.now() + patience_s
        while True:
            # A slurmctld that is away lets each look wait: then the end of the script is all that counts.
            count = count and self.passes.look()
            left = until - self.clock.now()
            if child.wait(min(left, _PASS_LOOK_S) if count else left) is not None or left <= 0:
                return

    def drop(self, nodes: Sequence[str]) -> bool:
        """Cut nodes out of the running job; returns whether they are out.

        Others cut nodes out too (`watch` a dead one, Slurm itself one that is set down): Slurm then refuses our list,
        and a second one is made from what the job still holds.
        """
        for _ in range(2):
            keep = [node for node in self.nodes if node not in nodes]
            if len(keep) == len(self.nodes):
                return True
            if self._command(lambda keep=keep: self.jobs.drop_nodes(self.job_id, keep)):  # type: ignore[misc]
                self.nodes, self.shrunk = keep, True
                return True
            job = self._look()
            there = [node for node in self.nodes if node in job.nodes]
            if not job.running or len(there) == len(self.nodes):
                return False
            self.nodes, self.shrunk = there, True
        return False

    def clear(self, child: ChildProcess, drop: Sequence[str], silent: Sequence[str] = ()) -> bool:
        """Make the allocation ready for the script to start again in it: without `drop`, and with no step left.

        `silent`: those of `drop` that do not answer; their part of a step would never end, so they go first. A node
        that answers goes last: slurmctld waits for the end of a step that lost a node under its hands (4 s, 22.05).
        Returns False when that cannot be had; the job is then to be requeued.
        """
        if silent and not self.drop(silent):
            return False
        self.kill(child, (), silent=bool(silent))
        left = self._await_no_steps(_LOST_STEP_ENDS_S if silent else _STEPS_END_S)
        if not silent and not left <= set(self.lingering):
            return False
        self.lingering = tuple(sorted(left))
        if not left:
            self.lingers_until = 0.0
        rest = [node for node in drop if node in self.nodes]
        if rest and not self.drop(rest):
            return False
        job = self._look()
        # With nodes that were cut out long ago, slurmctld has come back with an older state: steps would go there.
        return job.running and job.restarts == self.restarts and set(job.nodes) <= set(self.nodes)

    def _await_no_steps(self, patience_s: float) -> frozenset[str]:
        """Wait for the end of every step but those known to linger; returns what is on the books then."""
        began, told = self.clock.now(), False
        while True:
            there = self._patiently(lambda: self.jobs.steps(self.job_id))
            left, waited = frozenset(there), self.clock.now() - began
            if left <= set(self.lingering) or waited >= patience_s:
                return left
            if waited >= _OLD_STEPS_S and all(0 < start < self.began - _CLOCKS_S for start in there.values()):
                return left
            if not told and waited >= _LOOKS_END_S:
                told = True
                self._command(lambda: self.jobs.kill_steps(self.job_id, patience_s=_ANSWERS_S))
            self.clock.sleep(_STEPS_LOOK_S)

    def requeue(self, *, exclude_reason: str, may_hold: bool = True) -> None:
        """Bring the job to pending with its exclusions and a begin time just after the last epilog. Where nothing that
        happens by itself could start it with these, it is held with that sentence."""
        chosen = self._choose(by_person=not may_hold)
        if chosen.never and may_hold:
            self.say(f"{chosen.short}; the run is held")
            self.hold(chosen.short)
            return
        if chosen.short:
            self.say(f"{chosen.short}; the run waits for that to change")
        # The begin time is aligned with the scheduler's next pass: from here on, where slurmctld has just answered, its
        # passes are counted.
        self.passes.look()
        # The ranks are dead: how crowded it is without them is measured from here.
        self.crowding()
        self.journal.append("requeue_intent", attempt=self.attempt, exclude=list(chosen.nodes), because=exclude_reason)
        goal = Goal(self.restarts, frozenset(chosen.nodes))
        if self.shrunk and self._takes_no_terms():
            self._leave_terms_to_others(chosen)
            return
        self._finish(goal, chosen, self._reach(goal))

    def stand_by(self) -> None:
        """The job was requeued by somebody else: from now on it begins before Slurm's 121 s are over whatever becomes
        of us, for KillWait may be over before all is said."""
        job = self._look()
        self._learn_told(job)
        if self._may_begin(job) and not job.expedited and not (self.shrunk and self._takes_no_terms()):
            # Asking for a pass of the scheduler, which is then seen.
            self.passes.look()
            self._set_terms(Goal(self.restarts, None), self._provisional(job))

    def settle(self, script: ChildProcess | None = None) -> None:
        """The job was requeued by somebody else: give it its exclusions and spare it the 121 s, unless it is held.

        `script`: may still run, to save or because SIGTERM does not end it.
        """
        self._script = script
        job = self._look()
        if self._may_begin(job):
            # It is out of our hands already: only a job that runs can be requeued held.
            self.requeue(exclude_reason="requeued from outside", may_hold=False)

    def _may_begin(self, job: JobView) -> bool:
        """Whether somebody else requeued it and it is to run again. Held is known by the priority alone: up to 26.05 a
        job that completes shows nothing else of its next state."""
        return job.restarts > self.restarts and not job.over and not job.running and job.priority != 0

    def _learn_told(self, job: JobView) -> None:
        """Somebody else requeued the job, perhaps just now, under our hands: slurmd looks whether we are gone from that
        moment on, so the begin time counts from there."""
        if self._told is None and job.restarts > self.restarts:
            now = self.clock.now()
            self._told = told(self.sigterm_at(), self.ran_at or now, now)

    def hold(self, why: str) -> None:
        """Requeue held: the job waits for a person; `sovctl run resume` or `scontrol release` lets it run, with the
        exclusions and the size of a requeue: with those of its last start it might find too few nodes."""
        self.journal.append("hold_intent", attempt=self.attempt, why=why)
        step = self._reach(Goal(self.restarts, None, hold=True))
        if step is Step.DONE and not (self.shrunk and self._takes_no_terms()):
            self._set_terms(Goal(self.restarts, frozenset(self._choose(by_person=True).nodes)), None)
        if step is Step.GONE:
            self._ended_for_good()
        else:
            self.journal.append("held", attempt=self.attempt, job_id=self.job_id, why=why)

    def _choose(self, *, by_person: bool = False) -> ExclusionList:
        """The exclusions from now on; what became of the old ones is written down."""
        job = self._look()
        views = self._patiently(self.cluster.nodes)
        # A drain asks for a pass (_slurm_rpc_update_node, 22.05 to 26.05), over before it could be looked for.
        for view in views:
            if view.state.draining and view.reason_at is not None:
                self.passes.asked_for(view.reason_at)
        terms = renew(self.journal.events(), job, views, self._needed(), self.clock.now(), by_person=by_person)
        if terms.out:
            self.journal.append("out_of_service", attempt=self.attempt, nodes=list(terms.out))
        if terms.back:
            self.journal.append(
                "forgiven", attempt=self.attempt, nodes=list(terms.back), why="given back after a repair"
            )
        if terms.lapsed:
            self.journal.append("lapsed", attempt=self.attempt, nodes=list(terms.lapsed))
        return terms.chosen

    def _needed(self) -> int:
        return self.size.nodes if self.size else self.asked or len(self.nodes)

    def _reach(self, goal: Goal) -> Step:
        """Give commands until the job is where the goal wants it, or out of our hands."""
        refused = 0
        while True:
            job = self._look()
            step = next_step(job, goal)
            self._end = ended_for_good(job, goal.restarts_before)
            self._learn_told(job)
            if step is Step.REQUEUE:
                taken = self._command(
                    lambda: self.jobs.requeue(self.job_id, hold=goal.hold), last=refused == _MOST_REFUSALS
                )
                self._told, self._asked = Told(self.clock.now()), 0.0
            elif step is Step.SET_TERMS and refused < _MOST_REFUSALS:
                taken = self._set_terms(goal, self._provisional(job))
            else:
                return Step.DONE if step is Step.SET_TERMS else step
            refused = 0 if taken else refused + 1
            self.clock.sleep(0.02 if taken else 0.2)

    def _takes_no_terms(self) -> bool:
        settings = self._slurm_settings()
        return locked_after_shrink(settings.get("SLURM_VERSION", ""), settings.get("AccountingStorageType", ""))

    def _slurm_settings(self) -> Mapping[str, str]:
        """Asked once: every question takes from the seconds until KillWait."""
        self._settings = self._settings or self._patiently(self.cluster.settings)
        return self._settings

    def _leave_terms_to_others(self, chosen: ExclusionList) -> None:
        """The job takes no exclusions before it has left its nodes, and by then we are gone: `sovctl watch` gives
        them, or the next supervisor moves away after Slurm's own 121 s."""
        if self._reach(Goal(self.restarts, None)) is Step.GONE:
            self._ended_for_good()
        else:
            self._requeued_as(chosen, None)

    def _ended_for_good(self) -> None:
        """Not by a cancel alone: its time may be over, or its batch host go down, while it is brought back."""
        outcome = self._end.lower()
        why = f"{outcome.replace('_', ' ')} during recovery"
        self.journal.append("run_ended", outcome=outcome, job_id=self.job_id, why=why)

    def _requeued_as(self, chosen: ExclusionList, begin: int | None) -> None:
        self.journal.append(
            "requeued",
            attempt=self.attempt,
            exclude=list(chosen.nodes),
            given_up=list(chosen.given_up),
            begin=begin,
            short=chosen.short,
        )

    def _finish(self, goal: Goal, chosen: ExclusionList, step: Step) -> None:
        begin = None
        for _ in range(_MOST_REFUSALS):
            if step is not Step.DONE:
                break
            begin = self._begin(goal)
            if self._set_terms(goal, begin):
                if begin is None or not self._too_late(begin):
                    break
                # The update itself took so long that the job's last epilog may end after that second.
                continue
            # Cancelled meanwhile, or a slurmctld that came back with an older state and knows nothing of the requeue.
            step = self._reach(goal)
        if step is Step.GONE:
            self._ended_for_good()
        else:
            self._requeued_as(chosen, begin)

    def _too_late(self, begin: int) -> bool:
        return self._earliest(exit_s(self.crowding())) > begin

    def _earliest(self, leave_s: float) -> int:
        now = self.clock.now()
        return earliest_begin(self._told or Told(now), now, self._epilog, leave_s, self._kill_wait)

    def _begin(self, goal: Goal) -> int | None:
        """When the job shall begin, None: when Slurm lets it; returns at the moment to say so and leave.

        Where the other nodes do not end while we can wait, the begin time is put far enough ahead for them.
        """
        job = self._look()
        if job.expedited:
            return None
        if not self._asked:
            # Where no exclusion changed, nobody has asked for the pass that the begin time is aligned with; a requeue
            # does not (22.05 to 26.05).
            self._set_terms(goal, self._provisional(job))
        self._kill_wait = kill_wait_s(self._slurm_settings())
        measured = self._await_other_nodes()
        return self._late(job) if measured is None else self._aligned(goal, job, measured)

    def _provisional(self, job: JobView) -> int | None:
        delay = 0.0 if job.expedited else own_delay_s(self._slurm_settings())
        return provisional_begin(self.clock.now(), delay)

    def _late(self, job: JobView) -> int | None:
        """The begin time where others are still at it when we have to leave."""
        now = self.clock.now()
        if self._provisional(job) is None:
            return None
        epilog_s = epilog_estimate_s((), self._has_epilog(), self.epilog_s)
        ranks = self._script is not None and self._script.poll() is None
        return late_begin(
            self._told or Told(now), now, self._kill_wait, epilog_s, ranks=ranks, lingers_until=self.lingers_until
        )

    def _has_epilog(self) -> bool:
        return self._slurm_settings().get("Epilog", "") not in ("", "(null)")

    def _aligned(self, goal: Goal, job: JobView, measured: Sequence[float]) -> int:
        """A begin time that a pass of the scheduler follows. `measured`: how long the other nodes took to end."""
        self._epilog = epilog_estimate_s(measured, self._has_epilog(), self.epilog_s)
        delay = sched_delay_s(self._slurm_settings().get("SchedulerParameters", ""))
        # slurmd looks seldom when the job has been ending for 10 s: nothing is gained by leaving long before its look.
        deadline = max(self.clock.now(), self._earliest(self._leave_s()) - delay) + delay + _TICK_S
        deadline = min(deadline, self._stays_until())
        while True:
            self.passes.look()
            now = self.clock.now()
            earliest = self._earliest(self._leave_s())
            begin = begin_at(earliest, self.passes.last, delay)
            if begin is not None or not self.passes.sees or now > deadline:
                return begin or earliest
            if self._earliest(self._leave_s() + _MARGIN_S) > earliest + _SELDOM_LOOK_S:
                # Better begin at the next backfill, or with the help of `sovctl watch`, than miss this look.
                return earliest
            over = self.passes.last is not None and self.passes.last > self._asked
            if over and now >= earliest - delay:
                # The pass that was asked for is over, and the one to wait for comes only when it is asked for: so late
                # that the one after it comes when the job may begin.
                self._set_terms(goal, self._provisional(job))
            self.clock.sleep(0.03)

    def _await_other_nodes(self) -> list[float] | None:
        """Wait until only the batch host is left completing; returns how long the others took after the last rank, in
        seconds; None when they are not done in time."""
        began = self.clock.now()
        until = self._stays_until()
        while True:
            job = self._look()
            if self._script is not None and self._script.poll() is None:
                began = self.clock.now()
            elif not job.completing or set(job.nodes) <= {self.batch_host}:
                done = self.clock.now()
                self.journal.append("epilogs_done", attempt=self.attempt)
                self._record_s = self.clock.now() - done
                return [done - began] if len(self.nodes) > 1 else []
            if self.clock.now() >= until:
                return None
            self.clock.sleep(0.05)

    def _stays_until(self) -> float:
        return stays_until(self._told or Told(self.clock.now()), self._kill_wait, self._leave_s())

    def _set_terms(self, goal: Goal, begin: int | None) -> bool:
        exclude = None if goal.exclude is None else sorted(goal.exclude)
        self._asked = asked = self.clock.now()
        taken = self._command(
            lambda: self.jobs.update_pending(self.job_id, exclude=exclude, begin=begin, size=self.size)
        )
        self._orders_s.append(self.clock.now() - asked)
        return taken

    def _leave_s(self) -> float:
        return leave_s([order + self._record_s for order in self._orders_s], self.crowding())

    def _command(self, act: Callable[[], None], *, last: bool = False) -> bool:
        """Returns whether Slurm took it. It may refuse because the job was cancelled, or started again, between the
        look and the command: the next look tells. With `last` the refusal is raised."""
        try:
            self._patiently(act)
        except SovctlError as error:
            self.journal.append("command_refused", attempt=self.attempt, detail=error.message)
            if last:
                raise
            return False
        return True

    def _look(self) -> JobView:
        before = self.clock.now()
        job = self._patiently(lambda: self.jobs.job(self.job_id))
        if job.running and job.restarts <= self.restarts:
            self.ran_at = before
        return job

    def _patiently(self, act: Callable[[], _Result]) -> _Result:
        """Repeat while slurmctld does not answer: it is being restarted, and everything waits for it."""
        pause, told = _RETRY_S, False
        while True:
            try:
                return act()
            # slurm.conf may be gone for a moment: a shared file system, a slurmd that fetches it anew.
            except (TryLaterError, SlurmConfMissing) as error:
                if not told:
                    told = True
                    self.journal.append("slurm_silent", attempt=self.attempt, detail=error.message)
                self.clock.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_RETRY_S)
