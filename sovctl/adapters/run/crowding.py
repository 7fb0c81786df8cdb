"""How busy this machine is, as this process feels it."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_WINDOW_S = 1.0
"""Of the answers, the last second counts: the ranks that were killed a moment ago crowd nobody any more."""
_LEAST_RUN_NS = 1_000_000
"""Of less work than this, a single wait would make an answer of its own."""


@dataclass(frozen=True, slots=True)
class _Mark:
    at: float
    ran_ns: int
    waited_ns: int


class Crowding:
    """How many times longer than on an idle machine this process takes for its work, at least 1.

    Measured by the scheduler (/proc/PID/schedstat: nanoseconds on a CPU, and waiting for one), not told by the load:
    that counts what yields to us at once (nice, SCHED_IDLE), what is blocked by storage, and what has ended within the
    last minute. Where the kernel measures nothing it is the load by core after all (proc_loadavg(5), first and fourth
    field).
    """

    def __init__(self, proc: Path = _PROC, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._marks: deque[_Mark] = deque(filter(None, [self._measure()]))

    def __call__(self) -> float:
        """Since the call before last second began; since this was made, for the first."""
        mark = self._measure()
        if mark is None or not self._marks:
            return self._by_load()
        while len(self._marks) > 1 and self._marks[1].at <= mark.at - _WINDOW_S:
            self._marks.popleft()
        since = self._marks[0]
        self._marks.append(mark)
        ran = max(mark.ran_ns - since.ran_ns, _LEAST_RUN_NS)
        return 1.0 + max(0, mark.waited_ns - since.waited_ns) / ran

    def _measure(self) -> _Mark | None:
        try:
            ran, waited = (self._proc / "self" / "schedstat").read_text("ascii").split()[:2]
            return _Mark(self._clock(), int(ran), int(waited)) if int(ran) else None
        except (OSError, ValueError):
            return None

    def _by_load(self) -> float:
        try:
            words = (self._proc / "loadavg").read_text("ascii").split()
            wanting = max(float(words[0]), float(words[3].partition("/")[0]))
        except (OSError, ValueError, IndexError):
            return 1.0
        return max(1.0, wanting / (os.cpu_count() or 1))
