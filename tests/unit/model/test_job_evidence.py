"""What the epilog leaves for blame survives its way through JSON, and nothing else passes for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.burn_in import BurnInOutcome, BurnInResult, Piece
from sovctl.model.job_evidence import (
    MOST,
    EccDelta,
    JobEvidence,
    JobXid,
    Stray,
    evidence_from_record,
    evidence_path,
    evidence_record,
)
from sovctl.model.verdict import Finding, Repair, Severity, VerdictState

_times = st.floats(0, 4e9, allow_nan=False)
_xids = st.builds(JobXid, st.integers(0, 999), _times, st.text(max_size=20), st.text(max_size=20), st.booleans())
_evidence = st.builds(
    JobEvidence,
    node=st.text(max_size=10),
    job_id=st.text(max_size=10),
    boot_id=st.text(max_size=10),
    started_at=st.none() | _times,
    ended_at=_times,
    state=st.sampled_from(VerdictState),
    repair=st.sampled_from(Repair),
    xids=st.lists(_xids, max_size=3).map(tuple),
    strays=st.lists(st.builds(Stray, st.integers(1, 10**6), st.text(max_size=5)), max_size=3).map(tuple),
    ecc=st.lists(st.builds(EccDelta, st.text(max_size=5), st.integers(0), st.integers(0)), max_size=3).map(tuple),
    burn_in=st.none()
    | st.builds(BurnInResult, st.sampled_from(Piece), _times, st.sampled_from(BurnInOutcome), st.text(max_size=9)),
    findings=st.lists(st.builds(Finding, st.text(max_size=9), st.sampled_from(Severity), st.text(max_size=9))).map(
        lambda items: tuple(items[:3])
    ),
)


@given(_evidence)
def test_evidence_survives_json(evidence: JobEvidence) -> None:
    assert evidence_from_record(json.loads(json.dumps(evidence_record(evidence)))) == evidence


def _record(**changes: Any) -> dict[str, Any]:
    evidence = JobEvidence("n001", "7", "boot", 1.0, 2.0, VerdictState.FAILED, xids=(JobXid(79, 1.5),))
    return {**evidence_record(evidence), **changes}


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        "text",
        {},
        _record(schema="sovctl.job-evidence/2"),
        _record(ended_at=float("nan")),
        _record(ended_at=True),
        _record(job_id=7),
        _record(state="sick"),
        _record(xids=[{"code": "79"}]),
        _record(xids=7),
        _record(burn_in={"piece": "coffee"}),
        _record(findings=[{}]),
    ],
)
def test_anything_else_is_none(record: Any) -> None:
    assert evidence_from_record(_record()) is not None
    assert evidence_from_record(record) is None


def test_a_storm_of_faults_stays_small() -> None:
    storm = JobEvidence("n", "7", "b", None, 2.0, VerdictState.FAILED, xids=tuple(JobXid(31, 1.0) for _ in range(5000)))
    assert len(evidence_record(storm)["xids"]) == MOST


def test_a_failing_finding_puts_the_node_at_fault() -> None:
    def evidence(severity: Severity) -> JobEvidence:
        finding = Finding("X", severity, "words")
        return JobEvidence("n", "7", "b", None, 2.0, VerdictState.DEGRADED, findings=(finding,))

    assert evidence(Severity.FAIL).node_at_fault
    assert not evidence(Severity.WARN).node_at_fault


def test_a_path_never_leaves_its_directory() -> None:
    assert evidence_path("7", "n001") == "jobs/7/n001.json"
    for job_id, node in (("../7", "n001"), ("7", "../n001"), ("7", ".."), ("", "n001"), ("7", "a/b"), ("7\n", "n")):
        with pytest.raises(ValueError):
            evidence_path(job_id, node)
