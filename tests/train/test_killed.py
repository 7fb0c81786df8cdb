"""SIGKILL of one rank or of all, at random instants while checkpoints are written: the newest is complete and loads."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from rank_server import DEADLINE_S, RankServer

from sovctl.checkpoint.complete import judge
from sovctl.checkpoint.find import candidates, latest_complete
from sovctl.model.checkpoint import CheckpointState

pytestmark = pytest.mark.train

SCENARIOS = Path(__file__).with_name("scenarios.py")
KILLS = 200
RANKS = 2
LONGEST_S = 0.06
"""A save of this model takes about half of it."""


def test_a_kill_at_any_instant_leaves_the_newest_checkpoint_complete(ranks: RankServer, tmp_path: Path) -> None:
    seed = int(os.environ.get("SOVCTL_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    print(f"SOVCTL_TEST_SEED={seed} repeats the same instants")
    chance = random.Random(seed)
    checkpoints, newest, in_the_middle = tmp_path / "checkpoints", 0, 0
    for attempt in range(KILLS):
        log = tmp_path / f"log-{attempt}"
        resume = {"SOVCTL_ATTEMPT": str(attempt), "SOVCTL_RUN_DIR": ""}
        if newest:
            resume["SOVCTL_RESUME_FROM"] = str(checkpoints / f"step-{newest}")
        pids = ranks.start(
            SCENARIOS, "save_until_killed", RANKS, log, background=chance.random() < 0.7, environment=resume
        )
        _wait_for_a_save(checkpoints, attempt, newest, log)
        time.sleep(chance.uniform(0, LONGEST_S))
        victims = list(pids) if chance.random() < 0.4 else [chance.choice(pids)]
        _kill(victims)
        time.sleep(chance.uniform(0, LONGEST_S / 4))  # what a launcher takes to end the others
        _kill([pid for pid in pids if pid not in victims])
        assert -signal.SIGKILL in ranks.wait(pids), log.read_text()
        in_the_middle += any(checkpoints.glob(f".tmp-step-*-{attempt}"))

        latest = latest_complete(checkpoints)
        if latest is None and newest == 0:
            continue  # the very first save was hit
        assert latest is not None
        assert latest.step >= newest, "a checkpoint that was complete is gone"
        assert judge(checkpoints / f"step-{latest.step}", latest.step, deep=True).state is CheckpointState.COMPLETE
        assert {step for step, _ in candidates(checkpoints)} <= set(range(latest.step + 1)), "named, but not complete"
        newest = latest.step
    assert in_the_middle > KILLS / 4, "the instants missed the saves"
    print(f"{in_the_middle} of {KILLS} kills hit a checkpoint half written; the last complete one is of step {newest}")


def _kill(pids: list[int]) -> None:
    for pid in pids:  # nobody has waited for them yet, so the number is still theirs
        os.kill(pid, signal.SIGKILL)


def _wait_for_a_save(checkpoints: Path, attempt: int, newest: int, log: Path) -> None:
    """Until this attempt has begun to write: by then it has loaded what was there, and proven it."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if any(checkpoints.glob(f".tmp-step-*-{attempt}")) or (checkpoints / f"step-{newest + 1}").exists():
            return
        assert "Error" not in (said := log.read_text() if log.exists() else ""), said
        time.sleep(0.001)
    pytest.fail(f"attempt {attempt} saved nothing: {log.read_text()}")
