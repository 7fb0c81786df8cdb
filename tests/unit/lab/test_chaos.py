"""What counts as a node rightly blamed in the run through a hundred faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovctl.lab.chaos import KINDS, Chaos, ChaosSpec, Struck
from sovctl.recovery.attempts import attempts

KIND = {kind.name: kind for kind in KINDS}


def judged(struck: list[tuple[str, str, float]], culprit: str, *blamed: str) -> list[str]:
    """What is held against an attempt that began at 100 and was stopped at 120. `struck`: kind, node, when."""
    chaos = Chaos(ChaosSpec(seed=1, hang_timeout_s=8), Path("/nowhere"))
    chaos._report.struck = [Struck(1, KIND[kind], node, at, attempt=0) for kind, node, at in struck]
    ended = {"culprit": culprit, "blamed": list(blamed), "action": "restart"}
    (attempt,) = attempts(
        [
            {"kind": "attempt_started", "attempt": 0, "at": 100.0, "nodes": ["n1", "n2", "n3"]},
            {"kind": "attempt_ended", "attempt": 0, "at": 120.0, **ended},
        ]
    )
    chaos._judge_blame(attempt)
    return chaos._report.misjudged


@pytest.mark.parametrize(
    ("struck", "culprit", "blamed"),
    [
        ([("xid:79", "n2", 119.0)], "hardware", ["n2"]),
        ([("rank-crash", "n2", 119.0)], "user-code", []),
        ([("node-dead", "n2", 118.0), ("supervisor-killed", "n1", 119.0)], "hardware", ["n2"]),
        # Of two at once one is enough.
        ([("xid:79", "n2", 118.0), ("xid:79", "n3", 119.0)], "hardware", ["n3"]),
        # Nobody can know of a hang before its patience is over.
        ([("rank-hang", "n2", 113.0), ("supervisor-killed", "n1", 119.0)], "unknown", []),
        ([("rank-hang", "n2", 113.0), ("supervisor-killed", "n1", 119.0)], "unknown", ["n2"]),
    ],
)
def test_rightly_judged(struck: list[tuple[str, str, float]], culprit: str, blamed: list[str]) -> None:
    assert judged(struck, culprit, *blamed) == []


@pytest.mark.parametrize(
    ("struck", "culprit", "blamed"),
    [
        ([("xid:79", "n2", 119.0)], "user-code", []),
        ([("xid:79", "n2", 119.0)], "hardware", ["n3"]),
        ([("xid:79", "n2", 119.0)], "hardware", ["n2", "n3"]),
        ([("rank-crash", "n2", 119.0)], "hardware", ["n2"]),
        ([("node-dead", "n2", 118.0), ("supervisor-killed", "n1", 119.0)], "unknown", []),
        ([("rank-hang", "n2", 103.0)], "unknown", []),
    ],
)
def test_misjudged(struck: list[tuple[str, str, float]], culprit: str, blamed: list[str]) -> None:
    (words,) = judged(struck, culprit, *blamed)
    assert words.startswith(f"attempt 0: {struck[0][0]} on {struck[0][1]}")
