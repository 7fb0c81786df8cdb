"""What the epilog leaves for blame: only what belongs to the window of the job, in the format everybody reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from node_fakes import NODE, NOW, FakeNode, Records

from sovctl.errors import SovctlError
from sovctl.health.memory import advance, memory_record
from sovctl.model.job_evidence import EccDelta, JobEvidence, Stray
from sovctl.model.node import NodeSnapshot
from sovctl.model.past import LookMemory
from sovctl.model.verdict import VerdictState
from sovctl.operations.node.end_job import end_job
from sovctl.operations.node.guard_job import Guarded, JobPorts, JobSettings, start_job


class Evidence:
    """The shared directory in memory."""

    def __init__(self) -> None:
        self.left: list[JobEvidence] = []
        self.error: SovctlError | None = None

    def save(self, evidence: JobEvidence) -> None:
        if self.error:
            raise self.error
        self.left.append(evidence)

    def prune(self, older_than: float) -> int:
        return 0


@pytest.fixture
def evidence() -> Evidence:
    return Evidence()


def run_job(node: FakeNode, records: Records, evidence: Evidence, meanwhile: Any = lambda: None) -> Guarded:
    ports = JobPorts(node, node, node, node, None, records, evidence)
    settings = JobSettings(NODE, "7", expected_gpus=8)
    start_job(ports, settings)
    node.time += 60
    meanwhile()
    return end_job(ports, settings, node)


def test_a_job_that_left_nothing_leaves_no_file(node: FakeNode, records: Records, evidence: Evidence) -> None:
    node.fault(31)  # before the job: not its own
    assert run_job(node, records, evidence).fit
    assert evidence.left == []


def test_the_faults_of_the_window_are_told_with_their_gpu_and_class(
    node: FakeNode, records: Records, evidence: Evidence
) -> None:
    node.fault(31, gpu=2)
    run_job(node, records, evidence, lambda: node.fault(119, gpu=5))
    (left,) = evidence.left
    assert (left.node, left.job_id, left.boot_id, left.state) == (NODE, "7", "boot-1", VerdictState.FAILED)
    assert (left.started_at, left.ended_at) == (NOW, NOW + 60) and left.node_at_fault
    assert [(xid.code, xid.gpu_uuid, xid.kind, xid.switch) for xid in left.xids] == [(119, "GPU-5", "reset", False)]
    assert [finding.code for finding in left.findings] == ["XID119"]


def test_a_fault_of_the_program_speaks_of_no_node(node: FakeNode, records: Records, evidence: Evidence) -> None:
    run_job(node, records, evidence, lambda: node.fault(31, gpu=2))
    (left,) = evidence.left
    assert [(xid.code, xid.kind) for xid in left.xids] == [(31, "app")] and not left.node_at_fault


def test_memory_errors_are_counted_from_the_start_of_the_job(
    node: FakeNode, records: Records, evidence: Evidence
) -> None:
    def sample(corrected: int) -> None:
        node.samples = (replace(node.samples[0], ecc_volatile_corrected=corrected), *node.samples[1:])

    def look() -> None:
        """What the watcher does every 30 s."""
        memory = advance(LookMemory("boot-1"), NodeSnapshot(NODE, "boot-1", NOW - 30, gpus=node.samples)).memory
        records.files["memory"] = memory_record(memory)

    sample(100)
    look()
    run_job(node, records, evidence, lambda: sample(107))
    (left,) = evidence.left
    assert left.ecc == (EccDelta("GPU-0", corrected=7),)


def test_what_still_holds_a_gpu_is_told(node: FakeNode, records: Records, evidence: Evidence) -> None:
    def leave() -> None:
        node.samples = (replace(node.samples[0], process_ids=(42,)), *node.samples[1:])

    run_job(node, records, evidence, leave)
    assert evidence.left[0].strays == (Stray(42, "GPU-0"),)


def test_a_shared_directory_that_is_full_costs_a_note_and_no_job(
    node: FakeNode, records: Records, evidence: Evidence
) -> None:
    evidence.error = SovctlError("cannot write /shared/jobs: No space left on device")
    outcome = run_job(node, records, evidence, lambda: node.fault(31))
    assert outcome.fit and "cannot write /shared/jobs: No space left on device" in outcome.notes
