"""Processes of a script whose supervisor was killed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

_LONGEST_ENVIRON = 4 * 1024 * 1024


class Leftover:
    """ports.ChildProcess for a script that is nobody's child any more: found by its environment, which the supervisor
    gave to the script and to nothing else.

    By the run's directory, for two clusters of one name on one machine may give two runs the same id.
    """

    def __init__(self, run_dir: str, job_id: str) -> None:
        self._words = (b"SOVCTL_RUN_DIR=" + os.fsencode(run_dir), f"SLURM_JOB_ID={job_id}".encode())

    @property
    def pid(self) -> int:
        return 0

    def poll(self) -> int | None:
        """Nobody can know how it ended."""
        return None if self._processes() else -signal.SIGKILL

    def wait(self, timeout_s: float) -> int | None:
        """Until none is left."""
        deadline = time.monotonic() + timeout_s
        while self._processes():
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)
        return -signal.SIGKILL

    def send(self, signum: int) -> None:
        """Signal all of them."""
        for pid in self._processes():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signum)

    def kill_group(self) -> None:
        """SIGKILL, again for those that were just being started."""
        for _ in range(20):
            if not self._processes():
                return
            self.send(signal.SIGKILL)
            time.sleep(0.02)

    def _processes(self) -> list[int]:
        own = os.getuid()
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
        return [pid for pid in pids if self._is_one(pid, own)]

    def _is_one(self, pid: int, own: int) -> bool:
        try:
            if os.stat(f"/proc/{pid}").st_uid != own or _is_zombie(pid):
                return False
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = file.read(_LONGEST_ENVIRON).split(b"\0")
        except OSError:
            return False
        return all(word in variables for word in self._words)


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read(4096).rpartition(b")")[2].split()[:1] == [b"Z"]
