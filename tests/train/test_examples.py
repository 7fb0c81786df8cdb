"""The examples as real processes on four ranks: killed by a stop request, they go on with the same losses."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from rank_server import DEADLINE_S, RankServer

from sovctl.checkpoint.find import latest_complete
from sovctl.model.progress import parse_progress

pytest.importorskip("torch", reason="sovctl.train needs torch: pip install sovctl[train]")
pytestmark = pytest.mark.train

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 30


def _losses(said: str) -> dict[int, str]:
    return {int(step): loss for step, loss in re.findall(r"step (\d+) loss (\S+)", said)}


@pytest.mark.parametrize(("name", "more"), [("ddp", ()), ("fsdp2", ()), ("hsdp", (2,))])
def test_an_example_trains_on_four_ranks_and_resumes_to_the_same_losses(
    ranks: RankServer, tmp_path: Path, name: str, more: tuple[int, ...]
) -> None:
    script, argv = EXAMPLES / f"{name}.py", [STEPS, *more]
    said = ranks.call(script, "__main__", 4, tmp_path / "log", argv=argv)
    whole = _losses(said)
    assert sorted(whole) == list(range(1, STEPS + 1))
    assert float.fromhex(whole[STEPS]) < float.fromhex(whole[1]), "it learns nothing"
    latest = latest_complete(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.step == STEPS
    progress = [parse_progress((tmp_path / "run" / "progress" / str(rank)).read_bytes()) for rank in range(4)]
    assert {(one.phase.value, one.step, one.saved_step) for one in progress if one} == {("finished", STEPS, STEPS)}

    again = {"SOVCTL_ATTEMPT": "1", "SOVCTL_RESUME_FROM": str(tmp_path / "checkpoints" / "step-20")}
    said = ranks.call(script, "__main__", 4, tmp_path / "log-1", argv=argv, environment=again)
    assert _losses(said) == {step: loss for step, loss in whole.items() if step > 20}


def test_an_example_that_is_asked_to_stop_leaves_with_75_and_its_checkpoint_complete(
    ranks: RankServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    pids = ranks.start(EXAMPLES / "fsdp2.py", "__main__", 2, log, argv=[100_000])
    deadline = time.monotonic() + DEADLINE_S
    while not (log.exists() and "step 1 " in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pids[1], signal.SIGTERM)
    assert ranks.wait(pids) == [75, 75], log.read_text()
    latest = latest_complete(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.step == max(_losses(log.read_text()))
