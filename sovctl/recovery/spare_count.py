"""How many spares are enough, from how often nodes fail and how long they are away. Pure.

Nodes that fail independently at a constant rate and are away for any distribution of times: how many are away at a
moment is Poisson with mean (nodes x rate x mean time away) (Palm). Short is the moment at which more are away than
there are spares. The rate is known only as well as the failures counted so far tell: its interval is the exact one of
Garwood.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

HOURS_A_DAY = 24.0
_MOST_SHOWN = 10
"""Lines of the table around the advice."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What was counted."""

    failures: int
    node_hours: float
    repair_hours: float
    """Mean time from a failure until the node is back."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Failures per 1000 node-days, with its interval."""

    value: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Enough:
    """A number of spares, and how often it is short; by the measured rate and by the ends of its interval."""

    spares: int
    short: float
    short_low: float
    short_high: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a number of spares stops being enough, each with the rest as it is; None: no such bound."""

    failures_per_1000_node_days: float | None
    repair_hours: float | None
    nodes: int | None


@dataclass(frozen=True, slots=True)
class Advice:
    """How many spares."""

    rate: Rate
    wanted: float
    """The probability of running short that is accepted."""
    spares: int
    """Enough at the upper end of the interval."""
    by_rate: int
    """Enough if the measured rate is the true one."""
    options: tuple[Enough, ...]
    present: Enough | None
    limits: Limits | None
    """Of the present number."""


def failure_rate(observed: Observed, confidence: float = 0.9) -> Rate:
    """The rate with its exact interval. Node-hours must be above 0."""
    scale = 1000.0 * HOURS_A_DAY / observed.node_hours
    tail, count = (1.0 - confidence) / 2.0, observed.failures
    low = 0.0 if count == 0 else _falls_to(lambda mean: at_most(count - 1, mean), 1.0 - tail)
    high = _falls_to(lambda mean: at_most(count, mean), tail)
    return Rate(count * scale, low * scale, high * scale, confidence)


def away(nodes: int, per_1000_node_days: float, repair_hours: float) -> float:
    """The mean number of nodes that are away at a moment."""
    return nodes * per_1000_node_days / 1000.0 * repair_hours / HOURS_A_DAY


def short_probability(spares: int, mean_away: float) -> float:
    """How often more nodes are away than there are spares."""
    if mean_away <= 0.0:
        return 0.0
    if spares + 1 > mean_away:
        # The tail itself: 1 - P(at most) would lose its digits where it matters.
        term, total, count = _poisson(spares + 1, mean_away), 0.0, spares + 1
        while term > total * 1e-17:
            total, count = total + term, count + 1
            term *= mean_away / count
        return min(1.0, total)
    return max(0.0, 1.0 - at_most(spares, mean_away))


def spares_needed(mean_away: float, wanted: float) -> int:
    """The fewest spares that are short no more often than wanted."""
    low, high = -1, 1
    while short_probability(high, mean_away) > wanted:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if short_probability(middle, mean_away) <= wanted else (middle, high)
    return high


def advise(
    observed: Observed, nodes: int, wanted: float, present: int | None = None, confidence: float = 0.9
) -> Advice:
    """How many spares `nodes` nodes need, and when the present number stops being enough."""
    rate = failure_rate(observed, confidence)

    def enough(spares: int) -> Enough:
        means = (away(nodes, value, observed.repair_hours) for value in (rate.value, rate.low, rate.high))
        return Enough(spares, *(short_probability(spares, mean) for mean in means))

    # More nodes than there are cannot be away, whatever few and bad data say.
    by_rate = min(nodes, spares_needed(min(nodes, away(nodes, rate.value, observed.repair_hours)), wanted))
    cautious = min(nodes, spares_needed(min(nodes, away(nodes, rate.high, observed.repair_hours)), wanted))
    first = max(0, min(by_rate, cautious if present is None else present) - 1)
    shown = range(max(first, cautious + 2 - _MOST_SHOWN), cautious + 2)
    return Advice(
        rate,
        wanted,
        cautious,
        by_rate,
        tuple(enough(spares) for spares in shown),
        None if present is None else enough(present),
        None if present is None else _limits(present, rate.value, observed.repair_hours, nodes, wanted),
    )


def _limits(spares: int, per_1000: float, repair_hours: float, nodes: int, wanted: float) -> Limits:
    most = _falls_to(lambda mean: 1.0 - short_probability(spares, mean), 1.0 - wanted)

    def bound(of_one: float) -> float | None:
        return most / of_one if of_one > 0.0 else None

    most_nodes = bound(away(1, per_1000, repair_hours))
    return Limits(
        bound(away(nodes, 1.0, repair_hours)),
        bound(away(nodes, per_1000, 1.0)),
        None if most_nodes is None else math.floor(most_nodes),
    )


def at_most(count: int, mean: float) -> float:
    """P(X <= count) of a Poisson variable."""
    if count < 0:
        return 0.0
    if mean <= 0.0:
        return 1.0
    return min(1.0, math.fsum(_poisson(item, mean) for item in range(count + 1)))


def _poisson(count: int, mean: float) -> float:
    return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))


def _falls_to(function: Callable[[float], float], value: float) -> float:
    """Where a function that falls from 1 as its argument grows from 0 has this value."""
    low, high = 0.0, 1.0
    while function(high) > value:
        low, high = high, high * 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if function(middle) > value else (low, middle)
    return (low + high) / 2.0
