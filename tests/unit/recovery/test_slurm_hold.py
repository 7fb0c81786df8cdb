"""Holds of Slurm's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sovctl.model.job import JobView
from sovctl.recovery.run_state import run_state
from sovctl.recovery.slurm_hold import cause, held

JOB = JobView("7", "t", "u", 1, "PENDING", priority=0, extra={"JobId": "7"})


@pytest.mark.parametrize(
    ("reason", "flags", "says"),
    [
        ("launch_failed_requeued_held", (), "Slurm could not launch it"),
        ("launch failed requeued held", (), "sinfo -R"),
        ("JobHoldMaxRequeue", (), "MaxBatchRequeue"),
        ("JobHeldUser", ("SPECIAL_EXIT",), "RequeueExitHold"),
        ("job_requeued_in_special_exit_state", (), "RequeueExitHold"),
        ("Reservation maint was deleted", ("RESV_DEL_HOLD",), "the reservation it waited for was deleted"),
        ("JobHeldAdmin", (), "an administrator holds it"),
    ],
)
def test_slurms_own_holds_are_explained_with_what_to_type(reason: str, flags: tuple[str, ...], says: str) -> None:
    job = replace(JOB, reason=reason, flags=frozenset(flags))
    assert held(job)
    assert says in cause(job)
    assert cause(job).endswith("scontrol release 7" if "Admin" in reason else "sovctl run resume 7")
    # As squeue tells it: no priority, nothing extra.
    assert held(replace(job, priority=1, extra={}))
    state = run_state([], job)
    assert (state.word, state.detail) == ("held", f"{reason}: {cause(job)}")


@pytest.mark.parametrize("reason", ["JobHeldUser", "job_requeued_in_held_state"])
def test_a_persons_hold_and_our_own_need_no_explanation(reason: str) -> None:
    assert held(replace(JOB, reason=reason))
    assert cause(replace(JOB, reason=reason)) == ""
    assert run_state([], replace(JOB, reason=reason)).detail == reason


@pytest.mark.parametrize("reason", ["Resources", "BeginTime", "Priority", ""])
def test_a_job_that_waits_is_not_held(reason: str) -> None:
    job = replace(JOB, priority=4000, reason=reason)
    assert not held(job)
    assert cause(job) == ""
    assert not held(replace(JOB, state="RUNNING", reason="launch_failed_requeued_held"))
