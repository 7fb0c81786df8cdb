"""What follows a stop: decide, write down, act. The judgements are in sovctl.recovery."""

from __future__ import annotations

from sovctl.model.blame import Blame
from sovctl.model.job import JobView
from sovctl.operations.supervisor.bring_back import BringBack
from sovctl.operations.supervisor.live_run import LiveRun
from sovctl.ports.supervised import ChildProcess
from sovctl.recovery.decide import Action, Decision, decide, past_stops
from sovctl.recovery.exclusion import exclusions
from sovctl.recovery.place import How, Place, choose_place, swap_out


def failed_status(script: int | None) -> int:
    """What a job that did not finish ends with: the script's own status, where it has one that says so."""
    return script if script is not None and script > 0 else 1


class Recovery:
    """Brings one run back, in its allocation or through the queue."""

    def __init__(self, live: LiveRun) -> None:
        self._live = live

    def recover(self, child: ChildProcess, blame: Blame, status: int | None = None) -> int | None:
        """Decide, write down, act. None: the script is to run again in this allocation."""
        newest = self._live.newest()
        job = self._live.watch.job or self._live.ask_job()
        free = self._live.free_elsewhere(blame.nodes, job)
        decision = decide(
            blame,
            past_stops(self._live.ports.journal.events()),
            self._live.step_saved(newest),
            self._live.plan.limits,
            may_requeue=job is None or job.requeue,
            hold_asked=self._live.watch.requeue_asked == "requeuehold",
            ran_on=self._live.here.running_on,
            replacements=(free or 0) + len(self._live.here.nodes) - len(self._live.here.running_on),
        )
        self._live.append_end(self._live.attempt, blame, decision, newest, status)
        if self._live.moving is not None:
            self._live.moving.end()
        return self.act(child, blame, decision, status, free)

    def act(
        self, child: ChildProcess, blame: Blame, decision: Decision, status: int | None, free: int | None = None
    ) -> int | None:
        """Carry a decision out. None: the script is to run again in this allocation."""
        if decision.action in (Action.FINISH, Action.END):
            return self._end_run(child, decision, status)
        avoid = {*decision.exclude, *decision.suspects}
        self._live.release_spares()
        unfit = self._live.unfit(avoid)
        place = self._place(blame, decision, free, self._live.watch.job or self._live.ask_job(), unfit)
        back = self._live.bring_back()
        while place.how is not How.QUEUE:
            held = len(self._live.here.nodes)
            if self._restart_here(child, back, place):
                return None
            # The job lost nodes while it was made ready, or one of them died: there may be spares enough all the same.
            known, unfit = unfit, unfit | self._live.unfit(avoid, ask=True)
            if len(self._live.here.nodes) == held and unfit == known:
                break
            place = self._place(blame, decision, free, self._live.ask_job(), unfit)
        self._live.ports.signals.ignore_termination()
        back.size = self._live.size_for(free, unfit)
        gone = self._live.silent()
        # Whoever is blamed: a completing job waits for each of its nodes, for one that is silent until SlurmdTimeout.
        back.kill(child, [node for node in back.nodes if node in gone], for_queue=decision.action is not Action.HOLD)
        if decision.action is Action.HOLD:
            back.hold(decision.why)
        else:
            back.requeue(exclude_reason=blame.evidence)
        return 0

    def _end_run(self, child: ChildProcess, decision: Decision, status: int | None) -> int:
        # A script that stopped well in a job that may not be requeued: Slurm calls that COMPLETED, and so do we.
        finished = decision.action is Action.FINISH or status == 0
        self._live.ports.journal.append(
            "run_ended", outcome="finished" if finished else "failed", job_id=self._live.plan.job_id, why=decision.why
        )
        if decision.action is Action.END:
            child.kill_group()
            child.wait(10.0)
        return 0 if finished else failed_status(status)

    def _place(
        self, blame: Blame, decision: Decision, free: int | None, job: JobView | None, unfit: frozenset[str]
    ) -> Place:
        if decision.action is not Action.RESTART:
            return Place(How.QUEUE)
        now = self._live.ports.clock.now()
        room = self._live.here.room(free, job, now)
        excluded = [item.node for item in exclusions(self._live.ports.journal.events(), now)]
        lemons = self._live.ports.lemons() if self._live.plan.spares else ()
        return choose_place(blame, unfit | swap_out(excluded, unfit, room), room, {*lemons, *excluded})

    def _restart_here(self, child: ChildProcess, back: BringBack, place: Place) -> bool:
        """Make this allocation ready for the next attempt; False: only the queue is left."""
        here, journal = self._live.here, self._live.ports.journal
        journal.append("restart_intent", attempt=self._live.attempt, how=place.how.value, because=place.why)
        silent = self._live.silent()
        ready = back.clear(child, place.drop, [node for node in place.drop if node in silent])
        here.dropped([node for node in here.nodes if node not in back.nodes])
        if not ready or not set(place.nodes) <= set(here.nodes):
            journal.append("restart_refused", attempt=self._live.attempt, how=place.how.value)
            return False
        here.running_on = place.nodes
        self._live.lingering, self._live.lingers_until = back.lingering, back.lingers_until
        journal.append(
            "restarted",
            attempt=self._live.attempt,
            how=place.how.value,
            nodes=list(place.nodes),
            dropped=list(place.drop),
            lingering=list(back.lingering),
        )
        return True
