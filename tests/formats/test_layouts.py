"""What the real libraries save is recognised and proven, and each kind of damage is found with a reason.

The layouts of Megatron-LM's legacy format, of NeMo 2's outer folders and of neuronx-distributed are laid out by hand
after their source: their libraries cannot be installed from PyPI without a GPU, or have no code that writes them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from sovctl.checkpoint.find import Shelf, latest_complete, resume_point, scan
from sovctl.checkpoint.prove import Terms
from sovctl.model.checkpoint import Checkpoint, CheckpointState
from sovctl.operations.checkpoints import verify_checkpoint

pytestmark = pytest.mark.formats


class Layout(NamedTuple):
    """What to expect of one layout, and how to damage the newest checkpoint of it."""

    format: str
    newest: str
    """Below the directory of checkpoints."""
    steps: tuple[int, int]
    world_size: int | None
    shard: str
    """A file that carries data, in the newest one; empty: the newest one is that file."""
    rank: str
    """The file of the last rank."""
    mark: str = ""
    """The format's own."""


ITERATION = "iter_0000020"
NEMO = "model--val_loss=1.23-step=20-consumed_samples=160.0"
NEURON = "optim/dp_rank_01_tp_rank_01_pp_rank_00.pt"
ZERO = "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"
INDEX = "model.safetensors.index.json"
LAYOUTS = {
    "dcp": Layout("dcp", "step-20", (20, 10), 2, "__0_0.distcp", "__1_0.distcp", ".metadata"),
    "torchtitan": Layout("torchtitan", "step-20", (20, 10), 2, "__0_0.distcp", "__1_0.distcp", ".metadata"),
    "megatron": Layout("megatron", ITERATION, (20, 10), 2, "__0_0.distcp", "__1_0.distcp", "metadata.json"),
    "megatron_legacy": Layout(
        "megatron", ITERATION, (20, 10), None, "mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"
    ),
    "nemo": Layout("nemo", NEMO, (20, 10), 2, "weights/__0_0.distcp", "weights/__1_0.distcp", "weights/metadata.json"),
    "deepspeed_1": Layout("deepspeed", "global_step2", (2, 1), 2, ZERO.format(0), ZERO.format(1)),
    "deepspeed_3": Layout("deepspeed", "global_step2", (2, 1), 2, ZERO.format(0), ZERO.format(1)),
    "lightning": Layout("lightning", "epoch=0-step=4.ckpt", (4, 2), None, "", ""),
    "lightning_sharded": Layout(
        "lightning", "epoch=0-step=4.ckpt", (4, 2), 2, "__0_0.distcp", "__1_0.distcp", ".metadata"
    ),
    "hf_trainer": Layout("hf-trainer", "checkpoint-4", (4, 2), 2, "optimizer.pt", "rng_state_1.pth"),
    "accelerate": Layout("accelerate", "checkpoint_1", (1, 0), 2, "model.safetensors", "random_states_1.pkl"),
    "safetensors": Layout("safetensors", "step_20", (20, 10), None, "model-00001-of-00004.safetensors", INDEX, INDEX),
    "safetensors_single": Layout("safetensors", "model-step-20.safetensors", (20, 10), None, "", ""),
    "nvrx": Layout("nvrx", ".", (20, 10), 2, "0/iter_0000020_0_local.pt", "1/iter_0000020_1_local.pt"),
    "neuronx": Layout("neuronx", "step_20", (20, 10), None, NEURON, NEURON, "done"),
}
MARKED = [name for name, layout in LAYOUTS.items() if layout.mark and layout.format != "safetensors"]
SPREAD = [name for name, layout in LAYOUTS.items() if layout.rank]
every_layout = pytest.mark.parametrize("name", LAYOUTS)
Copy = Callable[[str], Path]


def _newest(root: Path) -> Checkpoint:
    return scan(root)[0]


def _file(root: Path, name: str, file: str) -> Path:
    newest = root / LAYOUTS[name].newest
    return newest / file if file else newest


def _drop_copies(root: Path, name: str) -> None:
    """Lightning's `last.ckpt` has the same step as the one that is damaged."""
    if name == "lightning":
        (root / "last.ckpt").unlink()


def _falls_back(root: Path, name: str) -> Checkpoint:
    """The damaged one is not complete, says why, and the one before it is taken."""
    layout = LAYOUTS[name]
    point = resume_point(root, quiet_s=0)
    assert point.checkpoint is not None
    assert point.checkpoint.step == layout.steps[1]
    assert [one.step for one in point.skipped] == [layout.steps[0]]
    assert point.skipped[0].why
    return point.skipped[0]


@every_layout
def test_what_a_library_saved_is_recognised_proven_and_recorded(name: str, shelf: Copy) -> None:
    root, layout = shelf(name), LAYOUTS[name]
    first = scan(root)
    assert [(one.format, one.state, one.why) for one in first] == [
        (layout.format, CheckpointState.COMPLETE, "") for _ in first
    ]
    assert tuple(dict.fromkeys(one.step for one in first)) == layout.steps
    assert first[0].world_size == layout.world_size
    assert all(one.recorded for one in first)
    again = scan(root)
    assert [(one.path, one.step, one.size_bytes) for one in again] == [
        (one.path, one.step, one.size_bytes) for one in first
    ]
    assert latest_complete(root) == again[0]


@every_layout
def test_a_forced_format_gives_the_same_answer(name: str, shelf: Copy) -> None:
    root, layout = shelf(name), LAYOUTS[name]
    found = latest_complete(root, layout.format)
    assert found is not None
    assert (found.step, found.format) == (layout.steps[0], layout.format)


@pytest.mark.parametrize("proven_before", [False, True], ids=["never looked at", "proven before"])
@every_layout
def test_a_truncated_file_is_found(name: str, proven_before: bool, shelf: Copy) -> None:
    root = shelf(name)
    _drop_copies(root, name)
    if proven_before:
        assert _newest(root).state is CheckpointState.COMPLETE
    path = _file(root, name, LAYOUTS[name].shard)
    os.truncate(path, path.stat().st_size - 1)
    assert path.name in _falls_back(root, name).why


@every_layout
def test_an_empty_file_is_found(name: str, shelf: Copy) -> None:
    root = shelf(name)
    _drop_copies(root, name)
    path = _file(root, name, LAYOUTS[name].shard)
    path.write_bytes(b"")
    assert f"{path.name} is empty" in _falls_back(root, name).why


@pytest.mark.parametrize("name", SPREAD)
def test_a_missing_file_of_a_rank_is_found(name: str, shelf: Copy) -> None:
    root = shelf(name)
    path = _file(root, name, LAYOUTS[name].rank)
    if name == "megatron_legacy":
        shutil.rmtree(path.parent)
    else:
        path.unlink()
    found = _falls_back(root, name)
    assert found.state is CheckpointState.INCOMPLETE
    assert any(word in found.why for word in ("missing", "ranks", "no "))


@pytest.mark.parametrize("name", MARKED)
def test_a_save_without_its_mark_is_not_complete(name: str, shelf: Copy) -> None:
    root, layout = shelf(name), LAYOUTS[name]
    _file(root, name, layout.mark).unlink()
    assert layout.mark in _falls_back(root, name).why


@pytest.mark.parametrize("name", MARKED)
def test_an_old_mark_with_new_shards_is_found(name: str, shelf: Copy) -> None:
    root, layout = shelf(name), LAYOUTS[name]
    path = _file(root, name, layout.shard)
    late = path.stat().st_mtime + 1800
    os.utime(path, (late, late))
    why = _falls_back(root, name).why
    assert f"{path.name} is 30 min newer than the mark of completion" in why


@pytest.mark.parametrize("name", MARKED)
def test_clocks_of_nodes_may_differ(name: str, shelf: Copy) -> None:
    root, layout = shelf(name), LAYOUTS[name]
    path = _file(root, name, layout.shard)
    ahead = path.stat().st_mtime + 20
    os.utime(path, (ahead, ahead))
    assert _newest(root).state is CheckpointState.COMPLETE


@every_layout
def test_a_link_out_of_the_directory_is_not_followed(name: str, shelf: Copy, tmp_path: Path) -> None:
    root = shelf(name)
    _drop_copies(root, name)
    path = _file(root, name, LAYOUTS[name].shard)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    point = resume_point(root, quiet_s=0)
    assert point.checkpoint is not None
    assert point.checkpoint.step == LAYOUTS[name].steps[1]
    if LAYOUTS[name].format != "safetensors" or LAYOUTS[name].shard:
        assert "symbolic link" in point.skipped[0].why


@every_layout
def test_the_directory_of_checkpoints_may_be_a_link(name: str, shelf: Copy, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(shelf(name))
    assert {(one.state, one.why, one.recorded) for one in scan(link)} == {(CheckpointState.COMPLETE, "", True)}
    assert {one.recorded for one in scan(link)} == {True}


@every_layout
def test_a_changed_file_makes_the_record_worthless(name: str, shelf: Copy) -> None:
    """Same size, other time: proven again from its structure, not trusted, and not refused for it either."""
    root, layout = shelf(name), LAYOUTS[name]
    _drop_copies(root, name)
    assert _newest(root).recorded
    path = _file(root, name, layout.shard)
    os.utime(path, (path.stat().st_mtime + 1, path.stat().st_mtime + 1))
    shelf_now = Shelf(root, Terms(record=False))
    assert shelf_now.checkpoint(0).state is CheckpointState.COMPLETE
    assert not shelf_now.checkpoint(0).recorded


@every_layout
def test_deep_reads_every_byte(name: str, shelf: Copy) -> None:
    root, layout = shelf(name), LAYOUTS[name]
    _drop_copies(root, name)
    step = layout.steps[0] if name == "nvrx" else None
    checkpoint = root if name == "nvrx" else root / layout.newest
    assert verify_checkpoint(checkpoint, step=step, deep=True).proven
    path = _file(root, name, layout.shard)
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verify_checkpoint(checkpoint, step=step).proven  # neither size nor time tells
    found = verify_checkpoint(checkpoint, step=step, deep=True)
    assert (found.proven, path.name in found.why) == (False, True)
