"""What a failed submission gives away, and what earlier runs of a script say of a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sovctl.errors import SlurmUnreachable
from sovctl.model.pool import Partition
from sovctl.model.site import Preemptable
from sovctl.model.submitted import SubmittedRun
from sovctl.operations.submit import Prepared, advice, grace_advice, known_saves, lead_advice
from sovctl.ports.slurm import SubmitOutcome
from sovctl.submit.options import Choices, OwnOptions


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            "sbatch: unrecognized option '--nodez=3'\nTry \"sbatch --help\" for more information\n",
            "did you mean --nodes?",
        ),
        ("sbatch: unrecognized option '--spare-node'\n", "did you mean --spare-nodes?"),
        ("sbatch: unrecognized option '--quantum'\n", ""),
        ("sbatch: error: Unable to contact slurm controller (connect failure)\n", "scontrol ping"),
    ],
)
def test_a_hint_where_the_words_tell(said: str, hint: str) -> None:
    assert hint in advice(SubmitOutcome(1, "", said))
    assert bool(advice(SubmitOutcome(1, "", said))) is bool(hint)
    assert advice(SubmitOutcome(0, "Submitted batch job 1\n", said)) == ""


PREPARED = Prepared((), "t.sh", b"", (), OwnOptions(), Choices(), "/w", "/w/.sovctl/runs", 900, "t.sh")


class Runs:
    """RunIndex and RunRecords: earlier runs, newest first, with how long each save of theirs took."""

    def __init__(self, *runs: tuple[str, str, list[float]]) -> None:
        self._runs = [(SubmittedRun(str(number), "", 100, "/w/.sovctl/runs", where, script), saves)
                      for number, (where, script, saves) in enumerate(runs)]  # fmt: skip
        self.read: list[str] = []

    def list(self) -> tuple[SubmittedRun, ...]:
        return tuple(run for run, _ in self._runs)

    def below(self, run_root: str) -> tuple[str, ...]:
        return tuple(f"{run_root}/lab-{run.job_id}-{run.submitted}" for run, _ in self._runs)

    def events(self, run_dir: str, newest_only: str = "") -> list[dict[str, Any]]:
        self.read.append(run_dir)
        saves = self._runs[int(run_dir.split("-")[-2])][1]
        return [{"kind": "checkpoint_saved", "step": 1, "save_seconds": seconds} for seconds in saves]


def saves_of(runs: Runs) -> list[float]:
    return known_saves(PREPARED, runs, runs)  # type: ignore[arg-type]


def test_the_newest_run_of_the_same_script_that_saved_says_how_long_it_takes() -> None:
    runs = Runs(
        ("/w", "other.sh", [1.0]), ("/x", "t.sh", [2.0]), ("/w", "t.sh", []), ("/w", "t.sh", [30.0, 90.0]),
        ("/w", "t.sh", [7.0]),
    )  # fmt: skip
    assert saves_of(runs) == [30.0, 90.0]
    assert runs.read == ["/w/.sovctl/runs/lab-2-100", "/w/.sovctl/runs/lab-3-100"]


def test_no_more_than_a_few_earlier_runs_are_read() -> None:
    runs = Runs(*[("/w", "t.sh", [])] * 9, ("/w", "t.sh", [7.0]))
    assert saves_of(runs) == []
    assert len(runs.read) == 5


@pytest.mark.parametrize(
    ("signal", "saves", "needed"),
    [("USR1@90", [30.0, 90.0], 195), ("B:TERM", [10.0], 75), ("USR1@195", [90.0], 0), ("USR1@9", [], 0),
     (None, [90.0], 0), ("@@", [90.0], 0)],
)  # fmt: skip
def test_a_signal_that_comes_too_late_for_a_save_is_told(signal: str | None, saves: list[float], needed: int) -> None:
    said = lead_advice(replace(PREPARED, choices=Choices(signal=signal)), saves)
    assert said.endswith(f"give at least @{needed}") if needed else said == ""
    assert not needed or said.startswith(f"--signal={signal} comes ")


class Slurm:
    """ports.Preemption"""

    def __init__(self, kind: str, mode: str = "REQUEUE") -> None:
        self._settings = {"PreemptType": kind, "PreemptMode": mode}

    def settings(self) -> Mapping[str, str]:
        return self._settings

    def partitions(self) -> Mapping[str, Partition]:
        return {"main": Partition("main", default=True), "low": Partition("low")}

    def preemptable_partitions(self) -> tuple[Preemptable, ...]:
        return (Preemptable("main", 30, ""), Preemptable("low", 300, ""), Preemptable("safe", 0, "OFF"))

    def preemptable_qos(self) -> tuple[Preemptable, ...]:
        return (Preemptable("normal", 0, "off"), Preemptable("preemptible", 20, "cluster"))


BY_PARTITION, BY_QOS = "preempt/partition_prio", "preempt/qos"


@pytest.mark.parametrize(
    ("kind", "choices", "options", "told"),
    [
        (BY_PARTITION, Choices(), (), "partition main has GraceTime=30 s"),
        (BY_PARTITION, Choices(partition="low,main"), (), "partition main has GraceTime=30 s"),
        (BY_PARTITION, Choices(partition="low"), (), ""),
        (BY_PARTITION, Choices(partition="safe"), (), ""),
        (BY_PARTITION, Choices(clusters="far"), (), ""),
        (BY_QOS, Choices(qos="preemptible"), (), "QOS preemptible has GraceTime=20 s"),
        (BY_QOS, Choices(), ("--qos=preemptible",), "QOS preemptible has GraceTime=20 s"),
        (BY_QOS, Choices(qos="normal"), ("--qos=preemptible",), ""),
        (BY_QOS, Choices(), (), ""),
        ("preempt/none", Choices(), (), ""),
    ],
)
def test_a_grace_time_shorter_than_a_save_is_told(
    kind: str, choices: Choices, options: tuple[str, ...], told: str
) -> None:
    prepared = replace(PREPARED, choices=choices, options=options)
    said = grace_advice(prepared, [12.0, 90.0], lambda: Slurm(kind))
    assert told in said
    assert bool(said) is bool(told)
    assert not said or "ask the site for GraceTime=135" in said


def test_a_grace_time_that_is_long_enough_or_not_known_is_no_news() -> None:
    assert grace_advice(PREPARED, [30.0], lambda: Slurm(BY_PARTITION)) == ""
    assert grace_advice(PREPARED, [90.0], lambda: Slurm(BY_PARTITION, "OFF")) == ""

    def away() -> Slurm:
        raise SlurmUnreachable

    assert grace_advice(PREPARED, [90.0], away) == ""

    def never() -> Slurm:
        raise AssertionError("nothing was measured: nobody is asked")

    assert grace_advice(PREPARED, [], never) == ""
