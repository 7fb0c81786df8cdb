"""One record of Slurm's accounting: a job, or one of several executions of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AccountedJob:
    """Times are seconds since the epoch; `None`: it has not happened."""

    job_id: str
    """Slurm's raw number."""
    cluster: str
    user: str
    uid: int
    state: str
    """The base state, such as COMPLETED, NODE_FAIL, REQUEUED."""
    submitted: int
    eligible: int | None
    started: int | None
    ended: int | None
    nodes: tuple[str, ...]
    gpus: int
    """0 also where the site does not account for them."""
    failed_node: str
    """Empty where Slurm does not say (before 23.02 it never does)."""
    name: str
    work_dir: str
