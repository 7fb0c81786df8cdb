"""Questions that may never be answered, asked in a forked child with a deadline.

A driver or a file server in trouble blocks the caller in uninterruptible sleep, where no signal arrives. So a child
asks, and writes one JSON line an answer; the parent never waits past the deadline and leaves behind, rather than waits
for, a child that cannot be killed. A fork and not a new interpreter: 2 ms instead of 60, and no caller has threads.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

Messages = Iterable[dict[str, Any] | bytes]
"""JSON objects, a line each; bytes are passed on as they are."""


@dataclass
class Forked:
    """A child at work."""

    pid: int
    pipe: int
    deadline: float
    """On the monotonic clock."""
    data: bytes = b""
    ended: bool = False

    @property
    def overdue(self) -> bool:
        return time.monotonic() >= self.deadline

    def receive(self, wait_s: float) -> bool:
        """Take in what the child says for at most `wait_s` seconds, and never past the deadline; True at its end."""
        until = min(self.deadline, time.monotonic() + wait_s)
        poller = select.poll()
        poller.register(self.pipe, select.POLLIN | select.POLLHUP)
        while not self.ended:
            left = max(0.0, until - time.monotonic())
            if not poller.poll(left * 1000):
                break
            self.take()
        return self.ended

    def receive_some(self, wait_s: float) -> bool:
        """Take in what comes first, or its end, within so many seconds; False: nothing came."""
        poller = select.poll()
        poller.register(self.pipe, select.POLLIN | select.POLLHUP)
        if not poller.poll(max(0.0, wait_s) * 1000):
            return False
        self.take()
        return True

    def take(self) -> None:
        """Take in what is there now; call when the pipe is readable."""
        chunk = os.read(self.pipe, 1024 * 1024)
        self.data += chunk
        self.ended = not chunk

    def messages(self) -> list[dict[str, Any]]:
        """Every whole line so far."""
        return [json.loads(line) for line in self.data.split(b"\n")[:-1]]


class Nursery:
    """Starts children and collects them, also those that took their time to die."""

    def __init__(self) -> None:
        self._left_behind: set[int] = set()

    def start(self, ask: Callable[[], Messages], timeout_s: float) -> Forked:
        """`ask` runs in the child. An exception there arrives as the message `fatal`."""
        self._reap()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _child(writer, ask)
        os.close(writer)
        return Forked(pid, reader, time.monotonic() + timeout_s)

    def end(self, child: Forked) -> None:
        """Kill it, whether it is done or not."""
        os.close(child.pipe)
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        self._left_behind.add(child.pid)
        self._reap()

    def _reap(self) -> None:
        """Collect children that are gone by now; one stuck in the kernel is asked for again at the next start."""
        for pid in tuple(self._left_behind):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._left_behind.discard(pid)


def _child(writer: int, ask: Callable[[], Messages]) -> None:
    """Never returns: nothing of the parent (buffers, exit handlers, test runners) may run a second time."""
    status = 1
    try:
        _let_go(writer)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for message in ask():
            _write(writer, message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")
        status = 0
    except BaseException as error:
        with suppress(BaseException):
            _write(writer, json.dumps({"fatal": f"{type(error).__name__}: {error}"}).encode() + b"\n")
    finally:
        os._exit(status)


def _let_go(kept: int) -> None:
    """Hold nothing of the parent's: a child that hangs in the kernel would keep open what others wait to see closed,
    its output in the first place (slurmd reads a program's to the end), and locks."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with suppress(OSError):
                os.close(int(name))


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
