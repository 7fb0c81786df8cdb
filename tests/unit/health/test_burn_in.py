"""Which answers of a burn-in are believed, which condemn, and what is learnt from whom."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.health.burn_in import (
    BurnInMemory,
    burn_in_findings,
    due,
    judge_run,
    memory_from_record,
    memory_record,
    next_piece,
    references_from_record,
    references_record,
    remembered,
    slow_findings,
)
from sovctl.health.judge import judge
from sovctl.health.probes import DEFAULT_STATES
from sovctl.model.burn_in import BurnInOutcome, BurnInResult, BurnInRun, DeviceAnswer, Piece
from sovctl.model.gpu import GpuSample
from sovctl.model.node import NodeSnapshot
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Repair, Severity, VerdictState

NOW = 1795384000.0
Outcome = BurnInOutcome


def run(checksums: str = "aaaaaaaa", **changes: Any) -> BurnInRun:
    """One letter an accelerator."""
    node = changes.pop("node", "n1")
    rate = changes.pop("rate", 1500.0)
    devices = tuple(
        DeviceAnswer(rank, "NVIDIA B200", f"GPU-{node}-{rank}", checksum, 0, 100, rate)
        for rank, checksum in enumerate(checksums)
    )
    made = BurnInRun(Piece.MATMUL, NOW, "2.13.0", "cuda 13.0", "cuda", len(devices), 8192, "TFLOP/s", devices)
    return replace(made, **changes)


def outcome(asked: BurnInRun, references: Any = None, expected: int | None = None) -> Outcome:
    return judge_run(asked, references or {}, "n1", expected)[0].outcome


def learnt(*runs: BurnInRun) -> Any:
    references: Any = {}
    for asked in runs:
        references = judge_run(asked, references, asked.devices[0].uuid.split("-")[1], None)[1]
    return references


def test_what_nobody_knew_is_learnt_and_compared_from_then_on() -> None:
    first, references = judge_run(run(), {}, "n1", 8)
    assert first.outcome is Outcome.LEARNT and len(references) == 1
    again, _ = judge_run(run(node="n2"), references, "n2", 8)
    assert again.outcome is Outcome.PASSED
    assert "equal answers" in again.evidence and "1500" in again.evidence


def test_one_that_computes_something_else_is_wrong_and_nothing_is_learnt_from_its_node() -> None:
    result, references = judge_run(run("aaaaabaa"), {}, "n1", 8)
    assert (result.outcome, result.gpu_uuids, references) == (Outcome.WRONG, ("GPU-n1-5",), {})


def test_one_that_contradicts_itself_is_wrong() -> None:
    devices = (*run("aaaaaaa").devices, DeviceAnswer(7, "NVIDIA B200", "GPU-n1-7", "a", 3, 100, 1500.0))
    result, references = judge_run(run(devices=devices, count=8), {}, "n1", 8)
    assert (result.outcome, result.gpu_uuids, references) == (Outcome.WRONG, ("GPU-n1-7",), {})


def test_without_a_majority_only_a_reference_tells_who_is_wrong() -> None:
    assert judge_run(run("ab"), {}, "n1", None)[0].outcome is Outcome.UNSURE
    assert judge_run(run("ab"), {}, "n1", None)[1] == {}
    result, references = judge_run(run("ab"), learnt(run(node="n2")), "n1", None)
    assert (result.outcome, result.gpu_uuids) == (Outcome.WRONG, ("GPU-n1-1",))
    assert references == learnt(run(node="n2"))


def test_a_whole_node_that_agrees_with_itself_is_not_condemned_by_a_reference() -> None:
    references = learnt(run(node="n2"), run(node="n3"))
    result, after = judge_run(run("bbbbbbbb"), references, "n1", 8)
    assert result.outcome is Outcome.UNSURE and after == references
    assert "another software" in result.evidence


def test_a_single_accelerator_is_condemned_only_by_several_others() -> None:
    assert outcome(run("b"), learnt(run("a", node="n2"))) is Outcome.UNSURE
    assert outcome(run("b"), learnt(run("aaa", node="n2"))) is Outcome.WRONG


def test_another_torch_is_another_reference() -> None:
    references = learnt(run(node="n2"))
    assert outcome(run("bbbbbbbb", torch="2.14.0"), references) is Outcome.LEARNT


@pytest.mark.parametrize(
    ("asked", "expected", "words"),
    [
        (run("aaaa"), 8, "torch sees 4 of 8 GPUs"),
        (run("", count=0), 8, "no answer"),
        (run("aaa", count=4, problem="no answer within 60 s"), None, "accelerator 3 gave no answer"),
        (run(devices=(DeviceAnswer(0, error="CUDA error: unspecified launch failure"),), count=1), None, "CUDA error"),
    ],
)
def test_what_broke_is_failed_with_its_words(asked: BurnInRun, expected: int | None, words: str) -> None:
    result, references = judge_run(asked, {}, "n1", expected)
    assert result.outcome is Outcome.FAILED and words in result.evidence and references == {}


def test_slow_is_measured_against_its_kind_and_does_not_lower_the_bar() -> None:
    references = learnt(run(node="n2"))
    result, after = judge_run(run(rate=1000.0), references, "n1", 8)
    assert result.outcome is Outcome.SLOW and "1000 TFLOP/s, its kind 1500" in result.evidence
    assert [item.rate for item in after.values()] == [1500.0]
    assert outcome(run(rate=1400.0), references) is Outcome.PASSED


def test_absence_and_interruption_say_nothing() -> None:
    memory = remembered(BurnInMemory(), BurnInResult(Piece.MATMUL, NOW, Outcome.WRONG, "w", ("GPU-5",)))
    for quiet in (run(absent="no torch"), run(interrupted="job 8 is here")):
        result, _ = judge_run(quiet, {}, "n1", 8)
        assert remembered(memory, replace(result, at=NOW + 5)).results == memory.results


def test_the_pieces_take_turns() -> None:
    memory, order = BurnInMemory(), []
    for step in range(6):
        piece = next_piece(memory)
        order.append(piece)
        memory = remembered(memory, BurnInResult(piece, NOW + step, Outcome.ABSENT))
    assert order[:3] == order[3:] and set(order) == set(Piece)


def test_after_a_pause_one_is_due() -> None:
    memory = remembered(BurnInMemory(), BurnInResult(Piece.MATMUL, NOW, Outcome.PASSED))
    assert due(BurnInMemory(), NOW, 3600.0)
    assert not due(memory, NOW + 3599, 3600.0)
    assert due(memory, NOW + 3600, 3600.0)
    assert due(memory, NOW - 5, 3600.0), "the clock was set back"


@given(st.lists(st.sampled_from("ab"), min_size=3, max_size=8))
def test_nothing_is_ever_learnt_from_a_node_that_disagrees(checksums: list[str]) -> None:
    result, references = judge_run(run("".join(checksums)), {}, "n1", None)
    assert bool(references) == (len(set(checksums)) == 1)
    assert (result.outcome is Outcome.LEARNT) == bool(references)


# Findings


def snapshot(*results: BurnInResult, gpus: int = 8) -> NodeSnapshot:
    samples = tuple(GpuSample(n, f"GPU-{n}", f"s{n}", "B200", f"0000:{n:02x}:00.0") for n in range(gpus))
    return NodeSnapshot("n1", "boot", NOW, gpus=samples, burn_in=results)


WRONG = BurnInResult(Piece.MATMUL, NOW, Outcome.WRONG, "matmul: accelerator 5", ("GPU-5",))


def test_a_wrong_answer_is_a_finding_in_the_state_of_its_probe() -> None:
    (finding,) = burn_in_findings(snapshot(WRONG))
    assert (finding.code, finding.severity, finding.gpu_index, finding.repair) == (
        "BURN_IN_WRONG",
        Severity.FAIL,
        5,
        Repair.RMA,
    )
    states = {state: judge(snapshot(WRONG), (), {**DEFAULT_STATES, "burn-in": state}) for state in ProbeState}
    assert states[ProbeState.DRAIN].state is VerdictState.FAILED
    assert states[ProbeState.WARN].state is VerdictState.DEGRADED
    assert states[ProbeState.SHADOW].state is VerdictState.HEALTHY and states[ProbeState.SHADOW].shadow
    assert states[ProbeState.OFF].state is VerdictState.HEALTHY and not states[ProbeState.OFF].shadow


def test_a_gpu_that_was_replaced_takes_its_wrong_answer_along() -> None:
    assert burn_in_findings(snapshot(WRONG, gpus=5)) == []


def test_slow_waits_in_shadow() -> None:
    slow = replace(WRONG, outcome=Outcome.SLOW)
    assert [finding.code for finding in slow_findings(snapshot(slow))] == ["BURN_IN_SLOW"]
    assert judge(snapshot(slow)).state is VerdictState.HEALTHY


# Files


def test_memory_and_references_survive_json() -> None:
    memory = remembered(BurnInMemory(), WRONG)
    assert memory_from_record(json.loads(json.dumps(memory_record(memory)))) == memory
    references = learnt(run(), run(node="n2"))
    assert references_from_record(json.loads(json.dumps(references_record(references)))) == references


@pytest.mark.parametrize("record", [None, [], {}, {"schema": "sovctl.burn-in/1"}, {"schema": "x", "references": 7}])
def test_a_broken_file_knows_nothing(record: Any) -> None:
    assert memory_from_record(record) == BurnInMemory()
    assert references_from_record(record) == {}
