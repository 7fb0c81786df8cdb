"""How sure a mean time between failures is: exact limits for a Poisson process. Pure.

With n failures in a time T, the limits of the rate are those for which n would be just not too few and just not too
many (Garwood 1936): chi2(a/2; 2n) / 2T and chi2(1 - a/2; 2n + 2) / 2T. No failure has no upper limit of the mean
time. chi2 with an even number of degrees of freedom is a Poisson tail, so its quantile needs no tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class MeanTime:
    """Time between failures, in the unit of the time observed; `None`: no failure, so no bound."""

    failures: int
    observed: float
    mean: float | None
    lower: float | None
    upper: float | None


def mean_time(failures: int, observed: float, confidence: float = CONFIDENCE) -> MeanTime:
    """The mean time between failures with its exact two-sided interval."""
    if observed <= 0:
        return MeanTime(failures, max(observed, 0.0), None, None, None)
    tail = (1 - confidence) / 2
    upper = observed / _mean_where(failures - 1, 1 - tail) if failures else None
    return MeanTime(
        failures,
        observed,
        observed / failures if failures else None,
        observed / _mean_where(failures, tail),
        upper,
    )


def poisson_cdf(count: int, mean: float) -> float:
    """P(X <= count) of a Poisson variable, which is 1 - chi2cdf(2 mean; 2 count + 2)."""
    if mean <= 0:
        return 1.0
    # From the largest term outwards, so that nothing vanishes before it is added.
    peak = min(count, int(mean))
    largest = math.exp(peak * math.log(mean) - mean - math.lgamma(peak + 1))
    total = term = largest
    for k in range(peak, 0, -1):
        term *= k / mean
        total += term
        if term < total * 1e-17:
            break
    term = largest
    for k in range(peak + 1, count + 1):
        term *= mean / k
        total += term
        if term < total * 1e-17:
            break
    return min(total, 1.0)


def _mean_where(count: int, probability: float) -> float:
    """The mean m for which P(X <= count) is `probability`: half the chi-square quantile of 1 - probability with
    2 count + 2 degrees of freedom."""
    low, high = 0.0, count + 1.0
    while poisson_cdf(count, high) > probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if poisson_cdf(count, middle) > probability else (low, middle)
    return (low + high) / 2
