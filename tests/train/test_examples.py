"""The examples as real processes on four ranks: killed by a stop request, they go on with the same losses."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from launch import Launch

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
    tmp_path: Path, name: str, more: tuple[int, ...]
) -> None:
    run = Launch(tmp_path, 4).start(STEPS, *more, script=EXAMPLES / f"{name}.py")
    assert run.finish() == [0] * 4, run.said
    whole = _losses(run.said)
    assert sorted(whole) == list(range(1, STEPS + 1))
    assert float.fromhex(whole[STEPS]) < float.fromhex(whole[1]), "it learns nothing"
    latest = latest_complete(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.step == STEPS
    said = [parse_progress((tmp_path / "run" / "progress" / str(rank)).read_bytes()) for rank in range(4)]
    assert {(one.phase.value, one.step, one.saved_step) for one in said if one} == {("finished", STEPS, STEPS)}

    resumed = Launch(tmp_path, 4, attempt=1, resume_from=tmp_path / "checkpoints" / "step-20")
    assert resumed.start(STEPS, *more, script=EXAMPLES / f"{name}.py").finish() == [0] * 4, resumed.said
    assert _losses(resumed.said) == {step: loss for step, loss in whole.items() if step > 20}


def test_an_example_that_is_asked_to_stop_leaves_with_75_and_its_checkpoint_complete(tmp_path: Path) -> None:
    run = Launch(tmp_path, 2).start(100_000, script=EXAMPLES / "fsdp2.py")
    assert run.processes[1].stdout is not None
    assert run.processes[0].stdout is not None
    assert "step 1 " in run.processes[0].stdout.readline()
    run.processes[1].send_signal(signal.SIGTERM)
    assert run.finish() == [75, 75], run.said
    latest = latest_complete(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.step == max(_losses(run.said))
