"""Signals to this process as values in a loop, not as interruptions."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence

from sovctl.model.signals import PASSED_ON

_WATCHED = (*PASSED_ON, signal.SIGCONT, signal.SIGCHLD)


class SignalQueue:
    """ports.Signals: each watched signal is written to a pipe; `wait` reads it."""

    def __init__(self, watched: Sequence[int] = _WATCHED) -> None:
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._terminated_at: float | None = None
        for signum in watched:
            signal.signal(signum, self._noted)

    def wait(self, timeout_s: float) -> tuple[int, ...]:
        """Signals since the last call, oldest first; returns early when one comes."""
        select.select([self._reader], [], [], max(0.0, timeout_s))
        try:
            return tuple(os.read(self._reader, 1024))
        except BlockingIOError:
            return ()

    @property
    def terminated_at(self) -> float | None:
        """When SIGTERM last came, in seconds since the epoch; None: never, or it was ignored."""
        return self._terminated_at

    def ignore_termination(self) -> None:
        """SIGTERM does nothing any more, here and in processes started from now on."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _noted(self, signum: int, _frame: object) -> None:
        """The wakeup pipe has it already; Python only needs a handler to be there."""
        if signum == signal.SIGTERM:
            self._terminated_at = time.time()
