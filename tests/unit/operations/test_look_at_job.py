"""What a node says of itself to the supervisor of a run, as its user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from node_fakes import NODE, NOW, FakeNode

from sovctl.errors import SovctlError
from sovctl.model.gpu import GpuSample
from sovctl.model.host import PortSample
from sovctl.model.rank_look import LinkLook, NodeLook, RankLook
from sovctl.model.verdict import Finding, Severity, Verdict, VerdictState
from sovctl.operations.supervisor.look_at_job import JobLook, JobLookPorts, look_at_job

RANKS = (RankLook(0, 77, "python", "S"),)


class Ranks:
    """ports.RankProbe."""

    def look(self, job_id: str, node: str, **_: Any) -> tuple[tuple[RankLook, ...], float | None]:
        return (RANKS if (job_id, node) == ("7", NODE) else ()), 1000.0


class Gpus:
    """ports.GpuProbe in two steps."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.hangs = False

    def begin(self) -> None:
        if self.node.probe_error:
            raise self.node.probe_error

    def collect(self, wait_s: float) -> Sequence[GpuSample] | None:
        return None if self.hangs else self.node.samples


PORTS = (
    PortSample("mlx5_0", 1, "InfiniBand", "ACTIVE", counters={"link_downed": 2, "symbol_error": 0}),
    PortSample("mlx5_1", 1, "InfiniBand", "DOWN"),
)


def seen(node: FakeNode, probe: Gpus | None = None, **wish: Any) -> NodeLook:
    gpus = probe or Gpus(node)
    ports = JobLookPorts(Ranks(), gpus, node, node, node, 1000.0, lambda: PORTS)  # type: ignore[arg-type]
    return look_at_job(ports, JobLook(NODE, "7", NOW - 60, **{"gpus": 8, **wish}))


def test_a_node_that_is_well_says_where_its_ranks_are() -> None:
    look = seen(FakeNode())
    assert (look.node, look.ranks, look.findings, look.problems) == (NODE, RANKS, (), ())
    assert [gpu.index for gpu in look.gpus] == list(range(8))


def test_it_tells_how_its_links_are() -> None:
    node = FakeNode()
    node.samples = (
        replace(node.samples[0], nvlinks_active=18, nvlinks_inactive=0, nvlink_errors=3),
        replace(node.samples[1], nvlinks_active=17, nvlinks_inactive=1, nvlink_errors=0),
        replace(node.samples[2], nvlinks_active=None, nvlinks_inactive=None, nvlink_errors=None),
    )
    assert seen(node).links == (
        LinkLook("mlx5_0/1", "ACTIVE", {"link_downed": 2}),
        LinkLook("mlx5_1/1", "DOWN"),
        LinkLook("GPU 0 NVLink", "ACTIVE", {"nvlink_errors": 3}),
        LinkLook("GPU 1 NVLink", "DOWN"),
    )


def test_a_gpu_that_is_gone_is_missed_if_the_job_was_given_it() -> None:
    node = FakeNode()
    node.samples = node.samples[:7]
    assert seen(node).findings == ("GPU_COUNT NVML enumerates 7 of 8 GPUs",)
    assert seen(node, gpus=None).findings == ()
    assert seen(node, gpus=4).findings == ()


def test_a_lost_gpu_speaks_for_itself() -> None:
    node = FakeNode()
    node.samples = (*node.samples[:7], GpuSample(7, "", None, "B200", "", lost=True, error="GPU is lost"))
    assert "GPU_LOST" in seen(node).findings[0]


@pytest.mark.parametrize(("since_boot_s", "counts"), [(995.0, True), (900.0, False)])
def test_only_driver_lines_of_the_attempts_time_count(since_boot_s: float, counts: bool) -> None:
    node = FakeNode()
    node.fault(79)
    read = node.read

    def stamped(since_sequence: int | None = None) -> Any:
        from dataclasses import replace

        log = read(since_sequence)
        return replace(log, events=tuple(replace(event, since_boot_s=since_boot_s) for event in log.events))

    node.read = stamped  # type: ignore[method-assign]
    assert any("XID79" in words for words in seen(node).findings) == counts


@pytest.mark.parametrize(
    ("age_s", "state", "counts"), [(5, "failed", True), (90, "failed", False), (5, "degraded", False)]
)
def test_a_verdict_counts_when_it_failed_the_node_during_the_attempt(age_s: float, state: str, counts: bool) -> None:
    node = FakeNode()
    finding = Finding("MOUNT_STALE", Severity.FAIL, "/data does not answer")
    node.verdict = Verdict(NODE, "boot-1", NOW - age_s, VerdictState(state), findings=(finding,))
    assert seen(node).findings == (("MOUNT_STALE /data does not answer",) if counts else ())


def test_what_cannot_be_seen_is_told() -> None:
    node = FakeNode()
    node.probe_error, node.log_error = SovctlError("no driver"), SovctlError("dmesg_restrict")
    assert seen(node).problems == ("nvml: no driver", "kernel-log: dmesg_restrict")
    hanging = Gpus(FakeNode())
    hanging.hangs = True
    assert seen(FakeNode(), hanging).problems == ("nvml: no answer within 3 s",)


def test_where_nvml_says_nothing_no_gpu_is_missing() -> None:
    """No library for this user, or accelerators of another maker: a crash of the script is then no node's fault."""
    node = FakeNode()
    node.probe_error = SovctlError("NVML cannot be used: NVML Shared Library Not Found")
    hanging = Gpus(FakeNode())
    hanging.hangs = True
    refusing = Gpus(FakeNode())
    refusing.collect = _refuse  # type: ignore[method-assign]
    for probe in (Gpus(node), hanging, refusing):
        look = seen(FakeNode(), probe)
        assert look.findings == ()
        assert look.problems[0].startswith("nvml: ")


def _refuse(wait_s: float) -> Sequence[GpuSample] | None:
    raise SovctlError("NVML cannot be used: Driver Not Loaded")
