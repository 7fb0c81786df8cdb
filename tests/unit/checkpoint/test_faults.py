"""Each fault gets the right answer and a reason that a person understands, whatever format it is in."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from format_builders import age, dcp, deepspeed, hf_trainer, megatron, torch_file

from sovctl.checkpoint.find import Shelf, latest_complete, resume_point, scan
from sovctl.checkpoint.mark import MARK
from sovctl.checkpoint.prove import Terms
from sovctl.model.checkpoint import CheckpointState, Tracker


def _why(root: Path, **terms: float) -> str:
    return resume_point(root, quiet_s=terms.get("quiet_s", 0)).skipped[0].why


# Content that wants to be run


class Bomb:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.touched}",)


def test_a_pickle_bomb_is_never_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    bomb = pickle.dumps({"dp_world_size": 2, "global_step": 5, "x": Bomb(touched)})
    root = tmp_path / "checkpoints"
    (dcp(root / "step-1") / ".metadata").write_bytes(bomb)
    (deepspeed(root, 2) / "mp_rank_00_model_states.pt").write_bytes(torch_file(bomb))
    (root / "last.ckpt").write_bytes(torch_file(bomb))
    age(root)
    found = {one.path.name: one for one in scan(root)}
    assert not touched.exists()
    assert found["step-1"].why == ".metadata is not the table of contents of a checkpoint"
    assert found["last.ckpt"].step == 5
    assert pickle.loads(bomb)["x"] == 0  # it is a live one
    assert touched.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x8c\xff",
        b"\x8d" + b"\xff" * 8,
        b"c",
        b"\xff\xff",
        b"\x8b\xff\xff\xff\x7f",
        b"(" * 10_000,
        b"K\x01" * 99,
    ],
)
def test_a_table_of_contents_made_of_garbage(tmp_path: Path, data: bytes) -> None:
    (dcp(tmp_path / "step-1") / ".metadata").write_bytes(data)
    age(tmp_path)
    assert latest_complete(tmp_path) is None


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("global_step5", "zero_pp_rank_99999999999_mp_rank_00_model_states.pt"),
        ("iter_0000005", "mp_rank_99999999999_999/model_optim_rng.pt"),
        ("step_5", "model/dp_rank_99999999_tp_rank_9999_pp_rank_00.pt"),
    ],
)
def test_names_made_to_keep_the_reader_busy(tmp_path: Path, folder: str, name: str) -> None:
    path = tmp_path / folder / name
    path.parent.mkdir(parents=True)
    path.write_bytes(torch_file())
    (tmp_path / folder / "done").write_text("1")
    age(tmp_path)
    assert _why(tmp_path) == "its files speak of more than 1000000 ranks"


# Trackers


def test_a_tracker_that_points_to_nothing_or_says_nothing(tmp_path: Path) -> None:
    megatron(tmp_path, 10)
    age(tmp_path)
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    for text, problem in {
        "20": "it names step 20, which is not there",
        "": "it is empty",
        "release": "it names `release`, which is not there",
        "ten": "it names no iteration",
    }.items():
        tracker.write_text(text)
        shelf = Shelf(tmp_path)
        assert shelf.trackers == (Tracker(tracker.name, text, None, problem),)
        assert shelf.checkpoint(0).state is CheckpointState.COMPLETE
    tracker.write_text("10\n")
    assert Shelf(tmp_path).trackers == (Tracker(tracker.name, "10", 10, ""),)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_tracker_that_is_no_file(tmp_path: Path, kind: str) -> None:
    deepspeed(tmp_path, 10)
    age(tmp_path)
    tracker = tmp_path / "latest"
    {"link": lambda: tracker.symlink_to("/dev/zero"), "folder": tracker.mkdir, "pipe": lambda: os.mkfifo(tracker)}[
        kind
    ]()
    assert Shelf(tmp_path).trackers[0].problem
    assert latest_complete(tmp_path) is not None


def test_deepspeed_data_that_its_engine_has_not_committed(tmp_path: Path) -> None:
    for step in (10, 20):
        deepspeed(tmp_path, step)
    (tmp_path / "latest").write_text("global_step10")
    age(tmp_path)
    assert latest_complete(tmp_path).step == 10  # type: ignore[union-attr]
    assert _why(tmp_path) == "its save was not finished: latest names step 10"
    (tmp_path / "latest").write_text("")  # a crash while it was overwritten: the files must tell
    assert latest_complete(tmp_path).step == 20  # type: ignore[union-attr]


# Writers and clocks


def test_a_directory_that_a_live_job_writes(tmp_path: Path) -> None:
    hf_trainer(tmp_path, 10)
    age(tmp_path)
    hf_trainer(tmp_path, 20)
    found = scan(tmp_path)
    assert [one.state for one in found] == [CheckpointState.WRITING, CheckpointState.COMPLETE]
    assert "its format does not mark the end of a save" in found[0].why
    assert latest_complete(tmp_path, quiet_s=0).step == 20  # type: ignore[union-attr]


def test_a_format_with_a_mark_needs_no_silence(tmp_path: Path) -> None:
    dcp(tmp_path / "step-10")
    assert latest_complete(tmp_path).step == 10  # type: ignore[union-attr]


@pytest.mark.parametrize("wrong_s", [-7200, 7200])
def test_the_clock_of_this_node_does_not_count(tmp_path: Path, wrong_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hf_trainer(tmp_path, 10)
    age(tmp_path, 90)
    hf_trainer(tmp_path, 20)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + wrong_s * 10**9)
    assert [one.state for one in scan(tmp_path)] == [CheckpointState.WRITING, CheckpointState.COMPLETE]


def test_a_clock_probe_leaves_nothing(tmp_path: Path) -> None:
    hf_trainer(tmp_path, 10)
    scan(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoint-10"]


def test_an_unfinished_overwrite(tmp_path: Path) -> None:
    path = dcp(tmp_path / "step-10")
    (path / ".metadata.tmp").write_bytes(b"")
    assert "a save into it was not finished" in _why(tmp_path)


# Links


def test_the_directory_of_checkpoints_may_be_a_link(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    for rank in (0, 1):
        (scratch / str(rank)).mkdir(parents=True)
        (scratch / str(rank) / f"iter_0000030_{rank}_local.pt").write_bytes(torch_file())
    for name in ("epoch=0-step=20.ckpt", "last.ckpt", "model-step-15.safetensors"):
        whole = hf_trainer(tmp_path / "model", 1) / "model.safetensors" if name.endswith("tensors") else None
        (scratch / name).write_bytes(whole.read_bytes() if whole else torch_file(pickle.dumps({"global_step": 25})))
    dcp(scratch / "step-10")
    age(scratch)
    (tmp_path / "checkpoints").symlink_to(scratch)
    for _ in range(2):
        found = scan(tmp_path / "checkpoints")
        assert [(one.step, one.why, one.recorded) for one in found] == [
            (step, "", True) for step in (30, 25, 20, 15, 10)
        ]


def test_a_file_or_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    dcp(elsewhere / "step-30")
    (elsewhere / "20.ckpt").write_bytes(torch_file())
    root = tmp_path / "checkpoints"
    root.mkdir()
    (root / "step-30").symlink_to(elsewhere / "step-30")
    (root / "epoch=0-step=20.ckpt").symlink_to(elsewhere / "20.ckpt")
    (root / "0").symlink_to(elsewhere)
    assert [(one.step, "symbolic link" in one.why) for one in scan(root)] == [(30, True), (20, True)]
    assert sorted(os.listdir(elsewhere)) == ["20.ckpt", "step-30"]


# Siblings


def test_the_newest_is_compared_with_a_complete_one_beside_it(tmp_path: Path) -> None:
    hf_trainer(tmp_path, 10, optimizer_pieces=9)
    hf_trainer(tmp_path, 20, optimizer_pieces=3)
    age(tmp_path)
    assert "of the size of checkpoint-10 beside it" in _why(tmp_path)
    assert Shelf(tmp_path, Terms(alone=True)).checkpoint(0).state is CheckpointState.COMPLETE
    shutil.rmtree(tmp_path / "checkpoint-20")
    (hf_trainer(tmp_path, 20, optimizer_pieces=9) / "optimizer.pt").unlink()
    age(tmp_path)
    assert _why(tmp_path) == "it has no optimizer.pt, which checkpoint-10 beside it has"


def test_a_run_that_changed_its_shape_loses_one_checkpoint_at_most(tmp_path: Path) -> None:
    for step, ranks in ((10, 4), (20, 2)):
        hf_trainer(tmp_path, step, ranks=ranks)
    age(tmp_path)
    assert latest_complete(tmp_path).step == 10  # type: ignore[union-attr]
    assert _why(tmp_path) == "it has files of 2 ranks, checkpoint-10 beside it of 4"
    hf_trainer(tmp_path, 30, ranks=2)
    age(tmp_path)
    assert [one.state.value for one in scan(tmp_path)] == ["complete"] * 3


# Where nothing can be written


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "sovctl-test", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root can mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_gets_no_mark_and_the_right_answer(small_disk: Path) -> None:
    path = dcp(small_disk / "step-10")
    with open(small_disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while filler.write(b"x" * 4096):
            pass
    found = latest_complete(small_disk)
    assert found is not None
    assert (found.step, found.recorded) == (10, False)
    assert sorted(os.listdir(path)) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    (small_disk / "filler").unlink()
    assert latest_complete(small_disk).recorded  # type: ignore[union-attr]


def test_a_read_only_directory_gets_the_right_answer(small_disk: Path) -> None:
    hf_trainer(small_disk, 10)
    age(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    found = latest_complete(small_disk)
    assert found is not None
    assert (found.step, found.recorded) == (10, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_leaves_nothing_in_a_directory_of_a_user(tmp_path: Path) -> None:
    path = dcp(tmp_path / "step-10")
    os.chown(path, 65534, 65534)
    assert latest_complete(tmp_path).recorded is False  # type: ignore[union-attr]
    assert not (path / MARK).exists()


# What is kept of a proof


def test_a_record_names_nothing_outside(tmp_path: Path) -> None:
    path = megatron(tmp_path, 10)
    assert latest_complete(tmp_path).recorded  # type: ignore[union-attr]
    mark = (path / MARK).read_text()
    (path / MARK).write_text(mark.replace('"common.pt"', '"../common.pt"'))
    assert latest_complete(tmp_path) is None
    assert _why(tmp_path) == "its mark names a file outside the checkpoint"


def test_an_empty_file_is_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"")
    age(tmp_path)
    point = resume_point(tmp_path)
    assert [(one.step, one.why) for one in point.skipped] == [(0, "last.ckpt is empty")]
    assert "none is proven complete: last.ckpt: last.ckpt is empty" in point.loses


def test_nothing_to_lose(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "events.out.tfevents.1700000000").write_text("x")
    assert resume_point(tmp_path).loses == ""
    dcp(tmp_path / "step-10")
    assert resume_point(tmp_path).loses == ""


# Very large ones


def test_a_table_of_contents_too_long_to_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovctl.checkpoint.formats.dcp.WALKED_BYTES", 100)
    path = dcp(tmp_path / "step-10", ranks=3)
    for rank in range(3):
        (path / f"__{rank}_0.distcp").write_bytes(torch_file() * 3)
    assert latest_complete(tmp_path) is not None
    (path / MARK).unlink()
    os.truncate(path / "__1_0.distcp", 300)
    assert _why(tmp_path) == "__1_0.distcp is truncated: it does not end as the others do"
    (path / "__1_0.distcp").unlink()
    assert _why(tmp_path) == "__1_0.distcp is missing"


@pytest.mark.parametrize("walked_bytes", [100, 16 << 20])
def test_shards_with_a_word_before_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walked_bytes: int
) -> None:
    monkeypatch.setattr("sovctl.checkpoint.formats.dcp.WALKED_BYTES", walked_bytes)
    monkeypatch.setattr("sovctl.checkpoint.formats.dcp._BLOCK", 50)
    path = dcp(tmp_path / "step-10", ranks=3, prefix="optimizer_state")
    assert [(one.why, one.world_size) for one in scan(tmp_path)] == [("", 3)]
    (path / MARK).unlink()
    (path / "optimizer_state__2_0.distcp").unlink()
    assert _why(tmp_path) == "optimizer_state__2_0.distcp is missing"


def test_megatron_without_its_own_mark_is_a_plain_save_of_torch(tmp_path: Path) -> None:
    """`--ckpt-format torch_dcp` and `fsdp_dtensor`; torch_dist writes `common.pt` before anything else."""
    for step in (10, 20):
        dcp(tmp_path / f"iter_{step:07d}")
    (megatron(tmp_path, 30) / "metadata.json").unlink()
    (tmp_path / "iter_0000020" / "__1_0.distcp").unlink()
    age(tmp_path)
    assert [(one.step, one.format, one.why) for one in scan(tmp_path)] == [
        (30, "megatron", "metadata.json is missing, which is written last"),
        (20, "megatron", "__1_0.distcp is missing"),
        (10, "megatron", ""),
    ]


def test_a_model_beside_the_checkpoints_is_none_of_them(tmp_path: Path) -> None:
    weights = (hf_trainer(tmp_path, 10) / "model.safetensors").read_bytes()
    for name in ("llama-3.2-11", "model-00001-of-00004"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / f"{name}.safetensors").write_bytes(weights)
    age(tmp_path)
    assert [one.path.name for one in scan(tmp_path)] == ["checkpoint-10"]
    assert "llama-3.2-11" in [one.path.name for one in scan(tmp_path, Terms("safetensors"))]
