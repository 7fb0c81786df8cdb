"""A run that is over with a status other than 0 stays over, though Slurm takes that for a wish to be requeued."""

from __future__ import annotations

from run_fakes import NOW, Run

from sovctl.operations.supervisor.stay_ended import stay_ended


def ended(run: Run) -> bool:
    return stay_ended(run.job_id, run.slurm, run.clock)


def test_an_expedited_job_is_told_not_to_come_back() -> None:
    run = Run()
    run.job.expedited = True
    assert ended(run)
    assert not run.job.requeue


def test_other_jobs_keep_their_requeue() -> None:
    run = Run()
    assert ended(run)
    assert run.job.requeue


def test_a_job_that_is_on_its_way_back_is_left_alone() -> None:
    run = Run()
    run.job.expedited = True
    run.slurm.requeue(run.job_id)
    assert ended(run)
    assert run.job.requeue


def test_a_controller_that_is_away_is_asked_again() -> None:
    run = Run()
    run.job.expedited = True
    run.slurm.unreachable = lambda: run.clock.time < NOW + 20
    assert ended(run)
    assert not run.job.requeue


def test_a_controller_that_stays_away_is_given_up() -> None:
    run = Run()
    run.slurm.unreachable = lambda: True
    assert not ended(run)
    assert run.clock.time < NOW + 90


def test_a_job_slurm_does_not_know() -> None:
    run = Run()
    assert not stay_ended("4711", run.slurm, run.clock)
