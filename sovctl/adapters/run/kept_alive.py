"""Runs a piece of work in a forked child and starts it again when it is killed.

The batch script of a job is what Slurm watches: when it dies, the job is over. So its process does nothing but wait,
and the work, which is large enough to be chosen by the kernel's out-of-memory killer, may die.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from sovctl.model.signals import PASSED_ON

_UNRELATED_S = 3600.0
_FORWARDED = (*PASSED_ON, signal.SIGCONT)


def _none() -> int:
    return 0


def keep_alive(
    work: Callable[[], int], give_up: Callable[[], int], *, progress: Callable[[], int] = _none, tries: int = 4
) -> int:
    """Return the status of `work`; `give_up` is called, here, when it was killed `tries` times without `progress` in
    between (a figure that grows), each time within an hour: deaths further apart have nothing to do with each other.

    An orderly end is told through a pipe, so that a status of 137 is not mistaken for a SIGKILL. Signals to this
    process go on to the child, which has a process group of its own and where what was ignored before the call still
    is until the work says otherwise. Call it before there are threads.
    """
    child = _Child()
    handlers = {signum: signal.signal(signum, child.forward) for signum in _FORWARDED}
    try:
        deaths = reached = 0
        while deaths < tries:
            began = time.monotonic()
            status = child.run(work, handlers)
            if status is not None:
                return status
            before, reached = reached, progress()
            alone = time.monotonic() - began > _UNRELATED_S or reached > before
            deaths = 1 if alone else deaths + 1
        return give_up()
    finally:
        for signum, handler in handlers.items():
            # None: of C, such as that of faulthandler, which Python cannot put back.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


class _Child:
    """The child of the moment."""

    def __init__(self) -> None:
        self._pid = 0

    def forward(self, signum: int, _frame: object) -> None:
        """Pass a signal on; a child that has just ended needs none."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signum)

    def run(self, work: Callable[[], int], before: Mapping[int, object]) -> int | None:
        """The status it ended with; None when it was killed. `before`: how signals were handled before the call."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        sys.stderr.flush()
        # No signal may come between the fork and the moment its number is known, or it would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        self._pid = os.fork()
        if self._pid == 0:
            # `scancel --full` signals the process group of the batch script (22.05 to 26.05); from us it would come to
            # the work a second time.
            os.setpgid(0, 0)
            os.close(reader)
            self._work(work, writer, [signum for signum, handler in before.items() if handler is signal.SIG_IGN])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        os.close(writer)
        said = b""
        # The work's own children inherit no copy of the pipe (O_CLOEXEC), so its end is the end of the work.
        while part := os.read(reader, 16):
            said += part
        os.close(reader)
        os.waitpid(self._pid, 0)
        self._pid = 0
        return int(said) if said.strip().isdigit() else None

    def _work(self, work: Callable[[], int], writer: int, ignored: Sequence[int]) -> None:
        for signum in _FORWARDED:
            signal.signal(signum, signal.SIG_IGN if signum in ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        try:
            os.write(writer, b"%d\n" % (work() & 0xFF))
        finally:
            # On a full disk a flush raises, and this process would go on as if it were its parent.
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(1)
