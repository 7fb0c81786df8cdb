"""The example as real processes over gloo: interrupted and resumed, it computes the same losses to the last bit."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from launch import Launch, losses
from rank_server import DEADLINE_S, RankServer

from sovctl.checkpoint.find import latest_complete, scan
from sovctl.model.checkpoint import CheckpointState
from sovctl.model.progress import Progress, parse_progress

pytest.importorskip("torch", reason="sovctl.train needs torch: pip install sovctl[train]")
pytestmark = pytest.mark.train

SMALL = ("--dim", 32, "--layers", 1, "--batch", 4, "--seq", 32)
STEPS = 24


@pytest.fixture(scope="module")
def undisturbed(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[int, str]]:
    """World size -> the losses of a run that nobody interrupts."""
    found = {}
    for number in (2, 3):
        directory = tmp_path_factory.mktemp(f"undisturbed{number}")
        run = Launch(ranks, directory, number)
        log = directory / "loss.jsonl"
        assert run.start(*SMALL, "--steps", STEPS, "--save-every", 100, "--loss-log", log).finish() == [0] * number, (
            run.said
        )
        found[number] = losses(log)
        assert sorted(found[number]) == list(range(1, STEPS + 1))
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


def _resume(before: Launch) -> Launch:
    latest = latest_complete(before.directory / "checkpoints")
    assert latest is not None
    return replace(before, attempt=before.attempt + 1, resume_from=Path(latest.path))


def test_a_crash_and_a_resume_change_no_bit(
    ranks: RankServer, tmp_path: Path, undisturbed: dict[int, dict[int, str]]
) -> None:
    """Three ranks: with two, a + b = b + a would hide gradients that are added up in another order."""
    number = 3
    log = tmp_path / "loss.jsonl"
    arguments = (*SMALL, "--steps", STEPS, "--save-every", 5, "--loss-log", log)
    crashed = Launch(ranks, tmp_path, number)
    statuses = crashed.start(*arguments, "--crash-at-step", 13, "--crash-attempts", 1).finish()
    assert all(status != 0 for status in statuses)
    assert "--crash-at-step 13: this rank fails on purpose" in crashed.said
    failed = _progress(tmp_path, number - 1)
    assert failed is not None
    assert (failed.step, failed.saved_step) == (13, 10)

    resumed = _resume(crashed)
    assert resumed.resume_from == tmp_path / "checkpoints" / "step-10"
    assert resumed.start(*arguments, "--crash-at-step", 13, "--crash-attempts", 1).finish() == [0] * number, (
        resumed.said
    )
    assert losses(log) == undisturbed[number]
    ended = _progress(tmp_path, 0)
    assert ended is not None
    assert (ended.phase, ended.attempt, ended.loaded_step, ended.first_step) == ("finished", 1, 10, 11)
    assert [(one.step, one.state.value) for one in scan(tmp_path / "checkpoints")] == [
        (24, "complete"),
        (20, "complete"),
        (15, "complete"),
    ]


def test_one_signalled_rank_stops_all_at_the_same_step(
    ranks: RankServer, tmp_path: Path, undisturbed: dict[int, dict[int, str]]
) -> None:
    log = tmp_path / "loss.jsonl"
    arguments = (*SMALL, "--steps", STEPS, "--save-every", 100, "--loss-log", log)
    stopped = Launch(ranks, tmp_path).start(*arguments, "--step-seconds", 0.3)
    _wait_for_step(tmp_path, 2, 1)
    stopped.signal(1, signal.SIGUSR1)
    assert stopped.finish() == [75, 75], stopped.said
    latest = latest_complete(tmp_path / "checkpoints")
    assert latest is not None
    assert max(losses(log)) == latest.step < STEPS
    phases = {rank: _progress(tmp_path, rank) for rank in (0, 1)}
    assert {(one.step, one.phase.value) for one in phases.values() if one} == {(latest.step, "stopping")}

    resumed = _resume(stopped)
    assert resumed.start(*arguments).finish() == [0, 0], resumed.said
    assert losses(log) == undisturbed[2]


def test_the_stop_file_stops_all_ranks(ranks: RankServer, tmp_path: Path) -> None:
    run = Launch(ranks, tmp_path, attempt=3).start(*SMALL, "--steps", 500, "--save-every", 1000, "--step-seconds", 0.1)
    _wait_for_step(tmp_path, 2, 1, attempt=3)
    stop = tmp_path / "run" / "attempts" / "3" / "stop"
    stop.parent.mkdir(parents=True)
    stop.touch()
    assert run.finish() == [75, 75], run.said


def test_killed_in_the_middle_of_saving(
    ranks: RankServer, tmp_path: Path, undisturbed: dict[int, dict[int, str]]
) -> None:
    """SIGKILL of every rank at whatever instant: what is called complete loads, and the losses stay the same."""
    log = tmp_path / "loss.jsonl"
    arguments = (*SMALL, "--steps", STEPS, "--save-every", 1, "--loss-log", log)
    run = Launch(ranks, tmp_path).start(*arguments, "--step-seconds", 0.05)
    _wait_for_temporary(tmp_path / "checkpoints")
    for rank in (0, 1):
        run.signal(rank, signal.SIGKILL)
    assert run.finish() == [-signal.SIGKILL] * 2
    resumed = _resume(run)
    assert resumed.start(*arguments).finish() == [0, 0], resumed.said
    assert losses(log) == undisturbed[2]
    assert all(one.state is CheckpointState.COMPLETE for one in scan(tmp_path / "checkpoints"))
    left = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".tmp")]
    assert left == []


def _wait_for_temporary(checkpoints: Path) -> None:
    """Until there is a complete checkpoint and the next one is being written."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if latest_complete(checkpoints) and any(checkpoints.glob(".tmp-step-*/*")):
            return
    pytest.fail("no save was seen")
