"""Incidents of jobs that ran without sovctl, from Slurm's accounting, and what it adds to those that ran with it. Pure.

Before sovctl was installed people resubmitted: a job that had run for a while and failed, and the same user's next job
of the same name in the same directory, are one run that was interrupted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from sovctl.ledger.incident import Chain, Incident, Outcome, RunAccount, Source, Span
from sovctl.ledger.stamps import Stamp
from sovctl.model.accounted import AccountedJob
from sovctl.model.blame import Culprit

WORTH_S = 600
"""A job that failed within ten minutes was being tried out; a try that lasted so long was worth something."""
RESUBMITTED_WITHIN_S = 86400
_SAME_SECOND_S = 5
_CULPRITS = {
    "NODE_FAIL": Culprit.HARDWARE,
    "BOOT_FAIL": Culprit.HARDWARE,
    "PREEMPTED": Culprit.PREEMPTED,
    "TIMEOUT": Culprit.TIME_LIMIT,
    "DEADLINE": Culprit.TIME_LIMIT,
    "FAILED": Culprit.UNKNOWN,
    "OUT_OF_MEMORY": Culprit.USER_CODE,
    "REQUEUED": Culprit.UNKNOWN,
}
"""By Slurm's state. Slurm tells no fault of a GPU from a mistake in the script, so what failed is unknown."""
_BY_SLURM = frozenset({"NODE_FAIL", "PREEMPTED", "REQUEUED", "BOOT_FAIL"})
"""After which Slurm brings the job back by itself, as a new record with the same number."""


def accounted_runs(jobs: Iterable[AccountedJob], supervised: Iterable[tuple[str, str]], now: float) -> list[RunAccount]:
    """`supervised`: cluster and number of jobs that have a record of their own. Counted are jobs with GPUs or on
    several nodes."""
    own = set(supervised)
    lines: dict[tuple[str, str, str, str], list[AccountedJob]] = defaultdict(list)
    for job in jobs:
        if (job.cluster, job.job_id) not in own and job.started and (job.gpus or len(job.nodes) > 1):
            lines[(job.cluster, job.user, job.name, job.work_dir)].append(job)
    return [
        _account(chain, now)
        for line in lines.values()
        for chain in _chains(sorted(line, key=lambda job: (job.submitted, job.started or 0)))
    ]


def with_queue_times(account: RunAccount, jobs: Sequence[AccountedJob]) -> RunAccount:
    """Eligible and allocated from the accounting, for records of versions that did not note them. `jobs`: of this
    run's number."""
    incidents = tuple(_placed(item, jobs) for item in account.incidents)
    gpus = max((job.gpus for job in jobs), default=0)
    spans = account.spans
    if gpus:
        incidents = tuple(item if item.gpus is not None else replace(item, gpus=gpus) for item in incidents)
        spans = tuple(item if item.gpus is not None else replace(item, gpus=gpus) for item in spans)
    return replace(account, incidents=incidents, spans=spans)


def _placed(item: Incident, jobs: Sequence[AccountedJob]) -> Incident:
    started = item.stamps.get(Stamp.STARTED)
    if item.how or started is None or Stamp.ALLOCATED in item.stamps:
        return item
    for job in jobs:
        if job.started and job.started - 1 <= started <= (job.ended or started):
            stamps = {**item.stamps, Stamp.ALLOCATED: float(job.started)}
            if job.eligible and job.eligible <= job.started:
                stamps[Stamp.ELIGIBLE] = float(job.eligible)
            # What the batch script did long after its job began is a restart inside the allocation.
            return replace(item, stamps=stamps) if job.started >= item.at - _SAME_SECOND_S else item
    return item


def _chains(line: Sequence[AccountedJob]) -> Iterable[list[AccountedJob]]:
    """Executions that belong together, oldest first."""
    chain: list[AccountedJob] = []
    for job in line:
        if chain and not _goes_on(chain[-1], job):
            yield chain
            chain = []
        chain.append(job)
    if chain:
        yield chain


def _goes_on(before: AccountedJob, job: AccountedJob) -> bool:
    if before.ended is None or job.submitted < before.ended - _SAME_SECOND_S:
        return before.job_id == job.job_id and before.ended is not None and (job.started or 0) >= before.ended
    if before.job_id == job.job_id:
        return before.state in _BY_SLURM or job.submitted - before.ended <= RESUBMITTED_WITHIN_S
    failed = before.state in _CULPRITS and before.state not in ("PREEMPTED", "REQUEUED")
    return failed and _ran_s(before) >= WORTH_S and job.submitted - before.ended <= RESUBMITTED_WITHIN_S


def _account(chain: Sequence[AccountedJob], now: float) -> RunAccount:
    first = chain[0]
    spans, incidents = [], []
    for job, later in zip(chain, (*chain[1:], None), strict=False):
        began, ended = float(job.started or 0), float(job.ended or now)
        incident = _incident(job, later, first)
        # Nobody knows what was saved, so all of it counts: the most it can have been.
        spans.append(Span(began, ended, len(job.nodes), job.gpus or None, max(0.0, ended - began)))
        if incident is not None:
            incidents.append(incident)
    last = chain[-1]
    name = f"{first.cluster}-{first.job_id}"
    over = float(last.ended or now)
    found = tuple(incidents)
    return RunAccount(
        name, first.job_id, first.user, first.name, Source.ACCOUNTING, tuple(spans), over, found, _tries(chain)
    )


def _incident(job: AccountedJob, later: AccountedJob | None, first: AccountedJob) -> Incident | None:
    culprit = _CULPRITS.get(job.state)
    if culprit is None or job.ended is None:
        return None
    if later is None and (job.state != "NODE_FAIL" or _ran_s(job) < 1):
        # A failure nobody came back to is a job that failed, and no interruption of a run.
        return None
    stamps: dict[Stamp, float] = {Stamp.DETECTED: float(job.ended)}
    if later is not None and later.started:
        if later.eligible and later.eligible >= job.ended:
            stamps[Stamp.ELIGIBLE] = float(later.eligible)
        stamps[Stamp.ALLOCATED] = stamps[Stamp.STARTED] = float(later.started)
    failed = f", failed node {job.failed_node}" if job.failed_node else ""
    outcome = Outcome.HELD
    if later is not None:
        outcome = Outcome.RECOVERED if later.job_id == job.job_id else Outcome.BY_HAND
    lost = None if later is None or not later.started else float(max(0, later.started - job.ended))
    return Incident(
        run=f"{first.cluster}-{first.job_id}",
        job_id=job.job_id,
        user=job.user,
        attempt=0,
        culprit=culprit,
        code=job.state,
        evidence=f"Slurm accounts the job as {job.state}{failed}",
        nodes=(job.failed_node,) if job.failed_node else (),
        stamps=stamps,
        outcome=outcome,
        source=Source.ACCOUNTING,
        lost_s=lost,
        gpus=job.gpus or None,
    )


def _tries(chain: Sequence[AccountedJob]) -> tuple[Chain, ...]:
    """A try was worth something when it completed or ran for ten minutes."""
    chains: list[Chain] = []
    open_: list[tuple[AccountedJob, AccountedJob]] = []
    for job, later in pairwise(chain):
        culprit = _CULPRITS.get(job.state, Culprit.NONE)
        if culprit in (Culprit.HARDWARE, Culprit.UNKNOWN, Culprit.USER_CODE):
            open_.append((job, later))
        if open_ and (later.state == "COMPLETED" or _ran_s(later) >= WORTH_S):
            chains.append(_try(open_, True))
            open_ = []
    if open_:
        chains.append(_try(open_, None if chain[-1].ended is None else False))
    return tuple(chains)


def _try(tries: Sequence[tuple[AccountedJob, AccountedJob]], success: bool | None) -> Chain:
    first = tries[0][0]
    gaps = tuple(float(max(0, (later.started or 0) - (job.ended or 0))) for job, later in tries)
    return Chain(float(first.ended or 0), _CULPRITS.get(first.state, Culprit.UNKNOWN), len(tries), success, gaps)


def _ran_s(job: AccountedJob) -> int:
    return max(0, (job.ended or 0) - job.started) if job.started and job.ended else 0


def by_job(jobs: Iterable[AccountedJob]) -> Mapping[tuple[str, str], list[AccountedJob]]:
    """Executions by cluster and number of their job."""
    found: dict[tuple[str, str], list[AccountedJob]] = defaultdict(list)
    for job in jobs:
        found[(job.cluster, job.job_id)].append(job)
    return found
