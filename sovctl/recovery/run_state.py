"""How a run stands now: what its own record says, checked against what Slurm says about its job. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovctl.model.job import JobView
from sovctl.recovery.attempts import Event, whole
from sovctl.recovery.run_digest import short_of
from sovctl.recovery.slurm_hold import cause, held
from sovctl.recovery.story import Story, story_of

_SUBMIT_TAKES_S = 900
"""sbatch retries a busy controller for a while, so a job may be this much younger than its submission."""


@dataclass(frozen=True, slots=True)
class RunState:
    """One word and, where it needs one, a sentence."""

    word: str
    """waiting, running, restarting, held, finished, cancelled, ended, gone."""
    detail: str = ""
    slurm: str = ""
    """The state Slurm gives the job; empty: it does not know the job, or was not asked."""
    problem: str = ""
    """Why Slurm could not be asked; the word is then the record's alone."""

    @property
    def over(self) -> bool:
        return self.word in ("finished", "cancelled", "ended", "gone")


def run_state(events: Sequence[Event], job: JobView | None, *, problem: str = "") -> RunState:
    """`job`: None when Slurm does not know it (any more). `problem`: Slurm could not be asked."""
    return told_state(story_of(events), short_of(events), job, problem=problem)


def told_state(story: Story, short: str, job: JobView | None, *, problem: str = "") -> RunState:
    """The same, of a run whose events were read before; `short`: what it was short of when it was requeued."""
    if problem:
        return RunState(_RECORDED[story], problem=problem)
    if job is None:
        return _without_job(story)
    slurm = "+".join([job.state, *sorted(job.flags)])
    if job.over:
        return _after_end(story, job, slurm)
    if job.pending:
        return _pending(story, job, slurm, short)
    if story in (Story.RUNNING, Story.RECOVERED, Story.WAITING) and not job.completing:
        return RunState("running", slurm=slurm)
    return RunState("held" if story is Story.HELD else "restarting", slurm=slurm)


def is_job_of(record: Mapping[str, Any], events: Sequence[Event], job: JobView) -> bool:
    """Whether this is the run's job, and not a later one that got the same id; squeue says too little to tell."""
    if not job.extra:
        return True
    started = [event for event in events if event.get("kind") == "attempt_started"]
    if job.restarts < ((whole(started[-1], "restarts") if started else 0) or 0):
        return False
    submitted, seen = whole(record, "submitted"), job.extra.get("SubmitTime", "")
    if job.restarts or submitted is None or not seen.isdigit():
        return True
    return abs(int(seen) - submitted) < _SUBMIT_TAKES_S


def _without_job(story: Story) -> RunState:
    if story.over:
        return RunState(_RECORDED[story])
    return RunState("gone", "Slurm no longer knows its job, and the record has no end")


def _after_end(story: Story, job: JobView, slurm: str) -> RunState:
    if story.over:
        return RunState(_RECORDED[story], slurm=slurm)
    # Cancelled while it waited: no supervisor ran that could have written it down.
    word = {"CANCELLED": "cancelled", "COMPLETED": "finished"}.get(job.state, "ended")
    when = {Story.HELD: "while it was held", Story.WAITING: "before it started"}.get(story, "")
    if job.state == "CANCELLED" and when:
        return RunState(word, when, slurm)
    return RunState(word, f"Slurm says {job.state}; the record has no end", slurm)


def _pending(story: Story, job: JobView, slurm: str, short: str) -> RunState:
    if held(job):
        return RunState("held", ": ".join(filter(None, (job.reason, cause(job)))), slurm)
    detail = "; ".join(filter(None, (job.reason, short and f"when it was requeued, {short}")))
    return RunState("waiting" if story is Story.WAITING else "restarting", detail, slurm)


_RECORDED = {
    Story.WAITING: "waiting",
    Story.RUNNING: "running",
    Story.RECOVERED: "running",
    Story.RECOVERING: "restarting",
    Story.HELD: "held",
    Story.FINISHED: "finished",
    Story.CANCELLED: "cancelled",
    Story.ENDED: "ended",
}
