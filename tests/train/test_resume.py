"""The example as real processes over gloo: interrupted and resumed, it computes the same losses to the last bit."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from launch import DEADLINE_S, Launch, losses

from sovctl.checkpoint.find import latest_complete, scan
from sovctl.model.checkpoint import CheckpointState
from sovctl.model.progress import Progress, parse_progress

pytest.importorskip("torch", reason="sovctl.train needs torch: pip install sovctl[train]")
pytestmark = pytest.mark.train

SMALL = ("--dim", 32, "--layers", 1, "--batch", 4, "--seq", 32)
STEPS = 24


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[int, str]]:
    """World size -> the losses of a run that nobody interrupts."""
    found = {}
    for ranks in (2, 3):
        directory = tmp_path_factory.mktemp(f"undisturbed{ranks}")
        run = Launch(directory, ranks)
        log = directory / "loss.jsonl"
        assert run.start(*SMALL, "--steps", STEPS, "--save-every", 100, "--loss-log", log).finish() == [0] * ranks, (
            run.said
        )
        found[ranks] = losses(log)
        assert sorted(found[ranks]) == list(range(1, STEPS + 1))
    return found


def _progress(directory: Path, rank: int) -> Progress | None:
    try:
        return parse_progress((directory / "run" / "progress" / str(rank)).read_bytes())
    except FileNotFoundError:
        return None


def _wait_for_step(directory: Path, ranks: int, step: int, attempt: int = 0) -> None:
    """Until every rank says it is at `step` or later."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        seen = [_progress(directory, rank) for rank in range(ranks)]
        if all(one is not None and one.attempt == attempt and (one.step or 0) >= step for one in seen):
            return
    pytest.fail(f"the ranks did not reach step {step}: {seen}")


def _resume(directory: Path, ranks: int, attempt: int) -> Launch:
    latest = latest_complete(directory / "checkpoints")
    assert latest is not None
    return Launch(directory, ranks, attempt=attempt, resume_from=Path(latest.path))


def test_a_crash_and_a_resume_change_no_bit(tmp_path: Path, undisturbed: dict[int, dict[int, str]]) -> None:
    """Three ranks: with two, a + b = b + a would hide gradients that are added up in another order."""
    ranks = 3
    log = tmp_path / "loss.jsonl"
    arguments = (*SMALL, "--steps", STEPS, "--save-every", 5, "--loss-log", log)
    crashed = Launch(tmp_path, ranks)
    statuses = crashed.start(*arguments, "--crash-at-step", 13, "--crash-attempts", 1).finish()
    assert all(status != 0 for status in statuses)
    assert "--crash-at-step 13: this rank fails on purpose" in crashed.said
    failed = _progress(tmp_path, ranks - 1)
    assert failed is not None
    assert (failed.step, failed.saved_step) == (13, 10)

    resumed = _resume(tmp_path, ranks, attempt=1)
    assert resumed.resume_from == tmp_path / "checkpoints" / "step-10"
    assert resumed.start(*arguments, "--crash-at-step", 13, "--crash-attempts", 1).finish() == [0] * ranks, resumed.said
    assert losses(log) == undisturbed[ranks]
    ended = _progress(tmp_path, 0)
    assert ended is not None
    assert (ended.phase, ended.attempt, ended.loaded_step, ended.first_step) == ("finished", 1, 10, 11)
    assert [(one.step, one.state.value) for one in scan(tmp_path / "checkpoints")] == [
        (24, "complete"),
        (20, "complete"),
        (15, "complete"),
    ]


def test_one_signalled_rank_stops_all_at_the_same_step(tmp_path: Path, undisturbed: dict[int, dict[int, str]]) -> None:
    log = tmp_path / "loss.jsonl"
    arguments = (*SMALL, "--steps", STEPS, "--save-every", 100, "--loss-log", log)
    stopped = Launch(tmp_path).start(*arguments, "--step-seconds", 0.3)
    _wait_for_step(tmp_path, 2, 1)
    stopped.processes[1].send_signal(signal.SIGUSR1)
    assert stopped.finish() == [75, 75], stopped.said
    latest = latest_complete(tmp_path / "checkpoints")
    assert latest is not None
    assert max(losses(log)) == latest.step < STEPS
    phases = {rank: _progress(tmp_path, rank) for rank in (0, 1)}
    assert {(one.step, one.phase.value) for one in phases.values() if one} == {(latest.step, "stopping")}

    resumed = _resume(tmp_path, 2, attempt=1)
    assert resumed.start(*arguments).finish() == [0, 0], resumed.said
    assert losses(log) == undisturbed[2]


def test_the_stop_file_stops_all_ranks(tmp_path: Path) -> None:
    run = Launch(tmp_path, attempt=3).start(*SMALL, "--steps", 500, "--save-every", 1000, "--step-seconds", 0.1)
    _wait_for_step(tmp_path, 2, 1, attempt=3)
    stop = tmp_path / "run" / "attempts" / "3" / "stop"
    stop.parent.mkdir(parents=True)
    stop.touch()
    assert run.finish() == [75, 75], run.said


def test_killed_in_the_middle_of_saving(tmp_path: Path, undisturbed: dict[int, dict[int, str]]) -> None:
    """SIGKILL of every rank at whatever instant: what is called complete loads, and the losses stay the same."""
    log = tmp_path / "loss.jsonl"
    arguments = (*SMALL, "--steps", STEPS, "--save-every", 1, "--loss-log", log)
    run = Launch(tmp_path).start(*arguments, "--step-seconds", 0.05)
    _wait_for_temporary(tmp_path / "checkpoints")
    for process in run.processes:
        process.kill()
    assert run.finish() == [-signal.SIGKILL] * 2
    resumed = _resume(tmp_path, 2, attempt=1)
    assert resumed.start(*arguments).finish() == [0, 0], resumed.said
    assert losses(log) == undisturbed[2]
    assert all(one.state is CheckpointState.COMPLETE for one in scan(tmp_path / "checkpoints"))
    left = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".tmp")]
    assert left == []


def test_sharded_models_and_one_rank_with_a_full_disk(tmp_path: Path) -> None:
    run = Launch(tmp_path)
    assert run.start(script=Path(__file__).with_name("sharded_rank.py")).finish() == [0, 0], run.said
    assert run.said.count("was not saved") == 1


def _wait_for_temporary(checkpoints: Path) -> None:
    """Until there is a complete checkpoint and the next one is being written."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if latest_complete(checkpoints) and any(checkpoints.glob(".tmp-step-*/*")):
            return
    pytest.fail("no save was seen")
