"""Four ranks as real processes over gloo: the same losses on the same shape, equal ones on another, and two tiers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rank_server import RankServer

from sovctl.checkpoint.complete import judge
from sovctl.checkpoint.find import scan
from sovctl.model.checkpoint import CheckpointState

pytestmark = pytest.mark.train

SCENARIOS = Path(__file__).with_name("scenarios.py")
STEPS, SAVED = 12, 5
SAME_LOSS = 1e-5
"""Relative difference of a float32 loss, over the steps after a change of shape: gradients are added up in another
order there, so the last bits differ."""


def _losses(path: Path) -> list[tuple[int, float]]:
    return [(int(step), float.fromhex(loss)) for step, loss in json.loads(path.read_text()).items()]


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hsdp"])
def test_on_the_same_shape_no_bit_changes(ranks: RankServer, tmp_path: Path, kind: str) -> None:
    log = tmp_path / "log"
    ranks.call(SCENARIOS, "train", 4, log, kind=kind, steps=STEPS, save_at=SAVED, out=str(tmp_path / "whole"))
    ranks.call(
        SCENARIOS, "train", 4, log, kind=kind, steps=STEPS, load=True, out=str(tmp_path / "rest"), **_resume(tmp_path)
    )
    whole, rest = _losses(tmp_path / "whole"), _losses(tmp_path / "rest")
    assert len(rest) == STEPS - SAVED
    assert rest == whole[SAVED:]


@pytest.fixture(scope="module")
def saved(ranks: RankServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind and number of ranks -> a directory with its losses and a checkpoint of step 5."""
    found = {}
    for kind, number in (("fsdp", 4), ("hsdp", 4), ("fsdp", 2)):
        found[f"{kind}{number}"] = directory = tmp_path_factory.mktemp(f"{kind}{number}")
        out = str(directory / "whole")
        log = directory / "log"
        ranks.call(SCENARIOS, "train", number, log, kind=kind, steps=STEPS, save_at=SAVED, out=out, noisy=False)
    return found


@pytest.mark.parametrize(
    ("before", "kind", "number"),
    [
        ("fsdp4", "fsdp", 2),
        ("fsdp2", "fsdp", 4),
        ("fsdp4", "hsdp", 4),
        ("hsdp4", "fsdp", 4),
        ("hsdp4", "ddp", 2),
        ("fsdp4", "plain", 1),
    ],
)
def test_on_another_shape_the_losses_are_equal(
    ranks: RankServer, saved: dict[str, Path], tmp_path: Path, before: str, kind: str, number: int
) -> None:
    out = tmp_path / "rest"
    resume = _resume(saved[before])
    ranks.call(
        SCENARIOS,
        "train",
        number,
        tmp_path / "log",
        kind=kind,
        steps=STEPS,
        load=True,
        out=str(out),
        noisy=False,
        **resume,
    )
    whole, rest = _losses(saved[before] / "whole"), _losses(out)
    assert [step for step, _ in rest] == list(range(SAVED + 1, STEPS + 1))
    assert [loss for _, loss in rest] == pytest.approx([loss for _, loss in whole[SAVED:]], rel=SAME_LOSS)


def test_replicas_are_written_once(saved: dict[str, Path]) -> None:
    sizes = {name: judge(path / "checkpoints" / "step-5", 5, deep=True) for name, path in saved.items()}
    assert {one.state for one in sizes.values()} == {CheckpointState.COMPLETE}
    assert sizes["hsdp4"].world_size == 4
    assert sizes["hsdp4"].size_bytes < 1.2 * sizes["fsdp4"].size_bytes


def _resume(directory: Path) -> dict[str, dict[str, str]]:
    path = directory / "checkpoints" / f"step-{SAVED}"
    return {"environment": {"SOVCTL_RESUME_FROM": str(path), "SOVCTL_ATTEMPT": "1"}}


def test_a_failure_in_the_background_is_told_on_every_rank(ranks: RankServer, tmp_path: Path) -> None:
    said = ranks.call(SCENARIOS, "a_failure_is_told_on_every_rank", 2, tmp_path / "log")
    assert said.count("checkpoint of step 2 was not saved: File too large; training goes on") == 1
    assert [(one.step, one.state.value) for one in scan(tmp_path / "checkpoints")] == [
        (4, "complete"),
        (3, "complete"),
        (1, "complete"),
    ]
    assert not list((tmp_path / "checkpoints").glob(".tmp*"))


def test_a_lost_connection_costs_one_checkpoint(ranks: RankServer, tmp_path: Path) -> None:
    said = ranks.call(SCENARIOS, "a_lost_connection_costs_one_checkpoint", 2, tmp_path / "log")
    assert said.count("checkpoint of step 2 was not saved: the ranks lost each other") == 1
    assert [one.step for one in scan(tmp_path / "checkpoints")] == [4, 3, 1]
    assert not list((tmp_path / "checkpoints").glob(".tmp*"))


def test_what_one_rank_cannot_copy_is_an_error_on_all(ranks: RankServer, tmp_path: Path) -> None:
    ranks.call(SCENARIOS, "what_one_rank_cannot_copy_stops_all", 2, tmp_path / "log")


@pytest.mark.parametrize("in_flight", [1, 2])
def test_slow_storage_makes_the_caller_wait_and_says_so(ranks: RankServer, tmp_path: Path, in_flight: int) -> None:
    ranks.call(SCENARIOS, "back_pressure", 2, tmp_path / "log", in_flight=in_flight)


NODES = ["n001", "n001", "n002", "n002"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hsdp"])
def test_the_nodes_own_tier_is_newer_and_a_lost_node_falls_back(ranks: RankServer, tmp_path: Path, kind: str) -> None:
    local = tmp_path / "local"
    log = tmp_path / "log"
    common = {"local": str(local), "kind": kind, "nodes": NODES}
    ranks.call(SCENARIOS, "two_tiers", 4, log, steps=[1, 2, 3], **common)
    assert sorted(path.relative_to(local).as_posix() for path in local.glob("*/*/*")) == [
        f"test-run/{node}/step-{step}" for node in ("n001", "n002") for step in (2, 3)
    ]
    shutil.rmtree(tmp_path / "checkpoints" / "step-3")  # as if the nodes had been faster than shared storage
    shutil.rmtree(tmp_path / "checkpoints" / "step-2")
    resume = {"SOVCTL_RESUME_FROM": str(tmp_path / "checkpoints" / "step-1"), "SOVCTL_ATTEMPT": "1"}
    ranks.call(SCENARIOS, "load_expecting", 4, log, expected=3, environment=resume, **common)

    shard = local / "test-run" / "n002" / "step-3" / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1])
    ranks.call(SCENARIOS, "load_expecting", 4, log, expected=2, environment=resume, **common)
    (tmp_path / "checkpoints" / ".quarantine" / "step-2-bad").mkdir(parents=True)
    ranks.call(SCENARIOS, "load_expecting", 4, log, expected=1, environment=resume, **common)
    (tmp_path / "checkpoints" / ".quarantine" / "step-2-bad").rmdir()

    common["nodes"] = ["n001", "n001", "n003", "n003"]  # n002 is gone, and with it what was there
    ranks.call(SCENARIOS, "load_expecting", 4, log, expected=1, environment=resume, **common)


def test_a_tier_that_somebody_else_could_write_is_not_used(ranks: RankServer, tmp_path: Path) -> None:
    local = tmp_path / "local"
    (local / "test-run").mkdir(parents=True)
    (local / "test-run").chmod(0o777)
    said = ranks.call(SCENARIOS, "two_tiers", 2, tmp_path / "log", steps=[1], local=str(local))
    assert said.count("no checkpoints on the nodes themselves") == 1
    assert [one.step for one in scan(tmp_path / "checkpoints")] == [1]


@pytest.mark.parametrize(
    ("nodes", "shapes"),
    [
        (NODES, {"0": [[0, 1], [2, 3]], "1": [[0], [1], [2], [3]], "4": [[0, 1, 2, 3]]}),
        (["n001", "n002", "n001", "n002"], {"0": [[0, 2], [1, 3]]}),  # srun --distribution=cyclic
    ],
)
def test_a_mesh_follows_the_nodes(
    ranks: RankServer, tmp_path: Path, nodes: list[str], shapes: dict[str, list[list[int]]]
) -> None:
    ranks.call(SCENARIOS, "mesh_of_the_allocation", 4, tmp_path / "log", nodes=nodes, shapes=shapes)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_sharded_model_can_be_compiled(ranks: RankServer, tmp_path: Path) -> None:
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    ranks.call(SCENARIOS, "compiled", 2, tmp_path / "log", environment=cache)


def test_all_ranks_stop_at_the_same_call(ranks: RankServer, tmp_path: Path) -> None:
    ranks.call(SCENARIOS, "all_stop_at_the_same_call", 3, tmp_path / "log", asker=2)
