"""Spares by preemption: a preempted job that does not leave within its grace time is ended, where a run waits for its
nodes.

Slurm looks every 30 s whether a grace time is over (a pass of the scheduler does not: for KillWait and MessageTimeout
it preempts nothing more for the same job, 22.05), and then lets the job live for KillWait (30 s) more. Here it is
requeued the second its grace time is over, as Slurm would, and the watchers of its nodes are asked to end what is left
there: slurmctld signals no step of a job that is on its way out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sovctl.errors import JobNotFound, SlurmUnreachable, SovctlError
from sovctl.model.job import JobView
from sovctl.model.pool import PoolJob
from sovctl.operations.watch.site import Site
from sovctl.operations.watch.voice import Voice
from sovctl.ports.common import Clock

_ROUNDED_S = 1
"""Slurm counts a grace time in whole seconds, from the one in which it began."""
_ASK_AGAIN_S = 4.0
"""Watchers take a request for something old after 10 s."""
_GIVE_UP_S = 120.0
"""By then KillWait is over even where Slurm itself had to look, and what is seen may be another execution."""


@dataclass(frozen=True, slots=True)
class _Told:
    """A job that was told to leave for a run."""

    run: str
    preempted_at: int
    over_at: float
    """From when on it may be ended though Slurm came first and requeued it: its record then tells no times any more."""


@dataclass(slots=True)
class _Victim:
    """A preempted job that is past its grace time."""

    run: str
    """The run that waits for its nodes."""
    preempted_at: int
    since: float
    asked_at: float = -1e9
    not_before: float = -1e9
    """Slurm would not requeue it."""


@dataclass(slots=True)
class PreemptedJobs:
    """`look` is one pass."""

    site: Site
    clock: Clock
    voice: Voice
    act: bool
    qos: str
    """Of preemptible jobs."""
    ask_to_end: Callable[[str, Sequence[str]], None]
    """Have the watchers of these nodes end what runs there of a job, by Slurm's raw id."""
    grace_s: Callable[[str], int | None] = lambda _qos: None
    """GraceTime of a QOS; None: not known."""
    _told: dict[str, _Told] = field(default_factory=dict)
    _victims: dict[str, _Victim] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        """Something is on its way out."""
        return bool(self._told or self._victims)

    def look(self, waiting: Sequence[str]) -> None:
        """`waiting`: runs that lost their nodes and wait for others. Raises SlurmUnreachable."""
        if waiting and self.qos:
            self._find(waiting)
        for job_id, told in list(self._told.items()):
            self._await_end(job_id, told)
        for job_id, victim in list(self._victims.items()):
            self._follow(job_id, victim)

    def resume(self, event: Mapping[str, Any]) -> None:
        """Go on with one from its record, after the watch was killed."""
        said, at = event.get("preempted_at"), event.get("at")
        if isinstance(said, int) and isinstance(at, int | float):
            job_id = str(event.get("job_id", ""))
            self._told.pop(job_id, None)
            self._victims[job_id] = _Victim(str(event.get("run", "")), said, float(at))

    def record(self) -> dict[str, Any]:
        """For the memory file: who was told to leave. Once Slurm has requeued such a job nobody could see that."""
        told = {
            job_id: [item.run, item.preempted_at, None if math.isinf(item.over_at) else item.over_at]
            for job_id, item in self._told.items()
        }
        return {"told": told}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Go on from a record; what is no such thing in it is left out."""
        told = record.get("told")
        for job_id, item in told.items() if isinstance(told, dict) else ():
            match item:
                case [str(run), int(preempted_at), (int() | float() | None) as over_at]:
                    self._told[str(job_id)] = _Told(run, preempted_at, math.inf if over_at is None else over_at)

    def _find(self, waiting: Sequence[str]) -> None:
        known = {*self._told, *self._victims}
        preempted = [job_id for job_id in self.site.preempted(self.qos) if job_id not in known]
        first = first_in_line(self.site.pool_jobs(), waiting, self.qos) if preempted else ""
        run = self._job(first) if first else None
        for job_id in preempted if run is not None and run.pending else ():
            job = self._job(job_id)
            if job is not None and run is not None and job.preempted_at is not None and for_run(job, run):
                grace_s = self.grace_s(self.qos)
                over_at = math.inf if grace_s is None else job.preempted_at + grace_s + _ROUNDED_S
                self._told[job_id] = _Told(run.job_id, job.preempted_at, over_at)

    def _await_end(self, job_id: str, told: _Told) -> None:
        """Begin with it when its grace time is over; nothing to do where it has left, or the run has its nodes."""
        job, run, now = self._job(job_id), self._job(told.run), self.clock.now()
        runs_on = job is not None and job.running and job.preempted_at == told.preempted_at
        if job is None or run is None or not run.pending or not (runs_on or job.completing):
            del self._told[job_id]
        elif past_grace(job, now) if runs_on else now >= told.over_at:
            self._begin(job, told)

    def _begin(self, job: JobView, told: _Told) -> None:
        words = f"job {job.job_id} on {', '.join(job.nodes)}, preempted and past its grace time: run {told.run} waits"
        if not self.act:
            self.voice.tell(f"observe:end:{job.job_id}:{told.preempted_at}", f"would end {words}")
            return
        del self._told[job.job_id]
        self.voice.write(
            "end-intended", job_id=job.job_id, run=told.run, nodes=list(job.nodes), preempted_at=told.preempted_at
        )
        self._victims[job.job_id] = _Victim(told.run, told.preempted_at, self.clock.now())
        self.voice.say(f"ending {words}")

    def _follow(self, job_id: str, victim: _Victim) -> None:
        now = self.clock.now()
        job = self._job(job_id)
        if job is not None and job.running and job.preempted_at == victim.preempted_at:
            job = self._requeue(job, victim)
        if job is None or now - victim.since > _GIVE_UP_S:
            self._finish(job_id, "gone" if job is None else str(job.state))
        elif job.completing:
            if now - victim.asked_at >= _ASK_AGAIN_S:
                victim.asked_at = now
                self.ask_to_end(job.extra.get("JobId", job_id), job.nodes)
                self.voice.write("end-asked", job_id=job_id, nodes=list(job.nodes))
        elif not job.running or job.preempted_at != victim.preempted_at:
            self._finish(job_id, str(job.state))

    def _requeue(self, job: JobView, victim: _Victim) -> JobView | None:
        """Its record afterwards; where Slurm would not, it is left to Slurm's own preemption."""
        if self.clock.now() < victim.not_before:
            return job
        try:
            self.site.requeue(job.job_id)
        except SlurmUnreachable:
            raise
        except SovctlError as error:
            victim.not_before = self.clock.now() + _GIVE_UP_S
            self.voice.write("end-failed", job_id=job.job_id, error=error.message)
            self.voice.say(f"could not requeue job {job.job_id}, which is past its grace time: {error.message}")
        return self._job(job.job_id)

    def _finish(self, job_id: str, state: str) -> None:
        run = self._victims.pop(job_id).run
        self.voice.write("end-done", job_id=job_id, state=state)
        self.voice.say(f"job {job_id} has left its nodes to run {run}; it is {state} now")

    def _job(self, job_id: str) -> JobView | None:
        try:
            return self.site.job(job_id)
        except JobNotFound:
            return None


def first_in_line(jobs: Sequence[PoolJob], waiting: Sequence[str], qos: str) -> str:
    """The run that Slurm is freeing nodes for; empty: it may be for somebody else, as Slurm does not say for whom.
    Whoever is first in a partition waits for `Resources`; preemptible jobs preempt nobody."""
    first = [job for job in jobs if job.state == "PENDING" and job.reason == "Resources" and job.qos != qos]
    for run in first:
        others = [job for job in first if job is not run and set(job.partitions) & set(run.partitions)]
        if run.job_id in waiting and not others:
            return run.job_id
    return ""


def past_grace(job: JobView, now: float) -> bool:
    """Whether a job that runs was told to leave, and its time for that is over: Slurm then makes its end that of the
    grace time (22.05 to 26.05)."""
    told = job.running and job.preempted_at is not None
    return told and job.ends_at is not None and job.ends_at + _ROUNDED_S <= now


def for_run(job: JobView, run: JobView) -> bool:
    """Whether it was preempted while the run waited, on a node that the run may use."""
    since = run.submitted_at
    told_meanwhile = since is not None and job.preempted_at is not None and job.preempted_at >= since
    return told_meanwhile and not set(job.nodes) <= set(run.excluded)
