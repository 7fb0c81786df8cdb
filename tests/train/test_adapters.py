"""Other people's loops with two lines of ours: asked to stop, they save, leave with 75 and go on later."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from rank_server import RankServer

from sovctl.checkpoint.find import latest_complete
from sovctl.model.progress import Progress, parse_progress

pytestmark = pytest.mark.train

SCRIPTS = Path(__file__).with_name("adapter_scripts.py")
STEPS, STOP_AT = 12, 6


def _losses(path: Path) -> dict[int, str]:
    return {int(step): loss for step, loss in json.loads(path.read_text()).items()}


def _progress(directory: Path) -> Progress:
    progress = parse_progress((directory / "run" / "progress" / "0").read_bytes())
    assert progress is not None
    return progress


def _newest(directory: Path, pattern: str) -> Path:
    found = {
        int(path.name.removesuffix(".ckpt").rpartition("step=")[2].rpartition("-")[2]): path
        for path in directory.glob(pattern)
    }
    return found[max(found)]


def _needs(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install sovctl[formats]")


@pytest.mark.parametrize(
    ("function", "library", "pattern"),
    [
        ("own_loop", "torch", "step-*"),
        ("lightning_loop", "lightning", "*.ckpt"),
        ("transformers_loop", "transformers", "checkpoint-*"),
    ],
)
def test_asked_to_stop_it_goes_on_as_if_nothing_had_been(
    ranks: RankServer, tmp_path: Path, function: str, library: str, pattern: str
) -> None:
    _needs(library)
    whole = tmp_path / "whole"
    whole.mkdir()
    alone = {"SOVCTL_ATTEMPT": "0"}
    said = ranks.call(SCRIPTS, function, 1, whole / "log", out=str(whole / "losses"), environment=alone)
    undisturbed = _losses(whole / "losses")
    assert sorted(undisturbed) == list(range(1, STEPS + 1)), said
    ended = _progress(whole)
    assert (ended.phase, ended.step) == ("finished", STEPS)

    log = tmp_path / "log"
    pids = ranks.start(SCRIPTS, function, 1, log, out=str(tmp_path / "first"), stop_at=STOP_AT, environment=alone)
    assert ranks.wait(pids) == [75], log.read_text()
    first = _losses(tmp_path / "first")
    stopped = _progress(tmp_path)
    assert STOP_AT <= max(first) < STEPS
    assert (stopped.phase, stopped.step, stopped.saved_step) == ("stopping", max(first), max(first))

    newest = _newest(tmp_path / "checkpoints", pattern)
    again = {"SOVCTL_ATTEMPT": "1", "SOVCTL_RESUME_FROM": str(newest), "SOVCTL_RESUME_STEP": str(max(first))}
    ranks.call(SCRIPTS, function, 1, log, out=str(tmp_path / "second"), environment=again)
    second = _losses(tmp_path / "second")
    assert min(second) == max(first) + 1
    assert {**first, **second} == undisturbed
    assert (_progress(tmp_path).loaded_step, _progress(tmp_path).phase) == (max(first), "finished")


def test_a_loop_of_ones_own_leaves_complete_checkpoints(ranks: RankServer, tmp_path: Path) -> None:
    ranks.call(SCRIPTS, "own_loop", 1, tmp_path / "log", out=str(tmp_path / "losses"))
    latest = latest_complete(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.step == STEPS


def test_lightning_does_not_requeue_the_job_too(ranks: RankServer, tmp_path: Path) -> None:
    _needs("lightning")
    ranks.call(SCRIPTS, "lightning_requeues_nothing", 1, tmp_path / "log")


@pytest.mark.parametrize("least", [{"min_steps": 11}, {"min_epochs": 3}, {}], ids=str)
def test_lightning_stops_before_it_has_done_what_it_was_to_do_at_least(
    ranks: RankServer, tmp_path: Path, least: dict[str, int]
) -> None:
    _needs("lightning")
    log, out = tmp_path / "log", tmp_path / "losses"
    pids = ranks.start(SCRIPTS, "lightning_loop", 1, log, out=str(out), stop_at=STOP_AT, **least)
    assert ranks.wait(pids) == [75], log.read_text()
    assert max(_losses(out)) == STOP_AT + 1


def test_lightning_goes_on_after_a_checkpoint_that_rank_0_could_not_write(ranks: RankServer, tmp_path: Path) -> None:
    _needs("lightning")
    said = ranks.call(
        SCRIPTS, "lightning_on_a_full_disk", 2, tmp_path / "log", out=str(tmp_path / "steps"), strategy="ddp"
    )
    assert said.count("was not saved: No space left on device; training goes on") == 1
    assert [(tmp_path / f"steps-{rank}").read_text() for rank in (0, 1)] == ["8", "8"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        f"epoch=0-step={step}.ckpt" for step in (4, 6, 8)
    ]


def test_lightning_with_shards_ends_where_one_cannot_be_written(ranks: RankServer, tmp_path: Path) -> None:
    _needs("lightning")
    log = tmp_path / "log"
    pids = ranks.start(SCRIPTS, "lightning_on_a_full_disk", 1, log, out=str(tmp_path / "steps"), strategy="sharded")
    assert ranks.wait(pids) == [1], log.read_text()
    assert "No space left on device" in log.read_text()
