"""Real processes that look like the ranks of a job: found by their environment, looked at without being stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sovctl.adapters.run.rank_processes import RankProcesses, find_py_spy
from sovctl.model.rank_look import RankLook

JOB = str(900_000_000 + os.getpid())
"""Of this process alone: the same tests may run beside it on this machine."""
SLEEPER = """import time
def wait_for_peers():
    print('up', flush=True)
    time.sleep(600)
wait_for_peers()
"""
WORKER = """def count():
    return sum(range(20000))
print('up', flush=True)
while True:
    count()
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    children: list[subprocess.Popen[bytes]] = []

    def begin(code: str, rank: int, *before: str, **env: str) -> subprocess.Popen[bytes]:
        script = tmp_path / f"rank{len(children)}.py"
        script.write_text(code)
        own = {"SLURM_JOB_ID": JOB, "SLURM_PROCID": str(rank), "SLURM_STEP_ID": "0", "SLURMD_NODENAME": "n001", **env}
        child = subprocess.Popen(
            [*before, sys.executable, str(script)],
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        return child

    yield begin
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def look(**more: object) -> dict[int, RankLook]:
    wish = {"stacks": True, "interval_s": 0.3, "deadline_s": 10.0, **more}
    return {item.rank: item for item in RankProcesses().look(JOB, "n001", **wish)[0]}  # type: ignore[arg-type]


def test_py_spy_is_there() -> None:
    assert find_py_spy(), "py-spy is a dependency: pip install py-spy"


def test_a_rank_that_waits_shows_where(start: Start) -> None:
    child = start(SLEEPER, 3)
    found = look()[3]
    assert (found.pid, found.state, found.problem) == (child.pid, "S", "")
    assert found.stack[0].startswith("wait_for_peers (rank0.py:4")
    assert (found.cpu_share or 0) < 0.2
    assert found.moving is None
    assert child.poll() is None


def test_a_rank_that_computes_is_told_from_one_that_waits(start: Start) -> None:
    start(WORKER, 0)
    found = look()[0]
    assert (found.cpu_share or 0) > 0.1
    assert found.stack


def test_a_stopped_rank_stays_stopped_and_shows_its_stack(start: Start) -> None:
    child = start(SLEEPER, 1)
    child.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while look(stacks=False, interval_s=0.0)[1].state != "T" and time.monotonic() < deadline:
        continue
    found = look()[1]
    assert found.state == "T"
    assert found.stack[0].startswith("wait_for_peers")
    assert look(stacks=False)[1].state == "T"


def test_a_rank_behind_a_shell_is_found_and_the_shell_is_not_it(start: Start) -> None:
    child = start(SLEEPER, 2, "/bin/sh", "-c", 'set -m; "$@" & wait', "sh")
    found = look()
    assert list(found) == [2]
    assert found[2].pid != child.pid
    assert found[2].stack[0].startswith("wait_for_peers")


def test_ranks_of_torchrun_count_and_their_launcher_does_not(start: Start) -> None:
    start(SLEEPER, 0)
    for local in range(2):
        start(SLEEPER, 0, RANK=str(8 + local), LOCAL_RANK=str(local))
    assert sorted(look(stacks=False)) == [8, 9]


def test_other_jobs_and_other_nodes_are_not_ours(start: Start) -> None:
    start(SLEEPER, 0, SLURM_JOB_ID=f"{JOB}0")
    start(SLEEPER, 1, SLURMD_NODENAME="n002")
    assert look(stacks=False) == {}


def test_ranks_of_another_cluster_on_this_machine_are_not_ours(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start(SLEEPER, 0, SLURM_CONF="/one/slurm.conf")
    start(SLEEPER, 1, SLURM_CONF="/other/slurm.conf")
    monkeypatch.setenv("SLURM_CONF", "/one/slurm.conf")
    assert look(stacks=False).keys() == {0}
    # The default place of the file need not be said.
    monkeypatch.delenv("SLURM_CONF")
    assert look(stacks=False).keys() == {0, 1}


def test_looks_that_go_on_side_by_side_take_no_other_for_a_rank(start: Start) -> None:
    start(SLEEPER, 2)
    start(SLEEPER, 0, SLURM_STEP_ID="7", SOVCTL_LOOK="1")
    assert look(stacks=False).keys() == {2}


def test_what_is_left_of_one_step_is_ended_and_nothing_else(start: Start) -> None:
    left = [
        start(SLEEPER, 0, SLURM_STEP_ID="3"),
        start(SLEEPER, 1, "/bin/sh", "-c", '"$@" & wait', "sh", SLURM_STEP_ID="3"),
    ]
    others = [
        start(SLEEPER, 0),
        start(SLEEPER, 0, SLURM_STEP_ID="3", SOVCTL_LOOK="1"),
        start(SLEEPER, 0, SLURM_STEP_ID="3", SLURMD_NODENAME="n002"),
        start(SLEEPER, 0, SLURM_STEP_ID="3", SLURM_JOB_ID=f"{JOB}0"),
    ]
    assert RankProcesses().end(JOB, "n001", 3) == 3, "both ranks, and the Python below the shell"
    assert [child.wait(10) for child in left] == [-signal.SIGKILL] * 2
    assert [child.poll() for child in others] == [None] * 4
    assert RankProcesses().end(JOB, "n001", 3) == 0


def test_a_program_that_is_no_python_says_so_and_where_it_waits(start: Start) -> None:
    child = subprocess.Popen(
        ["/bin/sleep", "600"],
        env={"SLURM_JOB_ID": JOB, "SLURM_PROCID": "5", "SLURM_STEP_ID": "0", "SLURMD_NODENAME": "n001"},
    )
    try:
        deadline = time.monotonic() + 10
        while look(stacks=False, interval_s=0.0)[5].command != "sleep" and time.monotonic() < deadline:
            continue
        found = look()[5]
    finally:
        child.kill()
        child.wait()
    assert found.problem == "not a Python process"
    assert found.stack == ()
    assert found.wait


def test_a_missing_py_spy_is_told(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start(SLEEPER, 0)
    monkeypatch.setattr("sovctl.adapters.run.rank_processes.find_py_spy", lambda: "")
    assert look()[0].problem == "py-spy is not installed"
    monkeypatch.setattr("sovctl.adapters.run.rank_processes.find_py_spy", lambda: "/bin/sleep")
    assert look()[0].stack == ()
    assert look()[0].problem
