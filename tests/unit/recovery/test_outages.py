"""Failures and repairs, counted from the cluster journal."""

from __future__ import annotations

from typing import Any

import pytest

from sovctl.recovery.outages import outages

HOUR = 3600.0


def entry(hour: float, kind: str, node: str, **fields: Any) -> dict[str, Any]:
    return {"at": hour * HOUR, "kind": kind, "node": node, **fields}


def test_a_drain_and_the_death_that_follows_are_one_failure() -> None:
    seen = outages([entry(1, "drain-done", "n1"), entry(1.2, "down-done", "n1")], ("n1",), 10 * HOUR)
    assert (seen.failures, seen.observed_s) == (1, 9 * HOUR)


def test_what_a_person_drained_is_no_failure() -> None:
    assert outages([entry(1, "drain-done", "n1", by="kim")], ("n1",), 10 * HOUR).failures == 0


def test_repairs_that_go_on_count_with_their_time_so_far() -> None:
    events = [entry(number, "drain-done", f"n{number}") for number in range(4)]
    events += [entry(number + 2, "resume-done", f"n{number}", by="kim") for number in range(3)]
    seen = outages(events, ("n3",), 9 * HOUR)
    assert (seen.failures, seen.repairs) == (4, 3)
    assert seen.repair_s == pytest.approx((3 * 2 + 6) * HOUR / 3)


def test_a_node_given_back_past_us_says_nothing_of_its_repair() -> None:
    events = [entry(number, "drain-done", f"n{number}") for number in range(4)]
    events += [entry(number + 2, "resume-done", f"n{number}") for number in range(3)]
    seen = outages(events, (), 9 * HOUR)
    assert (seen.failures, seen.repair_s) == (4, 2 * HOUR)


def test_few_repairs_say_nothing() -> None:
    events = [entry(1, "drain-done", "n1"), entry(2, "resume-done", "n1")]
    assert outages(events, (), 9 * HOUR).repair_s is None


def test_a_journal_of_nonsense_is_survived() -> None:
    events: list[dict[str, Any]] = [{}, {"at": "x"}, {"at": 1.0, "kind": "drain-done"}, {"at": 2.0, "node": 3}]
    assert outages(events, (), 5.0).failures == 0
    assert outages([], (), 5.0).observed_s == 0.0
