"""Keeps a job ended that ends with a status other than 0.

Slurm requeues an expedited job (--requeue=expedite) that ends so: it starts again if an epilog fails, and is held if
none does. Which runs come back is the supervisor's to decide, so it switches Requeue off before it leaves for good;
then the job is FAILED with its status, as without expedite (_set_job_requeue_exit_value, 25.11 and 26.05).
"""

from __future__ import annotations

from sovctl.errors import SovctlError, TryLaterError
from sovctl.ports.common import Clock
from sovctl.ports.slurm import JobControl

_PATIENCE_S = 60.0
"""How long a controller that does not answer is asked again. If it never does, Slurm holds the job."""
_RETRY_S = 1.0


def stay_ended(job_id: str, jobs: JobControl, clock: Clock) -> bool:
    """Returns whether the job, if it ends now with any status, stays ended. Raises nothing."""
    deadline = clock.now() + _PATIENCE_S
    while True:
        try:
            job = jobs.job(job_id)
            if job.expedited and job.requeue and job.running:
                jobs.forbid_requeue(job_id)
            return True
        except TryLaterError:
            if clock.now() >= deadline:
                return False
            clock.sleep(_RETRY_S)
        except SovctlError:
            return False
