"""How far a report of the site believes what users' runs write of themselves: as far as Slurm's accounting bears it
out. Their records are files of theirs, and may say anything. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from sovctl.ledger.incident import Incident, RunAccount
from sovctl.model.accounted import AccountedJob

MOST_INCIDENTS = 2000
"""Of one run. One that is interrupted more often in a month has been held long before."""
_SKEW_S = 3600.0
"""Clocks of nodes may be off by so much, and what is judged after the end of a job is written then."""
_MOST_STEPS_A_SECOND = 1000.0
_LONGEST = 500
_TASK = re.compile(r"[0-9]{1,20}_[0-9]{1,10}")


def doubt(account: RunAccount, jobs: Sequence[AccountedJob], since: float, now: float) -> str:
    """Why a record is not believed, in words; empty: nothing in it that counts from `since` on contradicts Slurm.

    `jobs`: executions of this number of the record's owner, those that were there after `since`; none: its job has just
    come, or there is no accounting.
    """
    begin = min((job.submitted for job in jobs), default=since) - _SKEW_S
    end = max((job.ended or now for job in jobs), default=now) + _SKEW_S
    length = end - begin
    spans = [span for span in account.spans if span.ended_at > since]
    incidents = [item for item in account.incidents if item.at > since]
    gpus, nodes = max((job.gpus for job in jobs), default=0), max((len(job.nodes) for job in jobs), default=0)
    told_gpus = max((span.gpus or 0 for span in spans), default=0)
    told_nodes = max((span.nodes for span in spans), default=0)
    times = [*((span.began_at, span.ended_at) for span in spans), *((item.at, item.at) for item in incidents)]
    if len(incidents) > MOST_INCIDENTS:
        return f"it tells of {len(incidents)} interruptions"
    if jobs and any(first < begin or last > end for first, last in times):
        return "it tells of times when its job was not there"
    if gpus and told_gpus > gpus:
        return f"it tells of {told_gpus} GPUs, Slurm gave it {gpus}"
    if nodes and told_nodes > nodes:
        return f"it tells of {told_nodes} nodes, Slurm gave it {nodes}"
    if sum(min(span.ended_at, end) - max(span.began_at, begin) for span in spans) > length:
        return "its attempts ran at the same time"
    steps = max((item.steps_lost or 0 for item in incidents), default=0)
    if steps > length * _MOST_STEPS_A_SECOND or any((item.lost_s or 0.0) > length for item in incidents):
        return "it tells of more steps or seconds lost than there was time for"
    return ""


def borne_out(account: RunAccount, jobs: Sequence[AccountedJob], run: str) -> RunAccount:
    """Under the names that Slurm and the directory give it; nodes that it blames are nodes it had."""
    user = jobs[0].user if jobs else account.user
    # An array's task is known by another number than Slurm's own.
    number = run.rpartition("-")[0].rpartition("-")[2]
    job_id = account.job_id if _TASK.fullmatch(account.job_id) else number
    had = {node for job in jobs for node in job.nodes}
    incidents = tuple(_borne_out(replace(item, run=run, user=user, job_id=job_id), had) for item in account.incidents)
    return replace(account, run=run, user=user, job_id=job_id, name=account.name[:_LONGEST], incidents=incidents)


def _borne_out(item: Incident, had: set[str]) -> Incident:
    nodes = tuple(node for node in item.nodes if node in had) if had else item.nodes
    return replace(item, nodes=nodes, code=item.code[:_LONGEST], evidence=item.evidence[:_LONGEST])
