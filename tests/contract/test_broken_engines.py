"""Engines that are broken on purpose are found out by the orders of tests/unit/operations/test_every_order.py: each by
the law it breaks. Here and not there, for they take longer than a unit test may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from run_fakes import FakeChild
from test_every_order import EveryOrder

from sovctl.model.blame import Blame
from sovctl.operations.supervisor.bring_back import BringBack
from sovctl.operations.supervisor.recover import Recovery
from sovctl.operations.supervisor.take_over import TakeOver


@contextmanager
def takes_nothing_over() -> Iterator[None]:
    """A killed supervisor is taken for one that was lost with its node."""
    with mock.patch.object(TakeOver, "died_here", lambda self, events: False):
        yield


@contextmanager
def keeps_away_from_no_node() -> Iterator[None]:
    with ExitStack() as patches:
        for place in ("recovery.exclusion", "operations.supervisor.supervise", "operations.supervisor.take_over"):
            patches.enter_context(mock.patch(f"sovctl.{place}.exclusions", lambda events, now: []))
        yield


@contextmanager
def requeues_without_an_end() -> Iterator[None]:
    """Whatever stopped the run, it goes through the queue at once and nothing is written down."""

    def recover(self: Recovery, child: FakeChild, blame: Blame, *_: Any) -> int:
        back = self._live.bring_back()
        back.kill(child, ())
        back.requeue(exclude_reason=blame.evidence)
        return 0

    with mock.patch.object(Recovery, "recover", recover):
        yield


@contextmanager
def tells_nobody_of_its_end() -> Iterator[None]:
    with mock.patch.object(Recovery, "_end_run", lambda *_: 0):
        yield


@contextmanager
def holds_nothing() -> Iterator[None]:
    with mock.patch.object(BringBack, "hold", lambda self, why: self.requeue(exclude_reason=why)):
        yield


@pytest.mark.parametrize(
    ("broken", "found_by"),
    [
        (takes_nothing_over, "no_two_scripts_run_at_once"),
        (keeps_away_from_no_node, "nobody_goes_back_to_a_blamed_node"),
        (requeues_without_an_end, "it_is_brought_back_once_for_each_stop"),
        (tells_nobody_of_its_end, "the_run_is_not_lost"),
        # Left alone, its runs come to no end.
        (holds_nothing, "_left_alone"),
    ],
)
def test_a_broken_engine_is_found_out(broken: Callable[[], Any], found_by: str) -> None:
    always_the_same = settings(
        max_examples=900,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.generate],
        derandomize=True,
        database=None,
    )
    with broken(), pytest.raises(AssertionError) as found:
        run_state_machine_as_test(EveryOrder, settings=always_the_same)
    assert found_by in [entry.name for entry in found.traceback], found.traceback[-1]
