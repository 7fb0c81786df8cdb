"""The watcher: quick on a kernel line, patient with a silent controller, never held up by a hanging driver."""

from __future__ import annotations

from typing import Any

import pytest
from node_fakes import NODE, NOW, FakeNode, settings

from sovctl.errors import SovctlError
from sovctl.model.verdict import VerdictState
from sovctl.operations.check_node import CheckOutcome
from sovctl.operations.watch_node import WatchPace, watch_node

XID79 = "NVRM: Xid (PCI:0000:64:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
XID45 = "NVRM: Xid (PCI:0000:64:00): 45, pid=1, name=x, Ch 8"


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


def watch(node: FakeNode, seconds: float, **changes: Any) -> tuple[list[CheckOutcome], list[str]]:
    outcomes: list[CheckOutcome] = []
    complaints: list[str] = []
    end = node.time + seconds
    watch_node(
        node.ports(),
        settings(**changes),
        WatchPace(),
        node,
        lambda: node.time >= end,
        outcomes.append,
        complaints.append,
    )
    return outcomes, complaints


def test_a_kernel_line_drains_within_a_second(node: FakeNode) -> None:
    node.script = [(NOW + 11.3, XID45), (NOW + 11.31, XID79), (NOW + 11.32, XID45)]
    outcomes, _ = watch(node, 60)
    (drained,) = node.drains
    assert 11.3 <= drained[0] - NOW < 12.3
    assert " XID79 GPU 5 at 0000:64:00" in drained[2], (
        "the GPU is named from the last reading, even if it vanished since"
    )
    assert [outcome.verdict.state for outcome in outcomes] == [
        VerdictState.HEALTHY,
        VerdictState.FAILED,
        VerdictState.FAILED,
    ]


def test_what_was_in_the_log_before_the_watcher_came(node: FakeNode) -> None:
    node.fault(79)
    watch(node, 3)
    assert len(node.drains) == 1


def test_counters_are_looked_at_twice_a_minute(node: FakeNode) -> None:
    watch(node, 10)
    node.samples = node.samples[:7]
    watch(node, 31)
    assert [drain[1] for drain in node.drains] == [NODE]


def test_the_mark_is_refreshed_while_the_driver_hangs(node: FakeNode) -> None:
    node.hanging = True
    node.script = [(NOW + 7, XID79)]
    watch(node, 20)
    gaps = [after - before for before, after in zip(node.marks, node.marks[1:], strict=False)]
    assert len(node.marks) >= 10 and max(gaps) < 2.5
    assert node.drains and node.drains[0][0] - NOW < 8


def test_a_drain_waits_for_slurmctld(node: FakeNode) -> None:
    node.slurm_down = True
    node.script = [(NOW + 5, XID79)]
    _, complaints = watch(node, 40)
    assert not node.drains
    assert len([words for words in complaints if "slurmctld" in words]) == 1
    node.slurm_down = False
    watch(node, 31)
    assert len(node.drains) == 1


def test_an_unreadable_log_leaves_nvml(node: FakeNode) -> None:
    node.log_error = SovctlError("no kernel log")
    outcomes, complaints = watch(node, 5)
    assert outcomes[-1].verdict.state is VerdictState.UNKNOWN
    assert complaints.count("no kernel log") == 1
    assert len(node.marks) >= 2


def test_a_driver_that_cannot_be_asked(node: FakeNode) -> None:
    node.probe_error = SovctlError("NVML is gone")
    watch(node, 5)
    node.fault(79)
    watch(node, 5)
    assert len(node.drains) == 1


def test_observing_drains_nothing(node: FakeNode) -> None:
    node.script = [(NOW + 5, XID79)]
    outcomes, _ = watch(node, 20, act=False)
    assert outcomes[-1].verdict.state is VerdictState.FAILED and not node.drains


def test_a_clock_that_is_set_back_does_not_stop_the_marks(node: FakeNode) -> None:
    watch(node, 5)
    before = len(node.marks)
    node.time -= 3600
    watch(node, 7)
    assert len(node.marks) - before >= 3
