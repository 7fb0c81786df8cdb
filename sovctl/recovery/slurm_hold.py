"""Why a job is held that nobody held: holds of Slurm's own, told apart from a person's and from sovctl's. Pure."""

from __future__ import annotations

from sovctl.model.job import JobView


def held(job: JobView) -> bool:
    """Whether a person has to release it; squeue gives no priority, so its reason and its flags count as well."""
    if not job.pending:
        return False
    said = any(word in job.reason.lower() for word in ("held", "jobhold", "special_exit")) or bool(_HELD & job.flags)
    return said or _reservation_deleted(job) or (job.held and bool(job.extra))


def launch_failed(job: JobView) -> bool:
    """Whether Slurm holds it because it could not launch it (`launch_failed_requeued_held`)."""
    return held(job) and "launch" in job.reason.lower()


def cause(job: JobView) -> str:
    """Who holds a held job and what to type, in one sentence; empty: a person or sovctl does, and knows why."""
    if not held(job):
        return ""
    reason = job.reason.lower()
    if "SPECIAL_EXIT" in job.flags or "special_exit" in reason:
        why = "its script ended with a status that the site lists in RequeueExitHold (slurm.conf): mend it"
    elif _reservation_deleted(job):
        why = "the reservation it waited for was deleted, and let go it may start outside: see its nodes and partition"
    elif launch_failed(job):
        why = "Slurm could not launch it, as after a prolog that failed and drained its node: see sinfo -R"
    elif "jobholdmaxrequeue" in reason:
        why = "its launch failed as often as MaxBatchRequeue allows (5 by default): see sinfo -R for its nodes"
    elif "jobheldadmin" in reason:
        return f"an administrator holds it and alone can let it go: scontrol release {job.job_id}"
    else:
        return ""
    return f"{why}; then type: sovctl run resume {job.job_id}"


def _reservation_deleted(job: JobView) -> bool:
    """Slurm leaves the flag when the job is released (seen on 22.05; no release to 26.05 clears it), and takes the
    reason away."""
    return "RESV_DEL_HOLD" in job.flags and "deleted" in job.reason.lower()


_HELD = frozenset({"REQUEUE_HOLD", "SPECIAL_EXIT"})
