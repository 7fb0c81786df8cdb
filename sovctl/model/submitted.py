"""A run as its submitter remembers it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SubmittedRun:
    """Where the record of a submitted run is to be found."""

    job_id: str
    cluster: str
    """Empty: the cluster of this machine."""
    submitted: int
    """Seconds since the epoch; with cluster and job id it names the run."""
    run_root: str
    """Directory in which the run's own directory is made."""
    work_dir: str
    script: str
    """As it was named on the command line; empty: stdin."""
