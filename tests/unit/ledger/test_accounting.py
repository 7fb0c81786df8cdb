"""Incidents of jobs that ran without sovctl."""

from __future__ import annotations

from dataclasses import replace

import pytest
from event_builders import RECORD, T0, recovered

from sovctl.ledger.accounting import accounted_runs, with_queue_times
from sovctl.ledger.incident import Outcome, Source
from sovctl.ledger.runs import run_account
from sovctl.ledger.stamps import Stamp
from sovctl.model.accounted import AccountedJob
from sovctl.model.blame import Culprit

B = int(T0)
JOB = AccountedJob(
    "7", "lab", "alice", 1000, "COMPLETED", B, B, B + 1, B + 5000, ("n1", "n2"), 16, "", "train", "/home/alice"
)


def execution(state: str, start: int, end: int | None, job_id: str = "7", **fields: object) -> AccountedJob:
    times = {"submitted": B + start - 10, "eligible": B + start - 5, "started": B + start}
    ended = None if end is None else B + end
    return replace(JOB, job_id=job_id, state=state, ended=ended, **{**times, **fields})  # type: ignore[arg-type]


def test_slurm_brought_it_back() -> None:
    jobs = [execution("NODE_FAIL", 0, 5000, failed_node="n2"), execution("COMPLETED", 5130, 9000, submitted=B + 5000)]
    (found,) = accounted_runs(jobs, (), B + 9999)
    (item,) = found.incidents
    assert (item.culprit, item.nodes, item.outcome) == (Culprit.HARDWARE, ("n2",), Outcome.RECOVERED)
    assert item.stamps == {
        Stamp.DETECTED: B + 5000.0,
        Stamp.ELIGIBLE: B + 5125.0,
        Stamp.ALLOCATED: B + 5130.0,
        Stamp.STARTED: B + 5130.0,
    }
    assert (item.lost_s, item.gpu_seconds_lost) == (130.0, 130.0 * 16)
    assert [(chain.retries, chain.success) for chain in found.chains] == [(1, True)]
    assert found.source is Source.ACCOUNTING


def test_a_person_resubmitted() -> None:
    jobs = [execution("FAILED", 0, 4000), execution("FAILED", 6000, 6030, "8"), execution("RUNNING", 7000, None, "9")]
    runs = accounted_runs(jobs, (), B + 9999)
    assert [[item.outcome for item in run.incidents] for run in runs] == [[Outcome.BY_HAND], []]
    assert runs[0].incidents[0].seconds_to(Stamp.STARTED) == 2000


@pytest.mark.parametrize(
    "other",
    [
        {"name": "another"},
        {"user": "bob"},
        {"work_dir": "/home/alice/other"},
        {"submitted": B + 4000 + 100_000, "started": B + 4000 + 100_010},
    ],
)
def test_another_job_is_not_taken_for_the_next_try(other: dict[str, object]) -> None:
    jobs = [execution("FAILED", 0, 4000), replace(execution("COMPLETED", 6000, 9000, "8"), **other)]  # type: ignore[arg-type]
    assert all(not run.incidents for run in accounted_runs(jobs, (), B + 300_000))


def test_trying_out_and_small_jobs_and_supervised_ones_do_not_count() -> None:
    tried = [execution("FAILED", 0, 60), execution("FAILED", 70, 100, "8"), execution("COMPLETED", 200, 900, "9")]
    assert all(not run.incidents for run in accounted_runs(tried, (), B + 9999))
    small = replace(execution("NODE_FAIL", 0, 5000), nodes=("n1",), gpus=0)
    assert accounted_runs([small], (), B + 9999) == []
    assert accounted_runs([execution("NODE_FAIL", 0, 5000)], [("lab", "7")], B + 9999) == []


def test_a_node_that_died_counts_also_when_nobody_came_back() -> None:
    (run,) = accounted_runs([execution("NODE_FAIL", 0, 5000)], (), B + 9999)
    assert [item.outcome for item in run.incidents] == [Outcome.HELD]


def test_an_old_record_gets_its_queue_times() -> None:
    found = run_account({**RECORD, "run_id": "lab-34-1"}, recovered().events, T0 + 500)
    jobs = [execution("REQUEUED", -5, 84, "34"), execution("RUNNING", 86, None, "34", eligible=B + 85)]
    (item,) = with_queue_times(found, jobs).incidents
    assert (item.stamps[Stamp.ELIGIBLE], item.stamps[Stamp.ALLOCATED]) == (B + 85, B + 86)
    assert item.gpus == 16
    assert with_queue_times(found, ()).incidents == found.incidents
