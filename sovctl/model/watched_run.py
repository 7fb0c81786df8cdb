"""A run of some user, as the site's watch knows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """Where its record is, and whose it is."""

    job_id: str
    """Names just this job, also within an array."""
    raw_job_id: str
    uid: int
    gid: int
    run_dir: str
