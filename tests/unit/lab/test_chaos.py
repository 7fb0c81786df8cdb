"""What counts as a node rightly blamed in the run through a hundred faults, and what the benchmark makes of a run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sovctl.lab.chaos.judge import Judge, on_unforgiven
from sovctl.lab.chaos.plan import KINDS, ChaosSpec, draw
from sovctl.lab.chaos.report import Report, Struck
from sovctl.lab.chaos.run import Chaos
from sovctl.recovery.attempts import attempts

KIND = {kind.name: kind for kind in KINDS}
BENCH = Path(__file__).parents[3] / "bench"


def judged(
    struck: list[tuple[str, str, float]],
    culprit: str,
    *blamed: str,
    before: tuple[tuple[str, str, float], ...] = (),
    mended: dict[str, list[float]] | None = None,
) -> list[str]:
    """What is held against the second attempt, which began at 100 and was stopped at 120. The first was stopped at 90.
    `struck`: kind, node, when, in the second attempt; `before`: the same, when the first was the latest to have begun.
    `mended`: when a node was repaired."""
    report = Report(ChaosSpec(seed=1, hang_timeout_s=8))
    report.struck = [
        Struck(1, KIND[kind], node, at, attempt=number)
        for number, several in ((0, before), (1, struck))
        for kind, node, at in several
    ]
    judge = Judge(report)
    judge.repaired = mended or {}
    ended = {"culprit": culprit, "blamed": list(blamed), "action": "restart"}
    (attempt,) = attempts(
        [
            {"kind": "attempt_started", "attempt": 1, "at": 100.0, "nodes": ["n1", "n2", "n3"]},
            {"kind": "attempt_ended", "attempt": 1, "at": 120.0, **ended},
        ]
    )
    judge.blame(attempt, since=90.0)
    assert report.judged == 1
    return report.misjudged


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
        # The crash stopped it; the node died while its cause was looked for.
        ([("rank-crash", "n2", 117.0), ("node-dead", "n3", 118.0)], "user-code", []),
        ([("rank-crash", "n2", 117.0), ("node-dead", "n3", 118.0)], "hardware", ["n3"]),
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
        ([("rank-crash", "n2", 117.0), ("node-dead", "n3", 118.0)], "hardware", ["n2"]),
        ([("node-dead", "n2", 117.0), ("rank-crash", "n3", 118.0)], "user-code", []),
    ],
)
def test_misjudged(struck: list[tuple[str, str, float]], culprit: str, blamed: list[str]) -> None:
    (words,) = judged(struck, culprit, *blamed)
    assert words.startswith(f"attempt 1: {struck[0][0]} on {struck[0][1]}")


@pytest.mark.parametrize(
    ("at", "mended", "right"),
    [
        (50.0, [], True),
        (50.0, [95.0], False),
        # Mended only a moment ago: what was seen of it is older than that.
        (50.0, [113.0], True),
        # Mended, and broken again.
        (50.0, [40.0], True),
    ],
)
def test_a_node_that_was_struck_earlier_may_be_named_until_it_is_mended(
    at: float, mended: list[float], right: bool
) -> None:
    def words(struck: list[tuple[str, str, float]]) -> list[str]:
        return judged(struck, "hardware", "n3", before=(("xid:79", "n3", at),), mended={"n3": mended})

    assert (words([]) == []) is right
    assert (words([("rank-crash", "n2", 119.0)]) == []) is right


def test_a_process_that_hung_is_gone_with_its_attempt() -> None:
    (words,) = judged([("rank-crash", "n2", 119.0)], "unknown", "n3", before=(("rank-hang", "n3", 80.0),))
    assert words.startswith("attempt 1: rank-crash on n2; named ['n3']")


@pytest.mark.parametrize("culprit", ["user-code", "stopped", "unknown"])
def test_without_a_fault_nobody_is_the_right_answer(culprit: str) -> None:
    assert judged([], culprit) == []
    (words,) = judged([], culprit, "n2")
    assert words.startswith("attempt 1: no fault; named ['n2']")


@pytest.mark.parametrize("culprit", ["hardware", "fabric", "storage"])
def test_without_a_fault_no_part_of_the_cluster_is_at_fault(culprit: str) -> None:
    (words,) = judged([], culprit)
    assert words.startswith(f"attempt 1: no fault; named nobody ({culprit}")


def test_a_fault_between_two_attempts_belongs_to_the_one_that_got_the_node() -> None:
    assert judged([], "hardware", "n2", before=(("node-dead", "n2", 95.0),)) == []
    (words,) = judged([], "unknown", before=(("node-dead", "n2", 95.0),))
    assert words.startswith("attempt 1: node-dead on n2; named nobody")
    # It got another node instead, or the attempt before was stopped by it.
    assert judged([], "unknown", before=(("node-dead", "n9", 95.0),)) == []
    assert judged([], "unknown", before=(("node-dead", "n2", 85.0),)) == []


def test_a_run_that_finished_is_not_a_stop() -> None:
    report = Report(ChaosSpec(seed=1))
    (attempt,) = attempts(
        [
            {"kind": "attempt_started", "attempt": 0, "at": 100.0, "nodes": ["n1"]},
            {"kind": "attempt_ended", "attempt": 0, "at": 120.0, "culprit": "none", "action": "finish"},
        ]
    )
    Judge(report).blame(attempt)
    assert report.judged == 0


def test_root_and_an_ordinary_user_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for uid in (0, 1000):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        drawn.append(draw(ChaosSpec(seed=3)))
    assert drawn[0] == drawn[1]
    assert drawn[0] != draw(ChaosSpec(seed=4))
    assert "disk-full" in {blow.kind.name for blows in drawn[0] for blow in blows}


def _start(attempt: int, *nodes: str) -> dict[str, Any]:
    return {"kind": "attempt_started", "attempt": attempt, "nodes": list(nodes)}


def _end(attempt: int, culprit: str, *blamed: str) -> dict[str, Any]:
    return {"kind": "attempt_ended", "attempt": attempt, "culprit": culprit, "blamed": list(blamed)}


def test_a_restart_on_a_node_that_was_not_forgiven_counts_whatever_its_state() -> None:
    first = [_start(0, "n1", "n2"), _end(0, "hardware", "n2")]
    forgiven = {"kind": "forgiven", "attempt": 0, "nodes": ["n2"]}
    assert on_unforgiven([*first, _start(1, "n1", "n2")]) == ["attempt 1 got n2, blamed by attempt 0 and not forgiven"]
    assert on_unforgiven([*first, _start(1, "n1", "n3")]) == []
    assert on_unforgiven([*first, forgiven, _start(1, "n1", "n2")]) == []
    assert on_unforgiven([_start(0, "n1", "n2"), _end(0, "unknown", "n2"), _start(1, "n2")]) == []
    assert len(on_unforgiven([*first, forgiven, *first, _start(1, "n2"), _start(2, "n2")])) == 2


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bench/chaos.py, as a module."""
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = importlib.util.spec_from_file_location("bench_chaos", BENCH / "chaos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _good_report() -> Report:
    spec = ChaosSpec(seed=1, faults=1)
    struck = [Struck(1, KIND["xid:79"], "n2", 100.0, attempt=0, back_at=108.0)]
    return Report(spec, struck, judged=1, chains=1, identical=True)


def _run_bench(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report: Report, error: BaseException | None
) -> int:
    """The benchmark's status with a run that measured `report` and then ended, or raised."""

    class Ready(Chaos):
        def __init__(self, *_: object, **__: object) -> None:
            self._report = report

        def run(self, _: Path) -> Report:
            if error is not None:
                raise error
            return report

    monkeypatch.setattr(bench, "Chaos", Ready)
    monkeypatch.setattr(bench.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    status: int = bench.main()
    return status


def test_the_benchmark_of_a_run_that_met_every_target_ends_with_0(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run_bench(bench, monkeypatch, tmp_path, _good_report(), None) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert [item["met"] for item in figures if item["target"] is not None] == [True] * 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("on_blamed", ["attempt 1 got n2"]),
        ("steps_lost", 3),
        ("misjudged", ["attempt 0"]),
        ("failed_chains", ["attempts [0]"]),
        ("identical", False),
        ("lost", "not back within 240 s"),
    ],
)
def test_the_benchmark_ends_with_1_when_one_target_is_missed(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str, value: object
) -> None:
    report = _good_report()
    setattr(report, field, value)
    assert _run_bench(bench, monkeypatch, tmp_path, report, None) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the journal is gone")])
@pytest.mark.parametrize("measured", [True, False])
def test_the_benchmark_prints_what_there_is_when_the_run_ends_early(
    bench: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    measured: bool,
) -> None:
    report = _good_report() if measured else Report(ChaosSpec(seed=1))
    assert _run_bench(bench, monkeypatch, tmp_path, report, error) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["conditions"]["faults"] == ({"xid:79": 1} if measured else {})
    assert "NaN" not in told.out
    assert f"ended early: {error!r}" in told.err
    assert tmp_path.is_dir()
