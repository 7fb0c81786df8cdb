"""Exact limits of a mean time, against published tables and against their own definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.ledger.intervals import mean_time, poisson_cdf


@pytest.mark.parametrize(
    ("failures", "low", "high"),
    [(1, 0.02532, 5.57164), (5, 1.62349, 11.66833), (10, 4.79539, 18.39036), (20, 12.21652, 30.88838)],
)
def test_the_limits_are_those_of_the_tables(failures: int, low: float, high: float) -> None:
    # Limits of a Poisson mean at 95 %, Garwood (1936).
    found = mean_time(failures, 100.0)
    assert found.mean == pytest.approx(100 / failures)
    assert found.lower == pytest.approx(100 / high, rel=1e-5)
    assert found.upper == pytest.approx(100 / low, rel=1e-3)


def test_no_failure_has_a_lower_limit_only() -> None:
    found = mean_time(0, 100.0)
    assert (found.mean, found.upper) == (None, None)
    assert found.lower == pytest.approx(100 / 3.68888, rel=1e-5)


def test_nothing_observed_says_nothing() -> None:
    assert mean_time(0, 0.0).lower is None
    assert mean_time(3, 0.0).mean is None


@given(st.integers(0, 20_000), st.floats(0.01, 1e9))
def test_the_mean_lies_within_its_limits(failures: int, observed: float) -> None:
    found = mean_time(failures, observed)
    assert found.lower is not None and found.lower > 0
    if found.mean is not None and found.upper is not None:
        assert found.lower < found.mean < found.upper


@given(st.integers(0, 500), st.floats(0.001, 800))
def test_the_tail_is_a_probability_that_grows_with_the_count(count: int, mean: float) -> None:
    assert 0.0 <= poisson_cdf(count, mean) <= poisson_cdf(count + 1, mean) + 1e-12 <= 1.0 + 1e-12
