"""The watcher: quick on a kernel line, patient with a silent controller, never held up by a hanging driver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from node_fakes import NODE, NOW, FakeNode, Records, settings

from sovctl.errors import SovctlError
from sovctl.health.probes import DEFAULT_STATES, NOT_OF_THE_HOST, PROBES, source_groups
from sovctl.model.host import HostFacts, Outcome, PortSample, SourceReading
from sovctl.model.inventory import Inventory, inventory_record
from sovctl.model.node import NodeState
from sovctl.model.verdict import VerdictState
from sovctl.operations.node.check_node import CheckOutcome
from sovctl.operations.node.watch_node import WatchPace, watch_node

XID79 = "NVRM: Xid (PCI:0000:64:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
XID45 = "NVRM: Xid (PCI:0000:64:00): 45, pid=1, name=x, Ch 8"


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


class Host:
    """A host of which each part is asked in turn; `stuck` ones take their two seconds."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.asked: list[tuple[float, frozenset[str]]] = []
        self.stuck: frozenset[str] = frozenset()
        self.until = 0.0

    def begin(self, sources: frozenset[str]) -> None:
        self.asked.append((self.node.time, sources))
        self.until = self.node.time + (2.0 if sources & self.stuck else 0.0)

    def collect(self, wait_s: float) -> HostFacts | None:
        if self.node.time < self.until:
            self.node.time += wait_s
            return None
        sources = self.asked[-1][1]
        readings = tuple(
            SourceReading(name, Outcome.HUNG if name in self.stuck else Outcome.SEEN, 2000.0) for name in sources
        )
        return HostFacts(readings=readings)


def watch(
    node: FakeNode, seconds: float, host: Host | None = None, records: Records | None = None, **changes: Any
) -> tuple[list[CheckOutcome], list[str]]:
    outcomes: list[CheckOutcome] = []
    complaints: list[str] = []
    end = node.time + seconds
    watch_node(
        replace(node.ports(), records=records),
        settings(**changes),
        WatchPace(),
        node,
        lambda: node.time >= end,
        outcomes.append,
        complaints.append,
        host,
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


def test_every_part_of_the_host_is_seen_within_three_minutes_one_at_a_time(node: FakeNode) -> None:
    host = Host(node)
    watch(node, 180, host)
    seen = frozenset().union(*(sources for _, sources in host.asked))
    assert seen == {source for probe in PROBES for source in probe.sources} - NOT_OF_THE_HOST
    gaps = [after[0] - before[0] for before, after in zip(host.asked, host.asked[1:], strict=False)]
    assert min(gaps) >= 9.9
    for probe in PROBES:
        together = set(probe.sources) - NOT_OF_THE_HOST
        assert not together or any(together <= group for group in source_groups(DEFAULT_STATES)), probe.name


def test_a_port_that_stays_down_drains_without_a_health_check_of_slurmd(node: FakeNode) -> None:
    records = Records()
    records.files["inventory"] = inventory_record(Inventory(ports={"mlx5_0/1": 400.0}), NODE, NOW)
    part = next(group for group in source_groups(DEFAULT_STATES) if "infiniband" in group)

    class Ports(Host):
        def collect(self, wait_s: float) -> HostFacts | None:
            facts = super().collect(wait_s)
            down = (PortSample("mlx5_0", 1, "InfiniBand", "DOWN"),)
            return replace(facts, ports=down) if facts is not None and self.asked[-1][1] == part else facts

    outcomes, _ = watch(node, 300, Ports(node), records)
    assert [drain[1] for drain in node.drains] == [NODE]
    assert outcomes[-1].verdict.worst is not None and outcomes[-1].verdict.worst.code == "IB_PORT_DOWN"


def test_a_part_that_hangs_delays_no_kernel_line(node: FakeNode) -> None:
    host = Host(node)
    host.stuck = frozenset({"clock", "mounts", "services", "processes", "ethernet", "nfs", "answers", "containers"})
    node.script = [(NOW + at, XID79) for at in (10.5,)]
    watch(node, 15, host, Records())
    assert host.asked and node.drains and node.drains[0][0] - NOW < 11.5


class Mended(Host):
    """Between two readings of NVML somebody mends the GPU and gives the node back; then a part of the host is asked."""

    at = NOW + 39.0

    def begin(self, sources: frozenset[str]) -> None:
        super().begin(sources)
        if self.node.time >= self.at and len(self.node.samples) == 7:
            self.node.samples = FakeNode().samples
            self.node.views[NODE] = replace(self.node.views[NODE], state=NodeState("IDLE"), reason="")


def test_a_node_that_was_mended_and_given_back_is_not_drained_for_what_nvml_said_before(node: FakeNode) -> None:
    node.samples = node.samples[:7]
    outcomes, _ = watch(node, 120, Mended(node), expected_gpus=8)
    assert [code for _, _, reason in node.drains for code in reason.split()[1:2]] == ["GPU_COUNT"]
    assert node.drains[0][0] < Mended.at
    assert [outcome.verdict.state for outcome in outcomes][-1] is VerdictState.HEALTHY


def test_nor_for_a_kernel_line_that_says_nothing_of_it(node: FakeNode) -> None:
    node.samples = node.samples[:7]
    node.script = [(NOW + 45.0, XID45)]
    watch(node, 120, Mended(node), expected_gpus=8)
    assert len(node.drains) == 1


def test_a_mended_node_that_fails_again_is_drained_again_within_a_second(node: FakeNode) -> None:
    node.samples = node.samples[:7]
    node.script = [(NOW + 45.3, XID79)]
    watch(node, 120, Mended(node), expected_gpus=8)
    (_, again) = node.drains
    assert 45.3 <= again[0] - NOW < 46.3
    assert " XID79 " in again[2]
