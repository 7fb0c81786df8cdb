"""Save and load in one process: what comes back, what is refused, and what a full disk does."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rank_server import RankServer

torch = pytest.importorskip("torch", reason="sovctl.train needs torch: pip install sovctl[train]")

from sovctl.checkpoint.complete import judge  # noqa: E402
from sovctl.checkpoint.find import latest_complete, scan  # noqa: E402
from sovctl.errors import CheckpointIncomplete, CheckpointUnloadable  # noqa: E402
from sovctl.model.checkpoint import CheckpointState  # noqa: E402
from sovctl.model.progress import Phase  # noqa: E402
from sovctl.train import Checkpointer, Heartbeat, RunContext, save_job  # noqa: E402

pytestmark = pytest.mark.train


class Counter:
    """A stateful object of a user, such as a data loader."""

    def __init__(self) -> None:
        self.position, self.seen = 0, [0]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.seen = state["position"], state["seen"]


def _context(directory: Path, **fields: Any) -> RunContext:
    return RunContext(checkpoint_dir=directory / "checkpoints", **fields)


def _synchronous(context: RunContext, keep: int | None = 3, **options: Any) -> Checkpointer:
    return Checkpointer(context, keep, background=False, **options)


def _trained() -> tuple[Any, Any]:
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer


def _step(model: Any, optimizer: Any) -> float:
    loss = model(torch.randn(4, 6)).square().mean() + random.random()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_everything_comes_back(tmp_path: Path) -> None:
    model, optimizer = _trained()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    loader, extra, average = Counter(), {"tokens": 7, "note": "a"}, torch.arange(3.0)
    _step(model, optimizer)
    schedule.step()
    loader.position, loader.seen = 12, [1, 2, 3]
    saver = _synchronous(_context(tmp_path))
    states = {"schedule": schedule, "extra": extra, "average": average}
    assert saver.save(1, model=model, optimizer=optimizer, state=states, rank_state={"loader": loader})
    expected = [_step(model, optimizer) for _ in range(3)]

    torch.manual_seed(99)
    random.seed(99)
    model, optimizer = _trained()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    loader, extra, average = Counter(), {"tokens": 0, "note": ""}, torch.zeros(3)
    states = {"schedule": schedule, "extra": extra, "average": average}
    context = _context(tmp_path, resume_from=tmp_path / "checkpoints" / "step-1")
    step = _synchronous(context).load(model=model, optimizer=optimizer, state=states, rank_state={"loader": loader})
    assert step == 1
    assert (loader.position, loader.seen, extra) == (12, [1, 2, 3], {"tokens": 7, "note": "a"})
    assert average.tolist() == [0.0, 1.0, 2.0]
    assert (schedule.last_epoch, optimizer.param_groups[0]["lr"]) == (1, 0.05)
    assert [_step(model, optimizer) for _ in range(3)] == expected


def test_a_fresh_start_loads_nothing(tmp_path: Path) -> None:
    heartbeat = Heartbeat(_context(tmp_path))
    assert _synchronous(_context(tmp_path), heartbeat=heartbeat).load() == 0
    assert (heartbeat.progress.phase, heartbeat.progress.loaded_step) == (Phase.RUNNING, 0)


def test_what_is_on_disk(tmp_path: Path) -> None:
    heartbeat = Heartbeat(_context(tmp_path))
    assert _synchronous(_context(tmp_path, attempt=4, run_id="r"), heartbeat=heartbeat).save(7, model=_trained()[0])
    path = tmp_path / "checkpoints" / "step-7"
    assert sorted(file.name for file in path.iterdir()) == [".metadata", ".sovctl-complete.json", "__0_0.distcp"]
    assert [file.name for file in path.parent.iterdir()] == ["step-7"]
    found = judge(path, 7, deep=True)
    assert (found.state, found.world_size, found.checksums) == (CheckpointState.COMPLETE, 1, True)
    assert heartbeat.progress.saved_step == 7


def test_saving_a_step_twice_leaves_the_first_alone(tmp_path: Path) -> None:
    saver = _synchronous(_context(tmp_path))
    assert saver.save(1, state={"n": {"value": 1}})
    before = (tmp_path / "checkpoints" / "step-1").stat().st_ino
    assert saver.save(1, state={"n": {"value": 2}})
    assert (tmp_path / "checkpoints" / "step-1").stat().st_ino == before


def test_an_incomplete_leftover_of_the_step_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-1" / "__0_0.distcp").write_text("half")
    assert _synchronous(_context(tmp_path)).save(1)
    assert judge(tmp_path / "checkpoints" / "step-1", 1).state is CheckpointState.COMPLETE
    assert (tmp_path / "checkpoints" / ".aside-step-1-0" / "__0_0.distcp").read_text() == "half"


def test_old_ones_go(tmp_path: Path) -> None:
    saver = _synchronous(_context(tmp_path), keep=2, checksums=False)
    for step in (1, 2, 3):
        assert saver.save(step)
    assert [one.step for one in scan(tmp_path / "checkpoints")] == [3, 2]


def test_what_is_saved_is_what_was_there_at_the_call(tmp_path: Path) -> None:
    saver = Checkpointer(_context(tmp_path), keep=None)
    value = torch.ones(1000)
    for step in (1, 2, 3):
        value.fill_(step)
        report = saver.save(step, state={"value": value})
        assert report
        assert not report.complete
        value.fill_(-1)
    assert saver.wait() == ()
    assert len(saver._buffers) == 1
    for step in (1, 2, 3):
        saver.load(state={"value": value}, path=tmp_path / "checkpoints" / f"step-{step}")
        assert (value == step).all()


def test_one_that_is_broken_inside_is_passed_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saver = _synchronous(_context(tmp_path))
    value = torch.zeros(1000)
    for step in (1, 2):
        value.fill_(step)
        assert saver.save(step, state={"value": value})
    shard = tmp_path / "checkpoints" / "step-2" / "__0_0.distcp"
    shard.write_bytes(b"\0" * shard.stat().st_size)
    newest = tmp_path / "checkpoints" / "step-2"
    assert _synchronous(_context(tmp_path, resume_from=newest)).load(state={"value": value}) == 1
    assert (value == 1).all()
    assert "does not match its checksum; going on from step-1" in capfd.readouterr().err
    with pytest.raises(CheckpointUnloadable, match="step-2 cannot be loaded"):
        _synchronous(_context(tmp_path)).load(state={"value": value}, path=newest)


def test_one_that_was_broken_inside_is_replaced_when_its_step_is_saved_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoints, value = tmp_path / "checkpoints", torch.zeros(1000)
    saver = _synchronous(_context(tmp_path))
    for step in (1, 2):
        assert saver.save(step, state={"value": value})
    shard = checkpoints / "step-2" / "__0_0.distcp"
    shard.write_bytes(b"\0" * shard.stat().st_size)
    saver = _synchronous(_context(tmp_path, resume_from=checkpoints / "step-2"))
    assert saver.load(state={"value": value}) == 1
    assert shard.exists(), "a load changes nothing"
    value.fill_(7)
    assert saver.save(2, state={"value": value}).complete
    assert "is replaced; it is kept as .aside-step-2-0" in capfd.readouterr().err
    assert judge(checkpoints / "step-2", 2, deep=True).state is CheckpointState.COMPLETE
    value.fill_(0)
    assert _synchronous(_context(tmp_path, resume_from=checkpoints / "step-2")).load(state={"value": value}) == 2
    assert (value == 7).all()
    assert (checkpoints / ".aside-step-2-0" / "__0_0.distcp").exists()


def _local_only(tmp_path: Path, **fields: Any) -> Checkpointer:
    return _synchronous(_context(tmp_path, node="n001", run_id="r", local_checkpoint_dir=tmp_path / "local", **fields))


def _break_the_last_piece(path: Path) -> None:
    """So that all before it can be read."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    at = max(piece.offset for piece in FileSystemReader(path).read_metadata().storage_data.values())
    with open(path / "__0_0.distcp", "r+b") as shard:
        shard.seek(at)
        shard.write(b"\0" * 60)


def test_no_training_begins_with_a_model_that_was_loaded_in_part(tmp_path: Path) -> None:
    model, optimizer = _trained()
    assert _local_only(tmp_path).save(1, model=model, optimizer=optimizer)
    shutil.rmtree(tmp_path / "checkpoints")  # shared storage was full, say
    _break_the_last_piece(tmp_path / "local" / "r" / "n001" / "step-1")
    model, optimizer = _trained()
    with pytest.raises(CheckpointUnloadable, match="n001/step-1 cannot be loaded"):
        _local_only(tmp_path).load(model=model, optimizer=optimizer)


def test_a_broken_one_on_the_node_gives_way_to_shared_storage_and_is_replaced(tmp_path: Path) -> None:
    model, optimizer = _trained()
    saver = _local_only(tmp_path)
    for step in (1, 2):
        assert saver.save(step, model=model, optimizer=optimizer)
    shutil.rmtree(tmp_path / "checkpoints" / "step-2")
    kept = tmp_path / "local" / "r" / "n001" / "step-2"
    _break_the_last_piece(kept)
    saver = _local_only(tmp_path, resume_from=tmp_path / "checkpoints" / "step-1")
    assert saver.load(model=model, optimizer=optimizer) == 1
    assert saver.save(2, model=model, optimizer=optimizer).complete
    shutil.rmtree(tmp_path / "checkpoints" / "step-2")
    saver = _local_only(tmp_path, resume_from=tmp_path / "checkpoints" / "step-1")
    assert saver.load(model=model, optimizer=optimizer) == 2
    assert [path.name for path in kept.parent.iterdir()] == ["step-2"]


def test_what_does_not_fit_touches_nothing_and_begins_anew_as_before(tmp_path: Path) -> None:
    assert _local_only(tmp_path).save(1, model=torch.nn.Linear(2, 2))
    shutil.rmtree(tmp_path / "checkpoints")
    model = torch.nn.Linear(3, 3)
    before = model.weight.clone()
    assert _local_only(tmp_path).load(model=model) == 0
    assert torch.equal(model.weight, before)


def test_a_script_that_fails_keeps_the_checkpoint_that_is_being_written(ranks: RankServer, tmp_path: Path) -> None:
    scenarios, log = Path(__file__).with_name("scenarios.py"), tmp_path / "log"
    assert ranks.wait(ranks.start(scenarios, "fail_while_saving", 2, log)) == [1, 1]
    assert log.read_text().count("ValueError: a bug") == 2
    assert [one.step for one in scan(tmp_path / "checkpoints")] == [1]


def test_the_nodes_own_tier_goes_when_the_run_is_finished(tmp_path: Path) -> None:
    context = _context(tmp_path, node="n001", run_id="r", local_checkpoint_dir=tmp_path / "local")
    saver = Checkpointer(context)
    assert saver.save(1)
    saver.close()
    assert (tmp_path / "local" / "r" / "n001" / "step-1").is_dir()
    assert ((tmp_path / "local" / "r").stat().st_mode & 0o777) == 0o700
    context.finished()
    saver.close()
    assert list((tmp_path / "local").iterdir()) == []


def test_without_a_run_an_emptied_directory_means_to_begin_anew(tmp_path: Path) -> None:
    def context(place: str, resume_from: Path | None = None) -> RunContext:
        return RunContext(
            checkpoint_dir=tmp_path / place, local_checkpoint_dir=tmp_path / "local", resume_from=resume_from
        )

    value = torch.ones(3)
    for step in (1, 2):
        assert _synchronous(context("a")).save(step, state={"value": value})
    assert _synchronous(context("b")).load(state={"value": value}) == 0, "another run's"
    assert _synchronous(context("a")).load(state={"value": value}) == 0
    older = tmp_path / "a" / "step-1"
    assert _synchronous(context("a", older)).load(state={"value": value}) == 2, "the node is ahead of shared storage"


@pytest.mark.parametrize("harm", ["mark", "shard"])
def test_resuming_from_an_incomplete_one_is_refused(tmp_path: Path, harm: str) -> None:
    assert _synchronous(_context(tmp_path)).save(1)
    path = tmp_path / "checkpoints" / "step-1"
    (path / {"mark": ".sovctl-complete.json", "shard": "__0_0.distcp"}[harm]).unlink()
    with pytest.raises(CheckpointIncomplete, match="step-1 is not complete"):
        _synchronous(_context(tmp_path, resume_from=path)).load()


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match="its name is not step-<N>"):
        _synchronous(_context(tmp_path)).load(path=tmp_path)


def test_another_model_is_refused_in_words(tmp_path: Path) -> None:
    assert _synchronous(_context(tmp_path)).save(1, model=torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointUnloadable, match=r"step-1 cannot be loaded: .*Size mismatch"):
        _synchronous(_context(tmp_path)).load(model=torch.nn.Linear(3, 3), path=tmp_path / "checkpoints" / "step-1")


def test_wrong_use_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep"):
        _synchronous(_context(tmp_path), keep=0)
    with pytest.raises(ValueError, match="in_flight"):
        Checkpointer(_context(tmp_path), in_flight=0)
    with pytest.raises(ValueError, match="at least 1"):
        _synchronous(_context(tmp_path)).save(0)
    with pytest.raises(RuntimeError, match="init_process_group"):
        _synchronous(_context(tmp_path, world_size=4)).save(1)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 100 KB: writes fail as on a full disk (EFBIG instead of ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _too_large(step: int, saver: Checkpointer, capfd: pytest.CaptureFixture[str]) -> str:
    assert not saver.save(step, state={"large": torch.zeros(100_000)})
    return capfd.readouterr().err


def test_a_file_that_cannot_grow(tmp_path: Path, capfd: pytest.CaptureFixture[str], small_files: None) -> None:
    heartbeat = Heartbeat(_context(tmp_path))
    saver = _synchronous(_context(tmp_path), heartbeat=heartbeat)
    assert saver.save(1)
    said = _too_large(2, saver, capfd)
    assert "checkpoint of step 2 was not saved" in said
    assert said.count("\n") == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-1"]
    assert (heartbeat.progress.saved_step, heartbeat.progress.phase) == (1, Phase.RUNNING)
    assert saver.save(3)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a tmpfs")
def test_a_full_disk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "checkpoints"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", disk], capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mount.stderr.decode()}")
    try:
        saver = _synchronous(_context(tmp_path))
        assert saver.save(1)
        assert "No space left on device" in _too_large(2, saver, capfd)
        assert saver.save(3)
        assert [one.step for one in scan(disk)] == [3, 1]
        later = Checkpointer(_context(tmp_path))
        assert later.save(4, state={"large": torch.zeros(100_000)}), "nobody knows yet"
        assert [(one.step, one.problem) for one in later.wait()] == [(4, "No space left on device")]
        assert "training goes on" in capfd.readouterr().err
        assert later.save(5)
        assert later.wait() == ()
        assert [one.step for one in scan(disk)] == [5, 3, 1]
        assert not list(disk.glob(".tmp*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_directory_that_cannot_be_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    assert not _synchronous(_context(tmp_path)).save(1)
    assert "checkpoint of step 1 was not saved" in capfd.readouterr().err


def test_a_commit_that_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = _synchronous(_context(tmp_path))
    assert saver.save(1)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(save_job.commit, "commit", refuse)
    assert not saver.save(2)
    assert "Read-only file system" in capfd.readouterr().err
    latest = latest_complete(tmp_path / "checkpoints")
    assert latest is not None
    assert latest.step == 1


def test_a_bug_in_the_state_is_raised(tmp_path: Path) -> None:
    with pytest.raises(BaseException, match="pickle"):
        _synchronous(_context(tmp_path)).save(1, state={"bad": {"lambda": lambda: None}})
