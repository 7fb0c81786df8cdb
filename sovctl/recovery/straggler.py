"""Finds a rank or a node that is persistently slower than its peers. Pure.

In lock-step training every rank takes the same time a step, because all wait for the slowest. What differs is the time
a rank is busy itself (`busy_seconds` of its progress file). A window holds one figure a rank; a straggler stands out in
nearly all of the last windows, by a ratio and by the spread of its peers (median and MAD: one outlier moves neither).
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sovctl.model.rank_look import NodeLook

_MAD_TO_SIGMA = 1.4826
"""MAD of a normal distribution times this is its standard deviation."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a rank counts as a straggler."""

    ratio: float = 1.10
    """So much slower than the median of all, at least."""
    sigmas: float = 4.0
    """And so far outside the spread of its peers in the window."""
    windows: int = 6
    """Looked at together."""
    share: float = 0.8
    """In so many of them it has to stand out."""
    least_ranks: int = 4
    """Of two or three nobody can say who is the odd one."""


@dataclass(frozen=True, slots=True)
class Straggler:
    """One rank that holds up the others."""

    rank: int
    node: str
    ratio: float
    """Its time over the median of all, as the median of the windows."""
    evidence: str


@dataclass(slots=True)
class Windows:
    """The last windows of all ranks."""

    rule: Rule = field(default_factory=Rule)
    _kept: deque[Mapping[int, float]] = field(init=False)
    _nodes: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kept = deque(maxlen=self.rule.windows)

    def add(self, seconds: Mapping[int, float], nodes: Mapping[int, str]) -> None:
        """One window: seconds a step of each rank, and the node of each."""
        self._kept.append(dict(seconds))
        self._nodes |= nodes

    def stragglers(self) -> tuple[Straggler, ...]:
        """Those of the last windows, slowest first; none before enough windows are there."""
        if len(self._kept) < self.rule.windows:
            return ()
        ratios: dict[int, list[float]] = {}
        for window in self._kept:
            for rank, ratio in outliers(window, self.rule).items():
                ratios.setdefault(rank, []).append(ratio)
        needed = self.rule.share * len(self._kept)
        found = [self._straggler(rank, seen) for rank, seen in ratios.items() if len(seen) >= needed]
        return tuple(sorted(found, key=lambda item: -item.ratio))

    def _straggler(self, rank: int, seen: Sequence[float]) -> Straggler:
        node, ratio = self._nodes.get(rank, ""), statistics.median(seen)
        usual = statistics.median(statistics.median(window.values()) for window in self._kept)
        evidence = (
            f"rank {rank}{f' on {node}' if node else ''} takes {ratio * usual:.3g} s a step, {100 * (ratio - 1):.0f} % "
            f"more than the median of {len(self._kept[-1])} ranks ({usual:.3g} s), in {len(seen)} of the last "
            f"{len(self._kept)} windows"
        )
        return Straggler(rank, node, ratio, evidence)


def outliers(seconds: Mapping[int, float], rule: Rule) -> dict[int, float]:
    """rank -> ratio to the median, of those that stand out in one window."""
    if len(seconds) < rule.least_ranks:
        return {}
    values = list(seconds.values())
    middle = statistics.median(values)
    if middle <= 0:
        return {}
    spread = _MAD_TO_SIGMA * statistics.median(abs(value - middle) for value in values)
    limit = max(rule.ratio * middle, middle + rule.sigmas * spread)
    return {rank: value / middle for rank, value in seconds.items() if value > limit}


_SLOWER = 1.15
_SLOW_CLOCK = 0.85
_BUSY_PERCENT = 50


def became_slower(step_seconds: Sequence[float], *, recent: int = 3, before: int = 6) -> bool:
    """Whether the last windows of a run are all clearly slower than its own best time was; oldest first."""
    if len(step_seconds) < recent + before:
        return False
    values = list(step_seconds)
    usual = min(statistics.median(values[at : at + before]) for at in range(len(values) - recent - before + 1))
    return min(values[-recent:]) > _SLOWER * usual


@dataclass(frozen=True, slots=True)
class SlowGpu:
    """A GPU that computes at a lower clock than the others of the same job."""

    node: str
    gpu: int
    ratio: float
    """The median clock over its own."""
    evidence: str


def slow_gpus(looks: Sequence[NodeLook]) -> tuple[SlowGpu, ...]:
    """Busy GPUs whose clock is far below that of the job's other busy GPUs; idle ones clock down and do not count."""
    busy = [
        (look.node, gpu, gpu.sm_clock_mhz)
        for look in looks
        for gpu in look.gpus
        if gpu.sm_clock_mhz and (gpu.utilization_percent or 0) >= _BUSY_PERCENT
    ]
    if len(busy) < Rule().least_ranks:
        return ()
    middle = statistics.median(clock for _, _, clock in busy)
    return tuple(
        SlowGpu(
            node,
            gpu.index,
            middle / clock,
            f"GPU {gpu.index} of {node} runs at {clock} MHz, while the median of {len(busy)} busy GPUs of the job is "
            f"{middle:.0f} MHz",
        )
        for node, gpu, clock in busy
        if clock < _SLOW_CLOCK * middle
    )
