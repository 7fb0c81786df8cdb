"""Lines as drivers and log daemons really write them: each fault with its class, and nothing for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovctl.health.explain_line import Explanation, LogExplainer
from sovctl.health.judge import judge
from sovctl.model.log_prefix import kernel_message
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import VerdictState
from sovctl.model.xid_line import parse_kernel_message

DATA = Path(__file__).parents[2] / "data" / "kernel_log"


def _faults() -> list[tuple[str, str]]:
    lines = (DATA / "faults.log").read_bytes().split(b"\n")
    pairs = (line.partition(b"\t") for line in lines if line and not line.startswith(b"#"))
    return [(expected.decode(), raw.decode("utf-8", "replace")) for expected, _, raw in pairs]


FAULTS = _faults()
NOISE = [line.decode("utf-8", "replace") for line in (DATA / "noise.log").read_bytes().split(b"\n")[:-1]]


def _said(explained: Explanation | None) -> str:
    if explained is None:
        return "nothing"
    name = "sxid" if explained.switch else "xid"
    return f"{name} {explained.number} {explained.kind} {explained.repair}"


def test_the_corpus_is_large_enough() -> None:
    assert len(FAULTS) >= 120
    assert len(NOISE) >= 40


@pytest.mark.parametrize(("expected", "line"), FAULTS)
def test_every_fault_is_classed(expected: str, line: str) -> None:
    assert _said(LogExplainer().read(line)) == expected


@pytest.mark.parametrize("line", NOISE)
def test_noise_says_nothing(line: str) -> None:
    assert LogExplainer().read(line) is None


def test_interleaved_lines_do_not_change_each_other() -> None:
    explainer, said = LogExplainer(), []
    noise = [line for line in NOISE if line]
    for index, (_, line) in enumerate(FAULTS):
        assert explainer.read(noise[index % len(noise)]) is None
        said.append(_said(explainer.read(line)))
    assert said == [expected for expected, _ in FAULTS]


@pytest.mark.parametrize(("expected", "line"), FAULTS)
def test_the_judge_fails_a_node_exactly_for_what_is_called_reset_or_drain(expected: str, line: str) -> None:
    event = parse_kernel_message(kernel_message(line) or "", sequence=1)
    assert event is not None
    verdict = judge(NodeSnapshot("n003", "boot", 0.0, xids=(event,)))
    assert (verdict.state is VerdictState.FAILED) == (expected.split()[2] in ("reset", "drain"))
