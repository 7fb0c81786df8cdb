"""Nodes that reservations keep from a job. Pure.

Slurm starts no job where it would still run when somebody else's reservation begins, maintenance above all. A node's
own state tells of reservations that have begun only; a run that gives its nodes back for others, or for more of them,
an hour before a maintenance gets none until that is over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from sovctl.model.job import JobView
from sovctl.model.reservation import Reservation


def kept_from(job: JobView, reservations: Iterable[Reservation], now: float) -> frozenset[str]:
    """Nodes on which Slurm would not start this job now, for its whole time limit (or the least its user takes)."""
    over_at = math.inf if job.limit_s is None else now + job.limit_s
    named = frozenset(job.extra.get("Reservation", "").split(","))
    own: set[str] = set()
    kept: set[str] = set()
    taken: set[str] = set()
    for one in reservations:
        if one.name in named:
            own |= set(one.nodes)
        elif one.begins_at < over_at and (one.ends_at is None or one.ends_at > now):
            # job_test_resv of slurmctld, 22.05 to 26.05.
            (taken if one.over_others else kept).update(one.nodes)
    return frozenset(kept - own | taken)
