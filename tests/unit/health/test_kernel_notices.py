"""What the kernel complains of besides the driver: each line its code, and none on an ordinary day."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sovctl.health.judge import judge
from sovctl.health.memory import advance
from sovctl.health.probes import DEFAULT_STATES
from sovctl.health.rules_kernel_notice import MEANINGS, family
from sovctl.model.kernel_line import CODES, HINT, KernelNotice, parse_kernel_notice
from sovctl.model.node import NodeSnapshot
from sovctl.model.past import LookMemory
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Finding, Severity, VerdictState

DATA = Path(__file__).parents[2] / "data" / "kernel_log"
LINES = [line.split("\t") for line in (DATA / "notices.log").read_text("utf-8").splitlines() if line[0] != "#"]
NOW = 1795384000.0


@pytest.mark.parametrize(("told", "line"), LINES)
def test_each_line_of_the_corpus(told: str, line: str) -> None:
    code, _, subject = told.partition(" ")
    for text in (line, f"[12345.678901] {line}"):
        notice = parse_kernel_notice(text, sequence=7)
        if code == "-":
            assert notice is None
            continue
        assert notice is not None and (notice.code, notice.subject) == (code, subject)
        assert HINT.search(text.encode()), "the reader would pass it over"


def test_every_code_has_a_line_and_a_meaning() -> None:
    assert {told.partition(" ")[0] for told, _ in LINES} == CODES | {"-"}
    assert set(MEANINGS) == CODES


def test_the_lines_of_the_driver_are_none() -> None:
    for name in ("faults.log", "noise.log"):
        for line in (DATA / name).read_bytes().decode("utf-8", "replace").splitlines():
            if "NVRM" in line:
                assert parse_kernel_notice(line.partition("\t")[2] or line) is None


def look(memory: LookMemory, at: float, *lines: str, first: int = 0) -> NodeSnapshot:
    parsed = [parse_kernel_notice(line, sequence=first + n) for n, line in enumerate(lines)]
    notices = tuple(notice for notice in parsed if notice)
    return advance(memory, NodeSnapshot("n1", "boot", at, notices=notices))


def findings(snapshot: NodeSnapshot) -> list[Finding]:
    return [item for name in ("kernel", "storage", "network", "memory") for item in family(name)(snapshot)]


NVME = "nvme nvme1: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0xffff"
SILENT = "nfs: server storage not responding, still trying"


def test_a_complaint_is_quoted_and_stands_for_an_hour() -> None:
    seen = look(LookMemory("boot"), NOW, NVME)
    (finding,) = findings(seen)
    assert (finding.code, finding.severity) == ("NVME_GONE", Severity.FAIL)
    assert finding.evidence.startswith("nvme1: an NVMe disk answers no more (1 times within an hour)")
    assert "controller is down" in finding.evidence
    assert len(findings(look(seen.memory, NOW + 3000))) == 1
    assert findings(look(seen.memory, NOW + 3700)) == []


def test_what_happens_now_and_then_needs_a_number() -> None:
    once = look(LookMemory("boot"), NOW, SILENT)
    assert findings(once) == []
    twice = look(once.memory, NOW + 60, SILENT, first=10)
    assert [finding.code for finding in findings(twice)] == ["NFS_SILENT"]


def test_a_record_that_is_read_again_counts_once() -> None:
    once = look(LookMemory("boot"), NOW, SILENT, first=4)
    again = look(once.memory, NOW + 60, SILENT, first=4)
    assert findings(again) == []


def test_a_job_that_hits_its_own_limit_says_nothing_against_the_node() -> None:
    seen = look(LookMemory("boot"), NOW, "Memory cgroup out of memory: Killed process 1 (x)")
    assert judge(seen).state is VerdictState.HEALTHY


def test_they_warn_by_default_and_drain_where_a_site_says_so() -> None:
    seen = look(LookMemory("boot"), NOW, NVME)
    assert judge(seen).state is VerdictState.DEGRADED
    assert judge(seen, (), {**DEFAULT_STATES, "kernel-storage": ProbeState.DRAIN}).state is VerdictState.FAILED


def test_words_of_a_program_cannot_forge_the_terminal() -> None:
    notice = KernelNotice("DISK_IO", "sda", 0, 0.0, 'I/O error, dev sda, "\x1b[31m' + "x" * 500)
    seen = advance(LookMemory("boot"), replace(NodeSnapshot("n1", "boot", NOW), notices=(notice,)))
    (finding,) = findings(seen)
    assert finding.evidence.isprintable() and len(finding.evidence) < 300
