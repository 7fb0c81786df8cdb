"""The one place that starts processes, with real ones."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sovctl.adapters.command import CommandRunner, spawn
from sovctl.errors import EXIT_TRY_LATER, CommandFailed, CommandMissing, CommandTimeout, CommandUnstartable

PYTHON = sys.executable


def python(code: str, **more: object) -> object:
    return CommandRunner().run([PYTHON, "-c", code], timeout_s=20, **more)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_output_status_and_input() -> None:
    code = "import sys; print(sys.stdin.read().upper()); print('no', file=sys.stderr); sys.exit(3)"
    done = CommandRunner().run([PYTHON, "-c", code], timeout_s=20, input="späte \udcff", check=False)
    assert (done.status, done.stderr) == (3, "no\n")
    assert done.stdout.startswith("SPÄTE")


def test_without_input_there_is_nothing_to_wait_for() -> None:
    done = CommandRunner().run([PYTHON, "-c", "import sys; print(repr(sys.stdin.read()))"], timeout_s=20)
    assert done.stdout == "''\n"


def test_a_failure_carries_the_programs_own_words() -> None:
    with pytest.raises(CommandFailed, match="failed: two lines of woe") as caught:
        python("import sys; sys.exit('two lines\\n of woe')")
    assert caught.value.status == 1


def test_a_failure_without_words_names_its_status() -> None:
    with pytest.raises(CommandFailed, match="exit status 7"):
        python("raise SystemExit(7)")


def test_a_death_by_signal_is_negative() -> None:
    done = CommandRunner().run([PYTHON, "-c", "import os; os.kill(os.getpid(), 9)"], timeout_s=20, check=False)
    assert done.status == -9


@pytest.mark.parametrize("name", ["no-such-program-here", "/nonexistent/x", "/etc"])
def test_a_missing_program(name: str) -> None:
    for start in (lambda: CommandRunner().run([name], timeout_s=5), lambda: spawn([name])):
        with pytest.raises(CommandMissing) as caught:
            start()
        assert caught.value.hint


def test_a_missing_slurm_program_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CommandMissing) as caught:
        CommandRunner().run(["sbatch"], timeout_s=5, env={"PATH": str(tmp_path)})
    assert "sovctl lab up" in caught.value.hint


def test_a_deadline_kills_and_is_something_for_later(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    began = time.monotonic()
    with pytest.raises(CommandTimeout) as caught:
        CommandRunner().run([PYTHON, "-c", code], timeout_s=1.0)
    assert caught.value.exit_code == EXIT_TRY_LATER
    assert time.monotonic() - began < 10
    assert not alive(int(pid_file.read_text()))


def test_undecodable_output_is_replaced() -> None:
    done = CommandRunner().run([PYTHON, "-c", "import os; os.write(1, b'a\\xff\\xfeb')"], timeout_s=20)
    assert done.stdout == "a\ufffd\ufffdb"


def test_environments_are_laid_over_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("OURS", "current")
    runner = CommandRunner({"OURS": "runner", "CALL": "runner"})
    code = "import os; print(os.environ['KEPT'], os.environ['OURS'], os.environ['CALL'])"
    done = runner.run([PYTHON, "-c", code], timeout_s=20, env={"CALL": "call"})
    assert done.stdout == "kept runner call\n"
    assert "CALL" not in os.environ


def test_a_call_can_leave_out_what_the_environment_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURRENT", "x")
    code = "import os; print(os.environ.keys() & {'CURRENT', 'OURS', 'KEPT'})"
    runner = CommandRunner({"OURS": "x", "KEPT": "x"})
    assert runner.run([PYTHON, "-c", code], timeout_s=20, env={"CURRENT": None, "OURS": None}).stdout == "{'KEPT'}\n"


def test_children_can_be_made_to_ignore_sigterm() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('still here')"
    assert CommandRunner(ignore_signals=True).run([PYTHON, "-c", code], timeout_s=20).stdout == "still here\n"
    assert CommandRunner().run([PYTHON, "-c", code], timeout_s=20, check=False).status == -signal.SIGTERM


# Children that live on


def test_a_child_runs_ends_and_says_how() -> None:
    child = spawn([PYTHON, "-c", "import sys; sys.exit(5)"])
    assert child.wait(20) == 5
    assert child.poll() == 5
    child.send(signal.SIGTERM)
    child.kill_group()
    assert child.poll() == 5


def test_a_child_that_runs_has_no_status_yet() -> None:
    child = spawn([PYTHON, "-c", "import time; time.sleep(600)"])
    assert child.poll() is None
    assert child.wait(0.05) is None
    child.send(signal.SIGTERM)
    assert child.wait(20) == -signal.SIGTERM


def test_a_childs_environment_is_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        code = "import os, sys; print(os.environ['A'], 'HOME' in os.environ, os.getcwd()); print('e', file=sys.stderr)"
        spawn([PYTHON, "-c", code], env={"A": "1"}, cwd=tmp_path, stdout=file).wait(20)
    assert sorted(out.read_text().splitlines()) == [f"1 False {tmp_path}", "e"]


def test_killing_the_group_takes_what_it_started(tmp_path: Path, eventually: Callable[..., int]) -> None:
    pid_file = tmp_path / "pid"
    child = spawn(["/bin/sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait"])
    grandchild = eventually(
        lambda: int(pid_file.read_text() or 0) if pid_file.exists() else 0, "the grandchild has started"
    )
    assert alive(grandchild)
    assert os.getsid(child.pid) == child.pid
    child.kill_group()
    assert child.wait(20) == -signal.SIGKILL
    eventually(lambda: not alive(grandchild), "the grandchild is gone")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_process_that_cannot_be_made_is_something_for_later(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(CommandUnstartable, match="scontrol cannot be started: ") as caught:
        CommandRunner().run(["scontrol"], timeout_s=1.0)
    assert caught.value.exit_code == EXIT_TRY_LATER
