"""Real processes that listen where a slurmstepd listens, told apart by what only root could fake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sovctl.adapters.slurm.step_daemons import ProcStepDaemons, ask_to_end, ask_to_free

LISTENS = """
import ctypes, socket, subprocess, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode())
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[2])
listening.listen()
child = subprocess.Popen(["sleep", "1000"]) if sys.argv[3] == "task" else None
print("ready", flush=True)
sys.stdin.read()
child and child.kill()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts one; `name`: of its socket."""
    running: list[subprocess.Popen[str]] = []

    def begin(name: str, *, comm: str = "slurmstepd", task: bool = False) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", LISTENS, comm, str(tmp_path / name), "task" if task else ""]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in running:
        process.communicate()


def daemons(tmp_path: Path) -> ProcStepDaemons:
    return ProcStepDaemons(tmp_path / "stuck", "n001", lambda: str(tmp_path))


def test_only_a_slurmstepd_of_this_job_and_node_without_a_task_waits(tmp_path: Path, start: Start) -> None:
    waits = start("n001_7.0")
    start("n001_7.1", task=True)
    start("n002_7.0")
    start("n001_77.0")
    start("n001_7.2", comm="python")
    assert daemons(tmp_path).childless("7") == {waits.pid: "7.0"}


def test_it_is_ended_only_while_it_still_waits(tmp_path: Path, start: Start) -> None:
    waits, works = start("n001_7.0"), start("n001_7.1", task=True)
    here = daemons(tmp_path)
    assert not here.end(works.pid, "7")
    assert here.end(waits.pid, "7")
    assert waits.wait(10) == -9
    assert not here.end(waits.pid, "7")
    assert works.poll() is None


def test_a_step_of_the_jobs_next_start_is_none_that_was_asked_about(tmp_path: Path, start: Start) -> None:
    """The job ended and began again within the life of the request; its first process is not there yet."""
    here, before = daemons(tmp_path), start("n001_7.0")
    ask_to_free(tmp_path / "stuck", "7", ["n001"])
    starts = start("n001_7.1")
    assert here.asked() == ("7",)
    assert here.childless("7") == {before.pid: "7.0"}
    assert not here.end(starts.pid, "7")
    assert starts.poll() is None


def test_of_a_job_that_runs_on_only_the_steps_named_are_ended(tmp_path: Path, start: Start) -> None:
    left, other = start("n001_7.0"), start("n001_7.10")
    here = daemons(tmp_path)
    ask_to_free(tmp_path / "stuck", "7", ["n001"], [0])
    assert here.asked() == ("7",)
    assert here.childless("7") == {left.pid: "7.0"}
    assert not here.end(other.pid, "7")
    assert here.end(left.pid, "7")
    assert left.wait(10) == -9
    # The job leaves its nodes meanwhile: the newer request is for all of it.
    ask_to_free(tmp_path / "stuck", "7", ["n001"])
    assert here.asked() == ("7",)
    assert here.end(other.pid, "7")
    assert other.wait(10) == -9


@pytest.mark.parametrize("steps", ["0", {"0": 1}, [True, "0", None, 0.0], None])
def test_steps_that_are_no_list_of_numbers_are_none(tmp_path: Path, start: Start, steps: object) -> None:
    start("n001_7.0")
    record = {"job_id": "7", "nodes": ["n001"], "at": time.time(), "steps": steps}
    (tmp_path / "stuck").mkdir()
    (tmp_path / "stuck/7.json").write_text(json.dumps(record))
    here = daemons(tmp_path)
    assert here.asked() == ("7",)
    assert here.childless("7") == {}


def test_only_fresh_requests_for_this_node_count(tmp_path: Path) -> None:
    here = daemons(tmp_path)
    assert here.asked() == ()
    ask_to_free(tmp_path / "stuck", "7", ["n001", "n002"])
    ask_to_free(tmp_path / "stuck", "8", ["n002"])
    old = {"job_id": "9", "nodes": ["n001"], "at": time.time() - 60}
    misnamed = {"job_id": "11", "nodes": ["n001"], "at": time.time()}
    (tmp_path / "stuck/9.json").write_text(json.dumps(old))
    (tmp_path / "stuck/10.json").write_text(json.dumps(misnamed))
    (tmp_path / "stuck/12.json").write_text("[" * 100_000)
    assert here.asked() == ("7",)


def test_only_tasks_of_this_job_that_began_before_the_request_are_ended(tmp_path: Path, start: Start) -> None:
    step, batch = start("n001_7.0", task=True), start("n001_7.4294967291", task=True)
    others = [start("n001_8.0", task=True), start("n002_7.0", task=True), start("n001_7.1", comm="python", task=True)]
    here = daemons(tmp_path)
    asked_at = time.time()
    # The request is for what ran when it was made: these began just now.
    assert here.end_tasks("7", asked_at, batch=True) == 0
    assert here.end_tasks("7", asked_at + 10, batch=False) == 1
    _await_gone(step)
    assert not _gone(batch)
    here.end_tasks("7", asked_at + 10, batch=True)
    _await_gone(batch)
    assert not any(_gone(process) for process in others)


def _await_gone(process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 10
    while not _gone(process):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _gone(process: subprocess.Popen[str]) -> bool:
    """Whether the task below it is over: a child that was killed stays as a zombie until its parent asks for it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    states = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children]
    return all(state == "Z" for state in states)


def test_a_request_to_end_is_none_to_free_and_is_soon_too_old(tmp_path: Path) -> None:
    here = daemons(tmp_path)
    ask_to_end(tmp_path / "stuck", "7", ["n001"])
    assert here.asked() == ()
    assert list(here.to_end()) == ["7"]
    record = {"job_id": "7", "nodes": ["n001"], "at": time.time() - 11, "end": True}
    (tmp_path / "stuck/7.json").write_text(json.dumps(record))
    assert here.to_end() == {}
