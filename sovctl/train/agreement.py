"""All ranks learn of a request to stop at the same call, for some microseconds a step."""

from __future__ import annotations

import time
from collections.abc import Callable

from sovctl.train.side_groups import CONTROL, SideGroup, distributed

LATENCY_S = 0.25
"""The ranks ask each other about so often, or at each step where one takes longer."""
LONG_STEP_S = 1.0
"""Steps at least so long are worth waiting 0.5 ms for the answer; shorter ones get it one call later."""
_LONGEST_INTERVAL = 10_000


class StopAgreement:
    """A question that every rank asks equally often, and that gets the same answer everywhere at the same call.

    One all-reduce of 24 bytes over gloo is started at a call and read at the next, so that nobody waits for it. Each
    also agrees after how many calls the next one starts: the fewest that any rank has in 0.25 s. A request is known
    everywhere at most about 0.25 s and two calls after it, with long steps at the next call.
    """

    def __init__(self) -> None:
        self._answer = False
        self._alone = False
        self._asked: Callable[[], tuple[int, ...]] | None = None
        self._calls = 0
        self._asked_at_call = 0
        self._asked_at = 0.0
        self._next_call = 0
        self._wait = True

    @property
    def answer(self) -> bool:
        """The last answer, without asking: the same on every rank that asked equally often."""
        return self._answer or (self._alone and _nobody_else())

    def ask(self, wanted: bool) -> bool:
        """Whether any rank wanted it. A yes stays. The first call waits for the other ranks."""
        if _nobody_else():  # not an agreement: the other ranks may come later, and have not been asked
            self._alone = self._alone or wanted
            return self._answer or self._alone
        if self._answer:
            return True
        if self._asked is not None:
            self._read()
        if not self._answer and self._calls >= self._next_call:
            self._start(wanted)
            if self._wait:
                self._read()
        self._calls += 1
        return self._answer

    def settle(self) -> None:
        """Read what is still asked, so that the group can go."""
        if self._asked is not None and distributed() is not None:
            self._read()

    def _start(self, wanted: bool) -> None:
        now = time.monotonic()
        calls = self._calls - self._asked_at_call
        each_s = (now - self._asked_at) / calls if calls else LATENCY_S
        interval = min(max(int(LATENCY_S / max(each_s, 1e-9)), 1), _LONGEST_INTERVAL)
        self._asked_at_call, self._asked_at = self._calls, now
        self._asked = SideGroup(CONTROL).start_largest(int(wanted), -interval, -int(each_s * 1e6))

    def _read(self) -> None:
        if self._asked is None:
            return
        wanted, fewest, shortest = self._asked()
        self._asked = None
        self._answer = bool(wanted)
        self._next_call = self._asked_at_call - fewest
        self._wait = -shortest >= LONG_STEP_S * 1e6


def _nobody_else() -> bool:
    dist = distributed()
    return dist is None or dist.get_world_size() == 1
