"""Prolog and epilog: a job is refused on an explicit failed verdict and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from node_fakes import NODE, NOW, FakeNode, Records

from sovctl.errors import SovctlError
from sovctl.health.probes import DEFAULT_STATES
from sovctl.model.host import HostFacts, Outcome, SourceReading
from sovctl.model.inventory import Inventory, inventory_record
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Finding, Severity, Verdict, VerdictState
from sovctl.operations.node.end_job import end_job
from sovctl.operations.node.guard_job import Guarded, JobPorts, JobSettings, start_job

FAILED = Verdict(
    NODE, "boot-1", NOW - 60, VerdictState.FAILED, findings=(Finding("XID79", Severity.FAIL, "GPU 5 fell off"),)
)


class Host:
    """A host with given facts."""

    def __init__(self, facts: HostFacts) -> None:
        self.facts = facts
        self.asked: frozenset[str] = frozenset()

    def read(self, sources: frozenset[str]) -> HostFacts:
        self.asked = sources
        return self.facts


def ports(node: FakeNode, records: Records, facts: HostFacts | None = None) -> JobPorts:
    return JobPorts(node, node, node, node, Host(facts or HostFacts()), records)


def settings(**changes: Any) -> JobSettings:
    return replace(JobSettings(NODE, "7", expected_gpus=8), **changes)


def prolog(node: FakeNode, records: Records, facts: HostFacts | None = None, **changes: Any) -> Guarded:
    return start_job(ports(node, records, facts), settings(**changes))


def test_a_healthy_node_takes_the_job_and_says_nothing(node: FakeNode, records: Records) -> None:
    outcome = prolog(node, records)
    assert (outcome.fit, outcome.line, outcome.notes) == (True, "", ())
    assert outcome.checks >= 12
    assert records.files["job-7"]["boot_id"] == "boot-1" and records.said == [""]
    assert node.drains == [] and node.verdict_saves == [] and node.saved_cursor == ("", 0)


def test_a_failed_verdict_refuses_the_job_in_one_line(node: FakeNode, records: Records) -> None:
    node.verdict = FAILED
    outcome = prolog(node, records)
    assert not outcome.fit
    assert outcome.line == (
        "sovctl: node n003 is not fit for this job, Slurm starts it elsewhere: XID79 GPU 5 fell off"
    )
    assert records.said == [outcome.line]


@pytest.mark.parametrize(
    "stored",
    [
        None,
        replace(FAILED, observed_at=NOW - 301),
        replace(FAILED, observed_at=NOW + 60),
        replace(FAILED, boot_id="boot-0"),
        replace(FAILED, state=VerdictState.UNKNOWN),
        replace(FAILED, state=VerdictState.DEGRADED),
    ],
)
def test_anything_but_a_fresh_failed_verdict_of_this_boot_lets_it_start(
    node: FakeNode, records: Records, stored: Verdict | None
) -> None:
    node.verdict = stored
    assert prolog(node, records).fit


def test_a_fault_since_the_verdict_refuses_the_job(node: FakeNode, records: Records) -> None:
    node.fault(79)
    outcome = prolog(node, records)
    assert not outcome.fit and "XID79" in outcome.line
    assert prolog(node, records, act=False).fit, "observe only"
    off = {**DEFAULT_STATES, "xid": ProbeState.SHADOW}
    assert prolog(node, records, probes=off).fit


def test_a_missing_gpu_refuses_and_a_blind_node_does_not(node: FakeNode, records: Records) -> None:
    whole = node.samples
    node.samples = whole[:7]
    assert not prolog(node, records).fit
    node.probe_error = SovctlError("NVML gave no answer within 2 s")
    outcome = prolog(node, records)
    assert outcome.fit and "PROBE_HUNG" in outcome.line
    node.probe_error, node.samples, node.log_error = None, whole, SovctlError("cannot read")
    assert prolog(node, records).fit


def test_a_mount_that_is_not_there_now_warns_only(node: FakeNode, records: Records) -> None:
    records.files["inventory"] = inventory_record(Inventory(mounts={"/data": "rw"}), NODE, NOW)
    facts = HostFacts(mounts=(), readings=(SourceReading("mounts", Outcome.ABSENT),))
    outcome = prolog(node, records, facts)
    assert outcome.fit and "degraded: MOUNT_MISSING" in outcome.line


def test_broken_files_of_ours_are_said_and_nothing_else(node: FakeNode, records: Records) -> None:
    records.files |= {"inventory": {"schema": "?"}, "memory": [1], "ledger": "x", "probes": 3}
    records.full = True
    outcome = prolog(node, records)
    assert outcome.fit and len(outcome.notes) == 2
    assert "inventory cannot be used" in outcome.notes[0] and outcome.notes[1] == "no space left"


def epilog(node: FakeNode, records: Records, **changes: Any) -> Guarded:
    return end_job(ports(node, records), settings(**changes), node)


def test_the_epilog_judges_the_window_of_its_job(node: FakeNode, records: Records) -> None:
    node.fault(31)
    prolog(node, records)
    node.fault(48, gpu=2)
    outcome = epilog(node, records)
    assert not outcome.fit and "XID48" in outcome.line
    (record,) = node.records
    assert (record["kind"], record["job_id"], record["state"]) == ("job-evidence", "7", "failed")
    assert [xid["code"] for xid in record["xids"]] == [48], "what came before the job is not its own"
    assert records.jobs() == ()


def test_a_clean_job_leaves_no_word(node: FakeNode, records: Records) -> None:
    prolog(node, records)
    outcome = epilog(node, records)
    assert (outcome.fit, outcome.line, node.records) == (True, "", [])


def test_strays_are_looked_for_only_when_no_other_job_is_here(node: FakeNode, records: Records) -> None:
    node.samples = (replace(node.samples[0], process_ids=(4711,)), *node.samples[1:])
    prolog(node, records)
    prolog(node, records, job_id="8")
    assert epilog(node, records).line == ""
    outcome = epilog(node, records, job_id="8")
    assert outcome.fit and "GPU_STRAY" in outcome.line and "4711" in outcome.line


def test_the_mark_of_a_job_that_never_ended_is_forgotten_in_the_end(node: FakeNode, records: Records) -> None:
    records.files |= {"job-3": {"at": NOW - 40 * 86400}, "job-4": "junk"}
    prolog(node, records)
    epilog(node, records)
    assert records.jobs() == ()


def test_a_journal_that_is_full_is_said(node: FakeNode, records: Records) -> None:
    node.journal_error = SovctlError("the journal cannot be written")
    node.fault(48)
    outcome = epilog(node, records)
    assert outcome.notes == ("the journal cannot be written",)
