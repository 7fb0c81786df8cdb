"""Takes a run over from a supervisor that is gone: killed in this execution of the job, or lost with its node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sovctl.errors import SovctlError
from sovctl.model.blame import Blame, Culprit
from sovctl.model.job_evidence import fault_words
from sovctl.model.progress import FINISHED
from sovctl.operations.supervisor.live_run import LiveRun, end_of, last_attempt, lingering_steps
from sovctl.operations.supervisor.recover import Recovery, failed_status
from sovctl.operations.supervisor.settle import Question, settle
from sovctl.operations.supervisor.site_words import SiteWords
from sovctl.recovery.blame import NodeEvidence, ScriptEnd, blame_end, blame_nodes
from sovctl.recovery.decide import Action, Decision, past_stops, requeued_too_often
from sovctl.recovery.exclusion import exclusions

_PATIENCE_S, _QUIET_S = 8.0, 1.5
"""How long a fault gets to show that may have come with the supervisor's death, with and without a silent node."""
_STEPS_ON_S = 3.0
"""Ranks write at most once a second: shorter gaps mean nothing."""


class TakeOver:
    """What the journal says was begun is carried on."""

    def __init__(self, live: LiveRun, recovery: Recovery) -> None:
        self._live = live
        self._recovery = recovery

    def died_here(self, events: Sequence[Mapping[str, Any]]) -> bool:
        """Whether an earlier supervisor of this very execution of the job was killed."""
        last = last_attempt(events)
        return last is not None and (last.get("job_id"), last.get("restarts")) == (
            self._live.plan.job_id,
            self._live.plan.restarts,
        )

    def go_on(self, events: Sequence[Mapping[str, Any]]) -> int | None:
        """Go on where the killed supervisor was: every effect of a recovery can be repeated. None: start the script
        again in this allocation."""
        last = last_attempt(events)
        assert last is not None
        self._live.attempt = last["attempt"]
        self._live.watch.job = job = self._live.ask_job()
        here = self._live.here
        if job is not None and job.running:
            here.dropped([node for node in here.nodes if node not in job.nodes])
        here.running_on = tuple(node for node in last.get("nodes", ()) if node in here.nodes)
        self._live.lingering, self._live.lingers_until = lingering_steps(events)
        self._live.ports.say("its supervisor was killed; a new one takes over")
        self._live.ports.journal.append("taken_over", attempt=self._live.attempt)
        ended = end_of(events, self._live.attempt)
        if ended is None:
            return self._recovery.recover(self._live.leftover(), *self._unseen_end(last, events))
        return self._finish_recovery(ended)

    def _unseen_end(self, last: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> tuple[Blame, int | None]:
        """How the script ended, if that was still written down; else only that nobody watched it.

        What killed the supervisor may have killed a node as well, and that one may have left the job by now."""
        live = self._live
        said = [event for event in events if event["kind"] == "script_ended" and event["attempt"] == live.attempt]
        end = _end_as_written(said[-1]) if said else None

        def judge(nodes: Sequence[NodeEvidence], links: Mapping[str, str]) -> Blame:
            if end is not None:
                return blame_end(end, nodes, links=links)
            return blame_nodes(nodes) or Blame(
                Culprit.UNKNOWN,
                evidence="the supervisor was killed while the script ran",
                signature="supervisor killed",
            )

        nodes = tuple(str(node) for node in last.get("nodes", ()))
        began = float(last.get("at", 0.0))
        if end is not None and end.status in (0, FINISHED):
            return judge((), {}), end.status

        def ranks_silent() -> bool:
            return end is not None or not self._steps_on()

        # Nobody is asked through a step of the job: those are about to be killed, and slurmstepd can stand a minute
        # over a task that is killed while it starts.
        question = Question(began, (), nodes, judge, _PATIENCE_S, _QUIET_S, ranks_silent)
        return self._with_step(settle(live, question)), end.status if end is not None else None

    def _steps_on(self) -> bool:
        """Whether rank 0 does steps without anybody watching."""
        word = self._live.ports.files.progress(0)
        if word is None or word.attempt != self._live.attempt or word.step_at is None:
            return False
        return self._live.ports.clock.now() - word.step_at < max(_STEPS_ON_S, 2.0 * (word.step_seconds or 0.0))

    def _with_step(self, blame: Blame) -> Blame:
        """With the last step that rank 0 told of."""
        word = self._live.ports.files.progress(0)
        return replace(blame, step=word.step) if word is not None and word.attempt == self._live.attempt else blame

    def _finish_recovery(self, ended: Mapping[str, Any]) -> int | None:
        """The decision was written down; carry it out."""
        culprit = past_stops([ended])[0].culprit
        blame = Blame(culprit, tuple(ended.get("blamed", ())), str(ended.get("evidence", "")))
        decision = Decision(
            Action(ended["action"]), str(ended.get("why", "")), blame.nodes, tuple(ended.get("suspects", ()))
        )
        over = [event for event in self._live.ports.journal.events()[-3:] if event["kind"] == "run_ended"]
        if decision.action in (Action.FINISH, Action.END) and over:
            return failed_status(ended.get("exit_status")) if over[-1].get("outcome") == "failed" else 0
        return self._recovery.act(self._live.leftover(), blame, decision, ended.get("exit_status"))

    def read_evidence(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Keep away from nodes whose epilog found them at fault after the last attempt, though nobody saw it then, and
        take in what the site found on those that were suspected."""
        SiteWords(self._live).look()
        last = last_attempt(events)
        if last is None:
            return
        known = {item.node for item in exclusions(events, self._live.ports.clock.now())}
        for node, words in self._at_fault(last).items():
            if node not in known:
                self._live.ports.journal.append("node_evidence", attempt=last["attempt"], node=node, evidence=words)

    def _at_fault(self, last: Mapping[str, Any]) -> dict[str, str]:
        """Nodes of an attempt, with what their epilog said against them."""
        since, names = float(last.get("at", 0.0)), set(last.get("nodes", ()))
        return {
            item.node: fault_words(item)
            for item in self._live.ports.evidence(self._live.raw_job_id)
            if item.node_at_fault and item.node in names and item.ended_at >= since
        }

    def close_lost_attempt(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Write the end of an attempt whose supervisor died with its node, so that none is lost in the record."""
        last = last_attempt(events)
        if last is None or end_of(events, last["attempt"]) is not None:
            return
        blame, moved = self._blame_lost(last), None
        word = self._live.ports.files.progress(0)
        if word is not None and word.attempt == last["attempt"]:
            blame, moved = replace(blame, step=word.step), word.step_at
        decision = Decision(Action.REQUEUE, "Slurm requeued the job")
        self._live.append_end(last["attempt"], blame, decision, happened=moved)

    def too_often(self, events: Sequence[Mapping[str, Any]]) -> str:
        """Why this execution is to be held before it starts the script: a stop that Slurm answered with a requeue of
        its own has not been counted yet."""
        live = self._live
        if not requeued_too_often(events, live.plan.limits):
            return ""
        # Only now is it worth asking how many nodes could take the place of some.
        free = live.free_elsewhere((), live.watch.job or live.ask_job())
        return requeued_too_often(events, live.plan.limits, free or 0)

    def _blame_lost(self, last: Mapping[str, Any]) -> Blame:
        names = [str(name) for name in last.get("nodes", ())]
        host = str(last.get("batch_host", ""))
        try:
            views = self._live.ports.cluster.nodes(names)
        except SovctlError as error:
            return Blame(Culprit.UNKNOWN, evidence=f"the supervisor on {host} was lost ({error.message})")
        silent = self._live.ports.ping.silent(views)
        said = self._at_fault(last)
        blame = blame_nodes(
            [
                NodeEvidence(view, view.name in silent, True, (said[view.name],) if view.name in said else ())
                for view in views
            ]
        )
        job = self._live.ask_job()
        if blame is None and job is not None and job.preempted_at:
            return Blame(Culprit.PREEMPTED, evidence="the job was preempted")
        return blame or Blame(
            Culprit.UNKNOWN,
            evidence=f"the attempt ended without a word of its supervisor on {host}; no node shows a fault",
        )


def _end_as_written(event: Mapping[str, Any]) -> ScriptEnd:
    """How the script ended, from its `script_ended`."""
    rank = event.get("rank")
    return ScriptEnd(
        int(event["exit_status"]),
        str(event.get("signature", "")),
        kind=str(event.get("crash", "")),
        rank=rank if isinstance(rank, int) else None,
        node=str(event.get("node", "")),
    )
