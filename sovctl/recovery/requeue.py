"""The next Slurm command that brings a job from where it is to where it should be. Pure.

Slurm's own requeue makes a job wait 121 s (cred_expire + 1): when the last node has ended its epilog, a begin time
that is not in the future is replaced by now + 121 s. A begin time a moment *ahead* is kept (slurmctld,
batch_requeue_fini, 22.05 to 26.05). So the job is requeued without a hold, given its exclusions and a begin time
just after its last epilog, all by its owner. Nothing in between leaves the job stuck: if the supervisor dies half-way,
Slurm restarts the job by itself 121 s later.

That begin time must also be followed soon by a pass of the scheduler, or the job waits for the next backfill (30 s).
On a quiet cluster the passes are our own: an update of a job asks for one, at the controller's next tick (every second)
but no sooner than batch_sched_delay (3 s) after the last one that was asked for. So the passes are counted (sdiag). If
the last one was a moment ago, the next comes late enough for the job to begin before it. If not, the next one comes
before the job could begin: it is awaited, and the final update brings another batch_sched_delay later.

An expedited job (--requeue=expedite, where the site lets jobs ask for it, 25.11 on) needs none of this: Slurm makes it
eligible with its last epilog, and the pass which that epilog asks for starts it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sovctl.model.job import JobView


class Step(StrEnum):
    """What to do next with the job."""

    REQUEUE = "requeue"
    SET_TERMS = "set-terms"
    """Write exclusions and begin time."""
    DONE = "done"
    GONE = "gone"
    """The job ended by somebody's will meanwhile; leave it alone."""
    STARTED = "started"
    """Slurm has started it again already."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Where the job should be: pending again, away from these nodes."""

    restarts_before: int
    """Restart count of the attempt that ended."""
    exclude: frozenset[str] | None
    """None: its exclusions and begin time are left as they are."""
    hold: bool = False


def next_step(job: JobView, goal: Goal) -> Step:
    """Look at the job and say what is still missing."""
    if ended_for_good(job, goal.restarts_before):
        return Step.GONE
    if job.restarts <= goal.restarts_before and job.running:
        return Step.REQUEUE
    if job.running:
        return Step.STARTED
    if goal.exclude is not None and frozenset(job.excluded) != goal.exclude:
        return Step.SET_TERMS
    return Step.DONE


def ended_for_good(job: JobView, restarts_before: int) -> str:
    """The state in which Slurm is ending the job for good ("CANCELLED", "TIMEOUT", ...); empty when it is not.

    While a job completes, Slurm up to 26.05 prints COMPLETING in place of its base state, for a cancelled job as for a
    requeued one. A requeue has raised the restart count; without that, the job is ending, and Reason may tell why.
    """
    if job.over:
        return job.state
    if job.state == "COMPLETING" and job.restarts <= restarts_before:
        if job.preempted_at and job.reason not in _ENDING:
            return "PREEMPTED"
        return _ENDING.get(job.reason, "CANCELLED")
    return ""


_ENDING = {"TimeLimit": "TIMEOUT", "NodeDown": "NODE_FAIL", "DeadLine": "DEADLINE", "OutOfMemory": "OUT_OF_MEMORY"}


SLURMD_LOOKS_S = (0.02, 0.07, 0.17, 0.67)
"""When slurmd looks whether a job it was told to end is gone, in seconds since it was told; ten times more a second
apart, then every 10 s until KillWait is over (_pause_for_job_completion, 22.05 to 26.05)."""
_SELDOM_AFTER_S = SLURMD_LOOKS_S[-1] + 10.0
_SELDOM_S = 10.0


KILL_WAIT_S = 30.0
"""slurm.conf(5), KillWait; slurmd takes one below 5 s for 5 s."""
_LEAST_KILL_WAIT_S = 5.0


LEAVE_S = 0.1
"""From the decision on a begin time to the end of the supervisor on a machine with nothing else to do: one update, one
line of the record."""


def exit_s(crowding: float) -> float:
    """The end of the supervisor alone, when the update and the record of it are done. `crowding`: how many times
    longer than alone a process takes."""
    return 0.5 * LEAVE_S * max(1.0, crowding)


def leave_s(orders_s: Sequence[float], crowding: float) -> float:
    """LEAVE_S here and now. `orders_s`: how long our last updates and records took."""
    return max(LEAVE_S * max(1.0, crowding), max(orders_s, default=0.0) + exit_s(crowding))


@dataclass(frozen=True, slots=True)
class Told:
    """When slurmd was told to end the job, in seconds since the epoch."""

    at: float
    unsure_s: float = 0.0
    """Or up to so much later."""


def told(sigterm_at: float | None, ran_at: float, now: float) -> Told:
    """When slurmd was told to end a job that somebody else requeued. `sigterm_at`: when the last SIGTERM came, which
    slurmd sends first of all, but others send too; `ran_at`: when the job was last seen to run on. (EndTime is
    Unknown for a job on its way back to pending, 22.05.)"""
    if sigterm_at is not None and ran_at - _SAME_MOMENT_S <= sigterm_at <= now:
        return Told(sigterm_at)
    since = min(max(ran_at, now - _LONGEST_UNSURE_S), now)
    return Told(since, now - since)


_SAME_MOMENT_S = 0.2
"""slurmctld may answer that a job runs on while slurmd hears already that it does not."""
_LONGEST_UNSURE_S = 60.0
"""No supervisor outlives KillWait for long."""


def earliest_begin(
    told: Told, now: float, epilog_s: float, leave_s: float = LEAVE_S, kill_wait_s: float = KILL_WAIT_S
) -> int:
    """The first whole second at which the job may begin, if the supervisor leaves `leave_s` after `now`: it must be
    ahead when the last epilog ends, or Slurm replaces it by one 121 s away."""
    gone = now + leave_s - told.at
    later = [_PART_S * number for number in range(int(told.unsure_s / _PART_S) + 1)]
    doubt = _PART_S if told.unsure_s else 0.0
    noticed = told.at + doubt + max(by + _slurmd_notices(gone - by, kill_wait_s) for by in later)
    return math.floor(noticed + _report_s(leave_s) + epilog_s) + 1


_PART_S = 0.05
"""So finely the time is gone through in which slurmd may have been told."""


def stays_until(told: Told, kill_wait_s: float, leave_s: float) -> float:
    """How long the supervisor can wait for others: slurmd kills it with the rest of the batch step at KillWait."""
    return told.at + max(kill_wait_s, _LEAST_KILL_WAIT_S) - max(_LEAST_LEAVE_S, 2.0 * leave_s)


_LEAST_LEAVE_S = 2.0


def late_begin(
    told: Told, now: float, kill_wait_s: float, epilog_s: float, *, ranks: bool, lingers_until: float
) -> int:
    """The begin time of a job whose nodes have not ended while the supervisor could wait. `ranks`: its script and so
    its ranks still run, until slurmd kills them at KillWait; `lingers_until`: when the last slurmstepd gives up that
    waits for a dead node. Where neither is known, a report was lost, or an epilog takes its time."""
    ends = [told.at + max(kill_wait_s, _LEAST_KILL_WAIT_S) + 1.0] if ranks else []
    ends += [lingers_until] if lingers_until > now else []
    if not ends:
        return math.floor(now) + LOST_REPORT_S
    return min(math.floor(max(now, *ends) + epilog_s + _LATE_MARGIN_S) + 1, math.floor(now) + PROVISIONAL_BEGIN_S)


LOST_REPORT_S = 70
"""A slurmstepd or slurmd whose report was lost tries again after 60 s (22.05 to 26.05)."""
_LATE_MARGIN_S = 4.0
LINGER_S = 60.0
"""So long a slurmstepd waits for the report of a dead node below it in the step's tree (REVERSE_TREE_CHILDREN_TIMEOUT,
22.05 to 26.05)."""


def _report_s(leave_s: float) -> float:
    """From slurmd's look to slurmctld's knowledge of it: 0.15 s, and where leaving takes longer, so does this (0.5 s
    at a load of 20 on two cores)."""
    return 0.15 + 0.5 * max(0.0, leave_s - LEAVE_S)


def begin_at(earliest: int, last_pass: float | None, sched_delay_s: float) -> int | None:
    """The begin time; None when a pass of the scheduler is due before and has to be awaited.

    `last_pass`: a time at which the last pass had not run yet, as late as it is known; None: long ago. The controller
    compares whole seconds, so the next pass comes no sooner than floor(last_pass) + sched_delay_s.
    """
    if last_pass is None or math.floor(last_pass) + sched_delay_s < earliest:
        return None
    return earliest


def _slurmd_notices(gone: float, kill_wait_s: float) -> float:
    """When the batch host's slurmd sees that the job is gone, if it is gone at `gone`; both in seconds since it was
    told to end it."""
    for look in SLURMD_LOOKS_S:
        if gone <= look:
            return look
    by_second = SLURMD_LOOKS_S[-1] + math.ceil(gone - SLURMD_LOOKS_S[-1])
    # At the end of KillWait it looks once more, kills what is left, and begins anew.
    last = max(kill_wait_s, _LEAST_KILL_WAIT_S) - 1.0 + SLURMD_LOOKS_S[-1]
    if not _SELDOM_AFTER_S < gone <= last:
        return by_second
    return min(last, _SELDOM_AFTER_S + _SELDOM_S * math.ceil((gone - _SELDOM_AFTER_S) / _SELDOM_S))


def sched_delay_s(scheduler_parameters: str) -> float:
    """batch_sched_delay of `SchedulerParameters`; 3 s unless the site set another (slurm.conf(5))."""
    delay = _seconds_in(scheduler_parameters, "batch_sched_delay")
    return 3.0 if delay is None else delay


def _seconds_in(parameters: str, name: str) -> float | None:
    """The whole number of `name=number` in a list of Slurm's."""
    for item in parameters.split(","):
        key, _, value = item.partition("=")
        if key.strip() == name and value.strip().isdigit():
            return float(value)
    return None


def kill_wait_s(settings: Mapping[str, str]) -> float:
    """KillWait as `scontrol show config` tells it ("30 sec"); 30 s where it does not."""
    number = settings.get("KillWait", "").partition(" ")[0]
    return float(number) if number.isdigit() else KILL_WAIT_S


def _major(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


_CRED_EXPIRE_S = 120.0
"""slurm.conf(5), AuthInfo."""


def own_delay_s(settings: Mapping[str, str]) -> float:
    """How long Slurm itself lets a requeued job wait after its last epilog, in seconds, when it is not expedited.

    `requeue_delay` of SchedulerParameters counts from 25.11; before, and without it, `cred_expire` of AuthInfo.
    """
    delay = None
    if _major(settings.get("SLURM_VERSION", "")) >= (25, 11):
        delay = _seconds_in(settings.get("SchedulerParameters", ""), "requeue_delay")
    if delay is None:
        delay = _seconds_in(settings.get("AuthInfo", ""), "cred_expire")
    return (_CRED_EXPIRE_S if delay is None else delay) + 1.0


PROVISIONAL_BEGIN_S = 90


def provisional_begin(now: float, own_delay: float) -> int | None:
    """The begin time to give before the epilogs are measured: if the supervisor is killed meanwhile, it still beats
    Slurm's own delay. None: Slurm's own is shorter."""
    return int(now) + PROVISIONAL_BEGIN_S if own_delay > PROVISIONAL_BEGIN_S else None


_CLOCKS_APART_S = 10.0


def longest_begin_s(settings: Mapping[str, str]) -> float:
    """How far ahead the begin time of a job can be that Slurm's own requeue, or the supervisor's, has set."""
    return max(own_delay_s(settings), PROVISIONAL_BEGIN_S) + _CLOCKS_APART_S


def locked_after_shrink(slurm_version: str, accounting: str) -> bool:
    """Whether a job that was shrunk takes no update until it has left its nodes.

    22.05 and 23.02 give a resized job a database index from slurmdbd and refuse updates until it is there; without
    slurmdbd it never comes (job_post_resize_acctg). 24.11 no longer does so.
    """
    return accounting != "accounting_storage/slurmdbd" and _major(slurm_version) < (24, 11)


def epilog_estimate_s(measured_s: Sequence[float], configured: bool, default_s: float) -> float:
    """How long the batch host's epilog will take: no program, no time; else like the other nodes', with a margin."""
    if not configured:
        return 0.0
    return max(default_s, 1.5 * max(measured_s, default=0.0))
