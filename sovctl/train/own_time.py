"""How long a rank itself works on a step, apart from waiting for the others: what tells a slow rank from its peers.

In data parallel training every rank takes the same time for a step, since all wait for the slowest. Only the part
before the collective differs, and only the script knows where that part is: `with run.compute():`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_KEPT_STEPS = 64
_FEWEST_STEPS = 4


class OwnTime(NamedTuple):
    """Seconds a step, of the last `steps` steps (4 to 64)."""

    seconds: float
    """Mean of the middle half: one slow step moves nothing."""
    spread: float
    """Third quartile less first."""
    steps: int


class OwnClock:
    """Adds up the blocks of a step. Enter and leave it as a context manager, then call `step_done`.

    Where an accelerator is in use, the blocks are timed by its own events, which are read once they have passed, so
    that nothing waits for the device: a sample may arrive some steps late.
    """

    __slots__ = ("_began", "_events", "_open", "_samples", "_seconds", "_touched", "_waiting")

    def __init__(self, events: Callable[[], Any] | None = None) -> None:
        """`events` makes a device event with timing; `None`: the current accelerator's, where one is in use."""
        self._events = events
        self._samples: deque[float] = deque(maxlen=_KEPT_STEPS)
        self._waiting: deque[tuple[list[tuple[Any, Any]], int]] = deque(maxlen=_KEPT_STEPS)
        self._open: list[tuple[Any, Any]] = []
        self._seconds = 0.0
        self._touched = False
        self._began: Any = None

    def __enter__(self) -> OwnClock:
        make = self._events or _device_events()
        self._began = time.perf_counter() if make is None else _recorded(make)
        return self

    def __exit__(self, *_: object) -> None:
        self._touched = True
        make = self._events or _device_events()
        if isinstance(self._began, float):
            self._seconds += time.perf_counter() - self._began
        elif make is not None:
            self._open.append((self._began, _recorded(make)))

    def step_done(self, steps: int) -> None:
        """The blocks so far were of the last `steps` steps (>= 1)."""
        if not self._touched:
            return
        self._touched = False
        if self._open:
            self._waiting.append((self._open, steps))
            self._open = []
            self._read_events()
        else:
            self._samples.append(self._seconds / steps)
        self._seconds = 0.0

    def own_time(self) -> OwnTime | None:
        """What is known so far; `None` with fewer than 4 steps."""
        return summary(self._samples)

    def _read_events(self) -> None:
        while self._waiting and self._waiting[0][0][-1][1].query():
            blocks, steps = self._waiting.popleft()
            milliseconds = sum(first.elapsed_time(last) for first, last in blocks)
            self._samples.append(milliseconds / 1000.0 / steps)


def _recorded(make: Callable[[], Any]) -> Any:
    event = make()
    event.record()
    return event


def summary(samples: Sequence[float]) -> OwnTime | None:
    """Mean of the middle half and the distance of the quartiles; `None` with fewer than 4 samples."""
    if len(samples) < _FEWEST_STEPS:
        return None
    ordered = sorted(samples)
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    return OwnTime(statistics.fmean(middle), middle[-1] - middle[0], len(ordered))


def _device_events() -> Callable[[], Any] | None:
    """Makes events of the accelerator in use, without being the one who imports torch or wakes a device."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    return lambda: cuda.Event(enable_timing=True)
