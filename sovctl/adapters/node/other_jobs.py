"""Whether anybody's job is on this node: the marks of the prolog, and Slurm's own step daemons."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sovctl.adapters.node.procfs import slurm_jobs

_LOOK_S = 1.0
"""Between two looks at the processes; the marks are looked at each time."""


class OtherJobs:
    """Says in words whose job is here; empty: nobody's. Cheap enough to be asked many times a second."""

    def __init__(self, marks: Callable[[], Sequence[str]], host_root: str = "/", own: str = "") -> None:
        """`own`: the job that just ended and does not count."""
        self._marks = marks
        self._root = host_root.rstrip("/")
        self._own = own
        self._seen: list[str] = []
        self._looked_at = -_LOOK_S

    def __call__(self) -> str:
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._seen = sorted(slurm_jobs(self._root))
        jobs = [job for job in dict.fromkeys((*self._marks(), *self._seen)) if job != self._own]
        return f"job {', '.join(jobs[:3])} is here" if jobs else ""
