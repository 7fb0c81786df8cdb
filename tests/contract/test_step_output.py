"""Where the sruns of a script write, found among real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sovctl.adapters.run.step_output import written_by_sruns
from sovctl.ports.supervised import WrittenFile

Start = Callable[[str], int]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a script in which `srun` is a program that waits; its process id."""
    (tmp_path / "bin").mkdir()
    shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / "bin/srun")
    children: list[subprocess.Popen[bytes]] = []

    def begin(script: str) -> int:
        env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        child = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=env, start_new_session=True)
        children.append(child)
        return child.pid

    yield begin
    for child in children:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def found(pid: int, count: int) -> tuple[WrittenFile, ...]:
    """So many files, as soon as they are there."""
    deadline = time.monotonic() + 10
    while len(files := written_by_sruns(pid)) != count:
        assert time.monotonic() < deadline, files
        time.sleep(0.02)
    return files


def test_files_of_every_srun_below_the_script_are_found(tmp_path: Path, start: Start) -> None:
    pid = start("(srun 600 > one.log 2>&1; :) & srun 600 >> two.log 2> /dev/null 7> 'a b' & wait")
    files = {Path(file.path).name: file.appended for file in found(pid, 3)}
    assert files == {"one.log": False, "two.log": True, "a b": False}


def test_what_is_only_read_and_what_others_write_is_no_output(tmp_path: Path, start: Start) -> None:
    (tmp_path / "input").write_text("x")
    pid = start("sleep 600 > other.log & srun 600 < input 2>&1 > /dev/null | cat > third.log & srun 600 > gone; wait")
    (file,) = found(pid, 1)
    assert file.path == str(tmp_path / "gone")
    (tmp_path / "gone").unlink()
    assert found(pid, 0) == ()


def test_a_process_that_is_gone_writes_nowhere() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert written_by_sruns(child.pid) == ()
