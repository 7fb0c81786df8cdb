"""Real processes that listen where a slurmstepd listens, told apart by what only root could fake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sovctl.adapters.step_daemons import ProcStepDaemons, ask_to_free

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
