"""Progress files: written in time, never half, and never in the way of training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sovctl.model.progress import Phase, Progress, parse_progress
from sovctl.train import Heartbeat, RunContext, own_time
from sovctl.train import heartbeat as heartbeat_module
from sovctl.train.heartbeat import process_started_at


def _context(run_dir: Path | None) -> RunContext:
    return RunContext(run_dir=run_dir, attempt=2, rank=3, world_size=4, node="n003")


def _read(run_dir: Path) -> Progress:
    progress = parse_progress((run_dir / "progress" / "3").read_bytes())
    assert progress is not None
    return progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(heartbeat_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(heartbeat_module.time, "time", lambda: 1_700_000_000.0 + now[0])
    return now


def test_the_story_of_an_attempt(tmp_path: Path, clock: list[float]) -> None:
    heartbeat = Heartbeat(_context(tmp_path))
    first = _read(tmp_path)
    assert (first.phase, first.rank, first.node, first.pid, first.attempt) == ("starting", 3, "n003", os.getpid(), 2)
    heartbeat.loading()
    assert _read(tmp_path).phase is Phase.LOADING
    clock[0] += 2
    heartbeat.loaded(40)
    assert (_read(tmp_path).loaded_step, _read(tmp_path).loaded_at) == (40, 1_700_001_002.0)
    clock[0] += 0.5
    heartbeat.beat(41, 2.5)
    assert (_read(tmp_path).first_step, _read(tmp_path).first_step_at, _read(tmp_path).loss) == (
        41,
        1_700_001_002.5,
        2.5,
    )
    heartbeat.saving()
    assert heartbeat.flush()
    assert _read(tmp_path).phase is Phase.SAVING
    heartbeat.save_started(41)
    heartbeat.training_again()
    assert heartbeat.flush()
    assert (_read(tmp_path).phase, _read(tmp_path).saving_step, _read(tmp_path).saved_step) == (Phase.RUNNING, 41, None)
    heartbeat.save_ended(41, "", save_seconds=2.0, stall_seconds=0.1)
    assert heartbeat.flush()
    said = _read(tmp_path)
    assert (said.saving_step, said.saved_step, said.save_seconds, said.stall_seconds) == (None, 41, 2.0, 0.1)
    heartbeat.save_ended(50, "No space left on device", save_seconds=9.0, stall_seconds=9.0)
    assert heartbeat.flush()
    said = _read(tmp_path)
    assert (said.saved_step, said.save_problem, said.save_seconds) == (41, "No space left on device", 2.0)
    heartbeat.stopping()
    heartbeat.saving()
    heartbeat.save_ended(42, "", save_seconds=1.0, stall_seconds=1.0)
    heartbeat.training_again()
    assert heartbeat.flush()
    said = _read(tmp_path)
    assert (said.phase, said.saved_step, said.save_problem) == (Phase.STOPPING, 42, None)
    heartbeat.finished()
    assert _read(tmp_path).phase is Phase.FINISHED


def test_at_most_one_write_a_second(tmp_path: Path, clock: list[float]) -> None:
    heartbeat = Heartbeat(_context(tmp_path))
    heartbeat.beat(1)
    for step in range(2, 10):
        clock[0] += 0.1
        heartbeat.beat(step)
    assert _read(tmp_path).step == 1
    clock[0] += 0.3
    heartbeat.beat(10)
    assert heartbeat._directory is not None
    assert heartbeat._directory.flush()
    assert _read(tmp_path).step == 10
    assert _read(tmp_path).step_seconds == pytest.approx(0.14)


def test_nothing_else_is_left_in_the_directory(tmp_path: Path) -> None:
    Heartbeat(_context(tmp_path)).beat(1)
    assert [path.name for path in (tmp_path / "progress").iterdir()] == ["3"]


def test_without_a_run_directory_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    heartbeat = Heartbeat(_context(None))
    heartbeat.beat(1, 2.0)
    assert heartbeat.progress.step == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_directory_warns_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "progress").write_text("not a directory")
    heartbeat = Heartbeat(_context(tmp_path))
    heartbeat.beat(1)
    heartbeat.finished()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "training goes on unobserved" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_warns_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "progress").mkdir()
    (tmp_path / "progress" / ".3.2.tmp").symlink_to("/dev/full")
    heartbeat = Heartbeat(_context(tmp_path))
    heartbeat.loading()
    assert "No space left on device" in capsys.readouterr().err


def test_an_odd_loss_is_left_out(tmp_path: Path) -> None:
    Heartbeat(_context(tmp_path)).beat(1, object())  # type: ignore[arg-type]
    assert _read(tmp_path).loss is None


def test_the_last_step_is_written_when_the_script_fails(tmp_path: Path) -> None:
    code = (
        "from sovctl.train import *\n"
        "heartbeat = Heartbeat(RunContext.from_env())\n"
        "for step in range(1, 8): heartbeat.beat(step)\n"
        "raise SystemExit('boom')"
    )
    env = {**os.environ, "SOVCTL_RUN_DIR": str(tmp_path), "RANK": "3", "WORLD_SIZE": "4", "SOVCTL_ATTEMPT": "0"}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False).returncode == 1
    assert _read(tmp_path).step == 7


def test_started_at_is_when_the_process_began() -> None:
    before = time.time()
    code = "from sovctl.train.heartbeat import process_started_at as at; print(at())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert before - 0.1 <= float(out) <= time.time()
    assert process_started_at() < before


def test_a_run_directory_that_hangs_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe without a reader: whoever opens it for writing waits for ever, as on a dead file server."""
    (tmp_path / "progress").mkdir()
    os.mkfifo(tmp_path / "progress" / ".3.2.tmp")
    monkeypatch.setattr(heartbeat_module, "PATIENCE_S", 0.05)
    began = time.monotonic()
    ctx = _context(tmp_path)
    heartbeat = Heartbeat(ctx)
    for step in range(1, 1000):
        heartbeat.beat(step)
    heartbeat.saving()
    heartbeat.training_again()
    assert not heartbeat.flush(0.01)
    assert time.monotonic() - began < 5
    reader = os.open(tmp_path / "progress" / ".3.2.tmp", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert heartbeat.flush(20), "it goes on when the storage does"
    finally:
        os.close(reader)


def test_what_a_step_costs_the_rank_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(own_time.time, "perf_counter", lambda: now[0])
    ctx = _context(tmp_path)
    for step in range(1, 11):
        for seconds in (0.1, 0.2):
            with ctx.compute():
                now[0] += seconds if step != 5 else 9.0
        now[0] += 1.0  # waiting for the others
        with ctx.loading_data():
            now[0] += 0.01
        ctx.step_done(step)
    assert ctx.heartbeat.flush()
    said = _read(tmp_path)
    assert said.busy_seconds == pytest.approx(0.3)
    assert said.busy_spread == pytest.approx(0.0, abs=1e-9)
    assert said.data_seconds == pytest.approx(0.01)
    assert said.busy_steps == 10


def test_a_script_that_does_not_tell_has_no_own_time(tmp_path: Path) -> None:
    ctx = _context(tmp_path)
    for step in range(1, 11):
        ctx.step_done(step)
    assert ctx.heartbeat.progress.busy_seconds is None


class Event:
    """An event of an accelerator whose clock the test winds."""

    now_ms = 0.0
    passed_ms = 0.0

    def record(self) -> None:
        self.at_ms = Event.now_ms

    def query(self) -> bool:
        return self.at_ms <= Event.passed_ms

    def elapsed_time(self, end: Event) -> float:
        return end.at_ms - self.at_ms


def test_an_accelerators_own_time_is_read_when_it_has_passed() -> None:
    clock = own_time.OwnClock(Event)
    for _ in range(8):
        with clock:
            Event.now_ms += 20.0
        clock.step_done(1)
    assert clock.own_time() is None, "the device has not got so far, and nobody waits for it"
    Event.passed_ms = 100.0
    with clock:
        Event.now_ms += 20.0
    clock.step_done(2)
    assert clock.own_time() == own_time.OwnTime(0.02, 0.0, 5)
    Event.passed_ms = 1000.0
    with clock:
        Event.now_ms += 20.0
    clock.step_done(1)
    found = clock.own_time()
    assert found is not None
    assert found.steps == 10


def test_a_rank_has_one_heartbeat(tmp_path: Path) -> None:
    ctx = _context(tmp_path)
    heartbeat = Heartbeat(ctx)
    assert ctx.heartbeat is heartbeat
