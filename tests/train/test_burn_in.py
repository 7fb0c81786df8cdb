"""The burn-in program with a real torch on the CPU: right answers, a deadline, an end when asked, and no torch."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import pytest

import sovctl
from sovctl.adapters.node.burn_in import ReferenceFile, TorchBurnIn
from sovctl.adapters.node.other_jobs import OtherJobs
from sovctl.health.burn_in import judge_run
from sovctl.model.burn_in import BurnInOutcome, BurnInSpec, Piece

PROGRAM = Path(sovctl.__file__).parent / "train" / "burn_in.py"


def spec(piece: Piece, **changes: float) -> BurnInSpec:
    return BurnInSpec(piece, changes.get("seconds", 0.05), "cpu", changes.get("timeout_s", 120.0))


def nobody() -> str:
    return ""


@pytest.mark.train
@pytest.mark.parametrize("piece", Piece)
def test_each_piece_is_right_on_this_machine_twice(piece: Piece) -> None:
    pytest.importorskip("torch")
    work = TorchBurnIn(PROGRAM)
    first, again = work.run(spec(piece), nobody), work.run(spec(piece), nobody)
    assert (first.problem, first.absent, first.count, len(first.devices)) == ("", "", 2, 2)
    result, references = judge_run(first, {}, "n1", None)
    assert result.outcome is BurnInOutcome.LEARNT, result.evidence
    assert all(device.repeats >= 2 and device.rate > 0 for device in first.devices)
    assert judge_run(again, references, "n1", None)[0].outcome is BurnInOutcome.PASSED


def test_a_python_without_torch_says_so(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n', "utf-8")
    bare.chmod(0o755)
    run = TorchBurnIn(PROGRAM, str(bare)).run(spec(Piece.MATMUL), nobody)
    assert "torch cannot be imported" in run.absent and run.problem == ""
    missing = TorchBurnIn(PROGRAM, "/nowhere/python").run(spec(Piece.MATMUL), nobody)
    assert "/nowhere/python" in missing.absent


def _stuck(tmp_path: Path) -> Path:
    """A program that says on what it runs, starts a child, and then hangs, as a driver in trouble makes it."""
    program = tmp_path / "stuck.py"
    program.write_text(
        "import json, os, time\n"
        "print(json.dumps({'setup': {'torch': '2', 'runtime': 'cuda 13', 'count': 2, 'size': 1}}), flush=True)\n"
        "print(json.dumps({'rank': 0, 'name': 'B200', 'uuid': 'GPU-0', 'checksum': 'a', 'rate': 1.0}), flush=True)\n"
        f"pid = os.fork()\nopen({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(600)\n",
        "utf-8",
    )
    return program


def _gone(tmp_path: Path) -> bool:
    deadline = time.monotonic() + 10
    pids = [int(line) for line in (tmp_path / "pids").read_text("utf-8").split()]
    while time.monotonic() < deadline:
        if not any(_alive(pid) for pid in pids):
            return len(pids) == 2
        time.sleep(0.01)
    return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_one_that_hangs_is_ended_with_all_it_started_and_names_who_was_silent(tmp_path: Path) -> None:
    run = TorchBurnIn(_stuck(tmp_path)).run(spec(Piece.MATMUL, timeout_s=2.0), nobody)
    result, _ = judge_run(run, {}, "n1", None)
    assert result.outcome is BurnInOutcome.FAILED
    assert "no answer within 2 s" in result.evidence and "accelerator 1" in result.evidence
    assert _gone(tmp_path)


def test_it_ends_at_once_when_a_job_comes(tmp_path: Path) -> None:
    began = time.monotonic()
    arrived = tmp_path / "pids"
    run = TorchBurnIn(_stuck(tmp_path)).run(spec(Piece.MATMUL), lambda: "job 8 is here" if arrived.exists() else "")
    assert run.interrupted == "job 8 is here" and time.monotonic() - began < 30


def test_a_program_that_breaks_is_quoted(tmp_path: Path) -> None:
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('CUDA driver version is insufficient')\n", "utf-8")
    run = TorchBurnIn(program).run(spec(Piece.MATMUL), nobody)
    assert run.problem == "it ended with status 1: CUDA driver version is insufficient"


def test_other_jobs_are_seen_by_mark_and_by_step(tmp_path: Path) -> None:
    for pid, title in (("10", "slurmstepd: [123.extern]"), ("11", "slurmstepd: [124.batch]"), ("12", "bash\0slurm")):
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "cmdline").write_text(title, "utf-8")
    assert OtherJobs(tuple, str(tmp_path))() == "job 123, 124 is here"
    assert OtherJobs(tuple, str(tmp_path), own="123")() == "job 124 is here"
    assert OtherJobs(lambda: ("9",), str(tmp_path / "empty"))() == "job 9 is here"
    assert OtherJobs(tuple, str(tmp_path / "empty"))() == ""


def test_references_of_somebody_else_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "shared" / "references.json"
    file = ReferenceFile(path)
    assert file.load() is None
    file.save({"schema": "x"})
    assert file.load() == {"schema": "x"} and stat.S_IMODE(path.stat().st_mode) == 0o644
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        assert file.load() is None
