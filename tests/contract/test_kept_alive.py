"""The process that waits, and the one that may be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sovctl.adapters.run.kept_alive import keep_alive
from sovctl.adapters.run.leftover import Leftover
from sovctl.model.signals import PASSED_ON


def lives(path: Path) -> int:
    """Counts the lives of the work in a file."""
    with path.open("a") as file:
        file.write("x")
    return len(path.read_text())


@pytest.mark.parametrize("status", [0, 1, 75, 137, 143])
def test_an_orderly_end_is_passed_on_whatever_its_status(status: int) -> None:
    assert keep_alive(lambda: status, lambda: 99) == status


def test_killed_work_is_started_again(tmp_path: Path) -> None:
    def work() -> int:
        if lives(tmp_path / "lives") < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return 7

    assert keep_alive(work, lambda: 99) == 7
    assert (tmp_path / "lives").read_text() == "xxx"


def test_an_unexpected_error_counts_as_a_death_and_leaves_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        if lives(tmp_path / "lives") == 1:
            raise ValueError("a bug")
        return 0

    assert keep_alive(work, lambda: 99) == 0
    assert "Traceback" not in capfd.readouterr().err


def test_work_that_never_stays_alive_is_given_up(tmp_path: Path) -> None:
    def work() -> int:
        lives(tmp_path / "lives")
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert keep_alive(work, lambda: 99, tries=3) == 99
    assert (tmp_path / "lives").read_text() == "xxx"


@pytest.mark.parametrize(("reached", "lived"), [((10, 20, 30, 40, 40, 40, 40), 6), ((10, 10, 10), 3), ((0, 0, 0), 3)])
def test_work_that_gets_on_between_its_deaths_is_not_given_up(
    tmp_path: Path, reached: tuple[int, ...], lived: int
) -> None:
    def work() -> int:
        lives(tmp_path / "lives")
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    told = iter(reached)
    assert keep_alive(work, lambda: 99, progress=lambda: next(told), tries=3) == 99
    assert len((tmp_path / "lives").read_text()) == lived


def test_signals_reach_the_work(tmp_path: Path) -> None:
    waiting = """
import os, signal, sys
from sovctl.adapters.run.kept_alive import keep_alive
def work():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    print("ready", flush=True)
    signal.sigwait([signal.SIGUSR1])
    return 42
sys.exit(keep_alive(work, lambda: 99))
"""
    with subprocess.Popen([sys.executable, "-c", waiting], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 42


_COUNTING = """
import os, signal, sys, time
from sovctl.adapters.run.kept_alive import keep_alive
from sovctl.adapters.run.signals import SignalQueue
def work():
    queue = SignalQueue()
    print("ready", flush=True)
    got = ()
    while signal.SIGTERM not in got:
        got = queue.wait(20.0)
        for signum in got: print(signum, flush=True)
    return 42
sys.exit(keep_alive(work, lambda: 99))
"""


def _came(send: Callable[[int, int], None], signum: int) -> list[int]:
    """What came to the work when `send` had sent this to the waiting process, SIGTERM after it left out."""
    argv = [sys.executable, "-X", "faulthandler", "-c", _COUNTING]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        send(process.pid, signum)
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        words = [first, *process.stdout.read().split()]
        assert process.wait(20) == 42
    return [int(word) for word in words if int(word) != signal.SIGTERM]


@pytest.mark.parametrize("signum", [*range(1, 4), 6, 14, 21, 22, 23, 28, 29, *PASSED_ON[-1:]])
def test_every_signal_that_can_be_passed_on_reaches_the_work_once(signum: int) -> None:
    assert signum in PASSED_ON
    assert _came(os.kill, signum) == [signum]


def test_a_signal_to_the_whole_process_group_reaches_the_work_once() -> None:
    """As `scancel --full --signal=USR1` sends it."""
    assert _came(os.killpg, signal.SIGUSR1) == [signal.SIGUSR1]


def test_what_is_ignored_stays_so_in_the_work_until_it_says_otherwise() -> None:
    waiting = """
import os, signal, sys
from sovctl.adapters.run.kept_alive import keep_alive
from sovctl.adapters.run.signals import SignalQueue
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def work():
    os.kill(os.getpid(), signal.SIGTERM)
    queue = SignalQueue()
    os.kill(os.getpid(), signal.SIGTERM)
    return len(queue.wait(10.0))
sys.exit(keep_alive(work, lambda: 99))
"""
    assert subprocess.run([sys.executable, "-c", waiting], timeout=60).returncode == 1


def test_what_a_killed_supervisor_left_behind_is_found_and_ended(eventually: Callable[..., object]) -> None:
    env = {**os.environ, "SOVCTL_RUN_DIR": "/runs/lab-7-1", "SLURM_JOB_ID": "7"}
    other = {**os.environ, "SOVCTL_RUN_DIR": "/runs/lab-7-1", "SLURM_JOB_ID": "8"}
    script = ["sh", "-c", "sleep 300 & sleep 300"]
    with (
        subprocess.Popen(script, env=env, start_new_session=True) as mine,
        subprocess.Popen(["sleep", "300"], env=other) as not_mine,
    ):
        left = Leftover("/runs/lab-7-1", "7")
        # A process that has just begun a program has no environment in /proc for an instant.
        eventually(lambda: left.poll() is None, "the script is found")
        left.kill_group()
        assert left.wait(5) == -signal.SIGKILL
        assert mine.wait(5) == -signal.SIGKILL
        assert not_mine.poll() is None
        not_mine.kill()


def test_work_whose_last_words_find_no_room_never_goes_on_as_its_parent(tmp_path: Path) -> None:
    """A flush that raises would leave the forked child in the caller's code."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom sovctl.adapters.run.kept_alive import keep_alive\n"
        "def work():\n    sys.stdout.write('words')\n    return 7\n"
        "status = None\n"
        "try:\n    status = keep_alive(work, lambda: 99)\n"
        "finally:\n    with open(sys.argv[1], 'a') as file: print(status, file=file)\n"
    )
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "said")], stdout=full, env=env, timeout=60)
    assert (tmp_path / "said").read_text() == "7\n"
