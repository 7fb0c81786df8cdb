"""How many spares are enough."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovctl.recovery.spare_count import (
    Observed,
    advise,
    at_most,
    away,
    failure_rate,
    short_probability,
    spares_needed,
)

MEANS = st.floats(1e-6, 200.0)
COUNTS = st.integers(0, 60)


@pytest.mark.parametrize(("spares", "days", "short"), [(3, 3, 0.011), (2, 3, 0.055), (3, 7, 0.139), (5, 7, 0.016)])
def test_figures_of_a_cluster_that_loses_a_node_every_three_and_a_half_days(
    spares: int, days: int, short: float
) -> None:
    assert short_probability(spares, 0.283 * days) == pytest.approx(short, abs=0.0006)


@pytest.mark.parametrize(
    ("failures", "low", "high"),
    # Exact limits of a Poisson mean, 95 %: Garwood 1936, as in every table since.
    [(0, 0.0, 3.689), (1, 0.025, 5.572), (5, 1.623, 11.668), (10, 4.795, 18.390), (100, 81.364, 121.627)],
)
def test_the_interval_is_the_exact_one(failures: int, low: float, high: float) -> None:
    rate = failure_rate(Observed(failures, 24_000.0, 72.0), 0.95)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=0.001), pytest.approx(high, abs=0.001))
    assert rate.value == failures


@given(COUNTS, MEANS)
def test_being_short_and_not_being_short_is_everything(count: int, mean: float) -> None:
    short = short_probability(count, mean)
    assert 0.0 <= short <= 1.0
    assert short + at_most(count, mean) == pytest.approx(1.0, abs=1e-9)


@given(COUNTS, MEANS, st.floats(1.0, 3.0))
def test_more_spares_help_and_more_failures_do_not(count: int, mean: float, more: float) -> None:
    short = short_probability(count, mean)
    assert short_probability(count + 1, mean) <= short + 1e-12
    assert short_probability(count, mean * more) >= short - 1e-12


@given(MEANS, st.floats(1e-6, 0.5))
def test_the_number_needed_is_enough_and_one_less_is_not(mean: float, wanted: float) -> None:
    needed = spares_needed(mean, wanted)
    assert short_probability(needed, mean) <= wanted
    assert needed == 0 or short_probability(needed - 1, mean) > wanted


@settings(max_examples=30)
@given(st.integers(0, 60), st.floats(100.0, 1e7), st.floats(0.5, 0.99))
def test_the_interval_holds_what_was_measured_and_has_its_confidence(
    failures: int, hours: float, confidence: float
) -> None:
    rate = failure_rate(Observed(failures, hours, 1.0), confidence)
    assert rate.low <= rate.value <= rate.high
    scale, tail = hours / 24_000.0, (1.0 - confidence) / 2.0
    assert at_most(failures, rate.high * scale) == pytest.approx(tail, abs=1e-6)
    if failures:
        assert 1.0 - at_most(failures - 1, rate.low * scale) == pytest.approx(tail, abs=1e-6)


@given(st.integers(1, 60), st.integers(2, 500), st.floats(1.0, 500.0), st.integers(0, 12), st.floats(0.001, 0.2))
def test_the_present_number_is_enough_up_to_its_bounds_and_no_further(
    failures: int, nodes: int, repair: float, present: int, wanted: float
) -> None:
    hours = nodes * 1000.0
    advice = advise(Observed(failures, hours, repair), nodes, wanted, present)
    limits, rate = advice.limits, advice.rate.value
    assert limits is not None
    assert limits.failures_per_1000_node_days is not None and limits.repair_hours is not None
    for times, enough in ((0.999, True), (1.001, False)):
        by_rate = away(nodes, limits.failures_per_1000_node_days * times, repair)
        by_repair = away(nodes, rate, limits.repair_hours * times)
        assert (short_probability(present, by_rate) <= wanted) is enough
        assert (short_probability(present, by_repair) <= wanted) is enough
    assert limits.nodes is not None
    assert short_probability(present, away(limits.nodes, rate, repair)) <= wanted * 1.000001
    assert short_probability(present, away(limits.nodes + 1, rate, repair)) > wanted


@given(st.integers(0, 50), st.floats(100.0, 1e6), st.integers(1, 1000))
def test_the_advice_is_cautious_and_among_what_is_shown(failures: int, hours: float, nodes: int) -> None:
    advice = advise(Observed(failures, hours, 24.0), nodes, 0.01)
    assert advice.spares >= advice.by_rate
    assert advice.spares in [item.spares for item in advice.options]
    assert advice.present is None
    assert advice.spares <= nodes


def test_nothing_failed_yet_is_not_never() -> None:
    advice = advise(Observed(0, 24_000.0, 72.0), 63, 0.01, 0)
    assert advice.rate.value == 0.0
    assert advice.by_rate == 0
    assert advice.spares == spares_needed(63 * -math.log(0.05) / 1000.0 * 3, 0.01)
    assert advice.limits is not None and advice.limits.repair_hours is None
