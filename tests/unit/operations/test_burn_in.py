"""A burn-in runs on idle nodes only, ends when a job comes, and remembers what it saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from node_fakes import NODE, NOW, FakeNode, Records

from sovctl.errors import SovctlError
from sovctl.health.burn_in import references_from_record
from sovctl.model.burn_in import BurnInOutcome, BurnInRun, BurnInSpec, DeviceAnswer, Piece
from sovctl.model.inventory import Inventory, inventory_record
from sovctl.model.job_evidence import JobEvidence
from sovctl.operations.node.burn_in import BurnInPorts, BurnInSettings, burn_in_now, recall
from sovctl.operations.node.end_job import end_job
from sovctl.operations.node.guard_job import Guarded, JobPorts, JobSettings


class Work:
    """Eight GPUs that answer as they are told to."""

    def __init__(self) -> None:
        self.specs: list[BurnInSpec] = []
        self.checksums = "aaaaaaaa"
        self.meanwhile: Callable[[], None] = lambda: None
        self.absent = ""

    def run(self, spec: BurnInSpec, stop: Callable[[], str]) -> BurnInRun:
        self.specs.append(spec)
        self.meanwhile()
        devices = tuple(DeviceAnswer(n, "B200", f"GPU-{n}", sum_, 0, 9, 1.0) for n, sum_ in enumerate(self.checksums))
        made = BurnInRun(
            spec.piece, NOW + 3700 * (len(self.specs) - 1), "2.13.0", "cuda 13", spec.device, len(devices), 1, "x"
        )
        return replace(made, devices=devices, absent=self.absent, interrupted=stop())


class Shared:
    """A reference file and evidence files in memory."""

    def __init__(self) -> None:
        self.record: Any = None
        self.evidence: list[JobEvidence] = []
        self.error: SovctlError | None = None

    def load(self) -> Any:
        return self.record

    def save(self, what: Any) -> None:
        if self.error:
            raise self.error
        if isinstance(what, JobEvidence):
            self.evidence.append(what)
        else:
            self.record = what

    def prune(self, older_than: float) -> int:
        return 0


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def shared() -> Shared:
    return Shared()


def ports(node: FakeNode, records: Records, work: Work, shared: Shared) -> BurnInPorts:
    def busy() -> str:
        return f"job {records.jobs()[0]} is here" if records.jobs() else ""

    return BurnInPorts(work, records, shared, node, busy)


SETTINGS = BurnInSettings(NODE, "auto", 5.0, 60.0, 3600.0)


def epilog(node: FakeNode, records: Records, work: Work, shared: Shared, **changes: Any) -> Guarded:
    job = replace(JobSettings(NODE, "7", expected_gpus=8, burn_in=SETTINGS), **changes)
    outside = JobPorts(node, node, node, node, None, records, shared, ports(node, records, work, shared))
    return end_job(outside, job, node)


def test_a_job_that_leaves_the_node_idle_is_followed_by_one_piece_an_hour(
    node: FakeNode, records: Records, work: Work, shared: Shared
) -> None:
    assert epilog(node, records, work, shared).fit
    assert [(spec.piece, spec.device) for spec in work.specs] == [(Piece.MATMUL, "cuda")]
    told = [event for event in node.events() if event["kind"] == "burnt-in"]
    assert [(event["node"], event["outcome"]) for event in told] == [(NODE, "ok")]
    assert len(references_from_record(shared.record)) == 1
    epilog(node, records, work, shared)
    assert len(work.specs) == 1, "not so soon"
    node.time += 3700
    epilog(node, records, work, shared)
    assert [spec.piece for spec in work.specs] == [Piece.MATMUL, Piece.MEMORY]


def test_it_never_runs_beside_another_job(node: FakeNode, records: Records, work: Work, shared: Shared) -> None:
    records.files["job-8"] = {"boot_id": "boot-1", "sequence": 0, "at": NOW}
    epilog(node, records, work, shared)
    assert work.specs == []


def test_it_never_runs_while_a_process_holds_a_gpu(
    node: FakeNode, records: Records, work: Work, shared: Shared
) -> None:
    node.samples = (replace(node.samples[0], process_ids=(42,)), *node.samples[1:])
    epilog(node, records, work, shared)
    assert work.specs == []
    results, _ = burn_in_now(ports(node, records, work, shared), SETTINGS, tuple(Piece), node, None)
    assert [result.outcome for result in results] == [BurnInOutcome.INTERRUPTED] and work.specs == []
    assert "process 42 holds GPU 0" in results[0].evidence


def test_it_never_runs_after_the_node_failed(node: FakeNode, records: Records, work: Work, shared: Shared) -> None:
    node.samples = node.samples[:7]
    assert not epilog(node, records, work, shared).fit
    assert work.specs == []


def test_a_job_that_comes_meanwhile_ends_it_without_a_word_against_the_node(
    node: FakeNode, records: Records, work: Work, shared: Shared
) -> None:
    work.meanwhile = lambda: records.save("job-9", {"boot_id": "boot-1", "sequence": 0, "at": NOW})
    outcome = epilog(node, records, work, shared)
    assert outcome.fit and outcome.line == "" and shared.evidence == []
    assert recall(records).results == {}


def test_a_wrong_answer_is_evidence_and_condemns_as_far_as_its_probe_may(
    node: FakeNode, records: Records, work: Work, shared: Shared
) -> None:
    work.checksums = "aaaaabaa"
    outcome = epilog(node, records, work, shared)
    assert outcome.fit, "the probe only warns by default"
    (evidence,) = shared.evidence
    assert evidence.burn_in is not None and evidence.burn_in.outcome is BurnInOutcome.WRONG
    assert [(item.code, item.gpu_uuid) for item in evidence.findings] == [("BURN_IN_WRONG", "GPU-5")]
    assert shared.record is None, "nothing is learnt from it"
    node.time += 3700
    recall(records)
    assert epilog(node, records, work, shared).line.startswith(f"sovctl: node {NODE} is degraded: BURN_IN_WRONG")


def test_without_torch_it_says_so_and_goes_on(node: FakeNode, records: Records, work: Work, shared: Shared) -> None:
    work.absent = "torch cannot be imported"
    assert epilog(node, records, work, shared).fit and shared.evidence == []
    results, _ = burn_in_now(ports(node, records, work, shared), SETTINGS, (Piece.MEMORY,), node, None)
    assert [(result.outcome, result.evidence) for result in results] == [
        (BurnInOutcome.ABSENT, "memory: torch cannot be imported")
    ]


def test_where_gpus_should_be_a_cpu_does_not_stand_in_for_them(
    node: FakeNode, records: Records, work: Work, shared: Shared
) -> None:
    node.probe_error = SovctlError("NVML cannot be used")
    records.files["inventory"] = inventory_record(Inventory(gpus=8), NODE, NOW)
    burn_in_now(ports(node, records, work, shared), SETTINGS, (Piece.MATMUL,), node, None)
    assert work.specs[0].device == "cuda"
    records.files.pop("inventory")
    burn_in_now(ports(node, records, work, shared), SETTINGS, (Piece.MATMUL,), node, None)
    assert work.specs[1].device == "cpu"


def test_references_that_cannot_be_written_cost_a_note(
    node: FakeNode, records: Records, work: Work, shared: Shared
) -> None:
    shared.error = SovctlError("cannot write /shared/burn-in-references.json")
    results, notes = burn_in_now(ports(node, records, work, shared), SETTINGS, (Piece.MATMUL,), node, None)
    assert results[0].outcome is BurnInOutcome.LEARNT and notes == ("cannot write /shared/burn-in-references.json",)
