"""What a script learns from its environment, with and without sovctl, Slurm and torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovctl.errors import UsageError
from sovctl.model.progress import Phase, parse_progress
from sovctl.train import FINISHED, STOPPED, RunContext, run_directory
from sovctl.train import context as context_module
from sovctl.train.context import first_host, master_address, master_port, split_hosts


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test gets default handlers and a clean request."""
    monkeypatch.setattr(context_module, "_request", context_module._StopRequest())
    before = {number: signal.signal(number, signal.SIG_DFL) for number in context_module.STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_alone_everything_has_a_default() -> None:
    ctx = RunContext.from_env({})
    assert (ctx.run_id, ctx.run_dir, ctx.attempt, ctx.resume_from, ctx.resume_step) == ("", None, 0, None, 0)
    assert (ctx.rank, ctx.local_rank, ctx.world_size, ctx.excluded_nodes) == (0, 0, 1, ())
    assert ctx.checkpoint_dir == Path("checkpoints")
    assert ctx.node
    assert not ctx.stop_requested()
    assert (ctx.stopped_status, ctx.finished_status) == (STOPPED, FINISHED) == (75, 93)


def test_under_sovctl_in_a_slurm_step() -> None:
    ctx = RunContext.from_env(
        {
            "SOVCTL_RUN_ID": "lab-7-100",
            "SOVCTL_RUN_DIR": "/shared/my runs/7",
            "SOVCTL_ATTEMPT": "2",
            "SOVCTL_CHECKPOINT_DIR": "/shared/ck",
            "SOVCTL_RESUME_FROM": "/shared/ck/step-40",
            "SOVCTL_RESUME_STEP": "40",
            "SOVCTL_EXCLUDED_NODES": "n[001-003,7],m1",
            "SLURM_STEP_ID": "0",
            "SLURM_PROCID": "3",
            "SLURM_LOCALID": "1",
            "SLURM_NTASKS": "4",
            "SLURMD_NODENAME": "n005",
        }
    )
    assert (ctx.run_id, ctx.run_dir, ctx.attempt) == ("lab-7-100", Path("/shared/my runs/7"), 2)
    assert (ctx.resume_from, ctx.resume_step) == (Path("/shared/ck/step-40"), 40)
    assert ctx.excluded_nodes == ("n[001-003,7]", "m1")
    assert (ctx.rank, ctx.local_rank, ctx.world_size, ctx.node) == (3, 1, 4, "n005")


def test_the_batch_script_itself_is_one_process() -> None:
    ctx = RunContext.from_env({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"})
    assert (ctx.rank, ctx.world_size) == (0, 1)


def test_torchrun_inside_a_step_decides_the_ranks() -> None:
    env = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    ctx = RunContext.from_env(env)
    assert (ctx.rank, ctx.local_rank, ctx.world_size) == (9, 1, 16)


@pytest.mark.parametrize("text", ["-1", "two", "1.0", "٣"])
def test_a_variable_that_is_no_number_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="SOVCTL_ATTEMPT must be a whole number"):
        RunContext.from_env({"SOVCTL_ATTEMPT": text})


def test_a_fresh_start_under_sovctl_resumes_nothing(tmp_path: Path) -> None:
    env = {"SOVCTL_RUN_ID": "r", "SOVCTL_RESUME_FROM": "", "SOVCTL_CHECKPOINT_DIR": str(tmp_path)}
    assert RunContext.from_env(env).resume_from is None


@pytest.mark.parametrize(
    ("hosts", "parts", "first"),
    [
        ("", (), ""),
        ("n001", ("n001",), "n001"),
        ("n[003-005,7],m1", ("n[003-005,7]", "m1"), "n003"),
        ("r[1-2]n[04,06]x,b", ("r[1-2]n[04,06]x", "b"), "r1n04x"),
        ("a,b , c", ("a", "b", "c"), "a"),
    ],
)
def test_host_lists(hosts: str, parts: tuple[str, ...], first: str) -> None:
    assert split_hosts(hosts) == parts
    assert first_host(hosts) == first


def test_address_of_rank_0() -> None:
    assert master_address({"MASTER_ADDR": "h", "SOVCTL_MASTER_ADDR": "g"}) == "h"
    assert master_address({"SOVCTL_MASTER_ADDR": "g", "SLURM_STEP_NODELIST": "localhost"}) == "g"
    assert master_address({"SLURM_STEP_NODELIST": "localhost"}) == "localhost"
    assert master_address({"SLURM_STEP_NODELIST": "no-such-node.invalid"}) == "127.0.0.1"
    assert master_address({}) == "127.0.0.1"


def test_ports_of_attempts_steps_and_jobs_differ() -> None:
    env = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0"}
    ports = [master_port(env, attempt) for attempt in range(30)]
    assert len(set(ports)) == len(ports)
    assert all(12000 <= port < 20000 for port in ports)
    assert master_port({**env, "SLURM_JOB_ID": "4712"}, 0) not in ports
    assert master_port({**env, "SLURM_STEP_ID": "1"}, 0) not in ports
    assert master_port({**env, "MASTER_PORT": "29500"}, 3) == 29500
    one, other = ({**env, "SOVCTL_RUN_ID": "lab-1-9", "SOVCTL_RUN_DIR": f"/{name}/lab-1-9"} for name in ("a", "b"))
    assert master_port(one, 0) != master_port(other, 0)


@pytest.mark.parametrize("number", context_module.STOP_SIGNALS)
def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    ctx = RunContext.from_env({})
    os.kill(os.getpid(), number)
    assert ctx.stop_requested()


def test_who_is_told_to_stop_says_so_of_itself_until_it_has_finished(tmp_path: Path) -> None:
    ctx = RunContext.from_env({"SOVCTL_RUN_DIR": str(tmp_path)})
    ctx.step_done(1)
    assert not ctx.stop_requested()
    assert ctx.phase is Phase.RUNNING
    os.kill(os.getpid(), signal.SIGUSR1)
    assert ctx.stop_requested()
    said = parse_progress((tmp_path / "progress" / "0").read_bytes())
    assert said is not None
    assert said.phase is Phase.STOPPING
    ctx.heartbeat.saving()
    assert ctx.stop_requested()
    assert ctx.phase is Phase.SAVING
    ctx.heartbeat.training_again()
    assert ctx.phase is Phase.STOPPING
    ctx.finished()
    assert ctx.stop_requested()
    assert ctx.phase is Phase.FINISHED


def test_the_users_own_handlers_stay() -> None:
    mine = lambda number, frame: None  # noqa: E731
    signal.signal(signal.SIGUSR1, mine)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    RunContext.from_env({})
    assert signal.getsignal(signal.SIGUSR1) is mine
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_the_stop_file_of_this_attempt_asks_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "LOOK_INTERVAL_S", 0.01)
    ctx = RunContext.from_env({"SOVCTL_RUN_DIR": str(tmp_path), "SOVCTL_ATTEMPT": "1"})
    for attempt in (0, 1):
        (tmp_path / "attempts" / str(attempt)).mkdir(parents=True)
    (tmp_path / "attempts" / "0" / "stop").touch()
    assert not ctx.stop_requested()
    (tmp_path / "attempts" / "1" / "stop").touch()
    deadline = time.monotonic() + 20
    while not ctx.stop_requested():
        assert time.monotonic() < deadline
    (tmp_path / "attempts" / "1" / "stop").unlink()
    assert ctx.stop_requested()  # a request is not taken back


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, sovctl.train; sys.exit('torch' in sys.modules or 'typer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
