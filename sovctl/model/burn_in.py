"""A burn-in: one short piece of work with a known answer, done on every accelerator of an idle node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Piece(StrEnum):
    """What is done; an epilog does one of them, a re-test all."""

    MATMUL = "matmul"
    """Matrix product of seeded random operands, again and again: every result must be the same to the last bit."""
    MEMORY = "memory"
    """Copies within the accelerator's memory: what arrives must be what was sent, at the usual rate."""
    ALL_REDUCE = "all-reduce"
    """A sum over all accelerators of the node whose result is known."""


class BurnInOutcome(StrEnum):
    """What came of one piece."""

    PASSED = "passed"
    LEARNT = "learnt"
    """Passed, and nothing to compare with was known before."""
    WRONG = "wrong"
    """An accelerator computed something else than it should: silent data corruption."""
    SLOW = "slow"
    """Right, and much slower than its kind was."""
    UNSURE = "unsure"
    """The answers cannot be told right or wrong: they disagree and nothing says which is right."""
    FAILED = "failed"
    """It broke or did not end in time."""
    ABSENT = "absent"
    """It cannot be done here (no torch, one accelerator only); says nothing about the node."""
    INTERRUPTED = "interrupted"
    """A job came, or was here; says nothing about the node."""


GOOD = frozenset({BurnInOutcome.PASSED, BurnInOutcome.LEARNT})
SILENT = frozenset({BurnInOutcome.ABSENT, BurnInOutcome.INTERRUPTED})
"""Outcomes that say nothing, neither for the node nor against it."""


@dataclass(frozen=True, slots=True)
class BurnInResult:
    """One piece, judged."""

    piece: Piece
    at: float
    """Seconds since the epoch."""
    outcome: BurnInOutcome
    evidence: str = ""
    """One sentence with the figures."""
    gpu_uuids: tuple[str, ...] = ()
    """The accelerators that are meant; empty: the node as a whole, or none."""


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """What one accelerator said after one piece."""

    rank: int
    name: str = ""
    uuid: str = ""
    """As NVML has it; empty for a CPU."""
    checksum: str = ""
    """Empty for pieces that know by themselves whether they are right."""
    wrong: int = 0
    """Rounds whose answer was not the one it should be."""
    repeats: int = 0
    rate: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class BurnInRun:
    """One piece as it was done, not yet judged."""

    piece: Piece
    at: float
    """Seconds since the epoch."""
    torch: str = ""
    runtime: str = ""
    """`cuda 13.0`, or the vector unit of the CPU."""
    device: str = ""
    """`cuda` or `cpu`."""
    count: int = 0
    """Accelerators that torch sees."""
    size: int = 0
    unit: str = ""
    """Of the rates."""
    devices: tuple[DeviceAnswer, ...] = ()
    absent: str = ""
    """Why there is nothing to do it with."""
    interrupted: str = ""
    """Why it was ended early."""
    problem: str = ""
    """Why it broke: no answer in time, the last words of the program."""


@dataclass(frozen=True, slots=True)
class BurnInSpec:
    """One piece to be done."""

    piece: Piece
    seconds: float
    """The work itself, without the start of torch."""
    device: str
    """`cuda` or `cpu`."""
    timeout_s: float
    """With everything."""


def result_record(result: BurnInResult) -> dict[str, Any]:
    """As JSON."""
    return {
        "piece": str(result.piece),
        "at": result.at,
        "outcome": str(result.outcome),
        "evidence": result.evidence,
        "gpu_uuids": list(result.gpu_uuids),
    }


def result_from_record(record: Any) -> BurnInResult:
    """Raises KeyError, TypeError or ValueError for anything else."""
    return BurnInResult(
        Piece(record["piece"]),
        float(record["at"]),
        BurnInOutcome(record["outcome"]),
        _text(record["evidence"]),
        tuple(_text(uuid) for uuid in record["gpu_uuids"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value
