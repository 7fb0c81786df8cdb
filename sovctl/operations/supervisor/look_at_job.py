"""One look at this node for a run that stopped, on behalf of its supervisor and with the user's rights.

Where the ranks stand, how busy the accelerators are, and what speaks against the node: NVML, the kernel log of the
attempt's time where it may be read, and the verdict that a check as root left. Nothing is written, nothing drained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sovctl.errors import SovctlError
from sovctl.health.judge import judge
from sovctl.health.probes import PROBES
from sovctl.model.gpu import GpuSample, KernelLogRead, XidEvent
from sovctl.model.host import PortSample
from sovctl.model.node import NodeSnapshot
from sovctl.model.probe import ProbeState
from sovctl.model.rank_look import GpuUse, LinkLook, NodeLook
from sovctl.model.verdict import Finding, Severity, VerdictState
from sovctl.operations.node.look import GpuReading
from sovctl.ports.common import Clock
from sovctl.ports.node import GpuProbe, KernelLog, VerdictStore
from sovctl.ports.supervised import RankProbe

_ASKED = frozenset({"xid", "sxid", "gpu-count", "gpu-lost", "gpu-ecc", "gpu-remap", "gpu-recovery"})
_STATES: Mapping[str, ProbeState] = {
    probe.name: ProbeState.DRAIN if probe.name in _ASKED else ProbeState.OFF for probe in PROBES
}
_GPU_WAIT_S = 3.0


@dataclass(frozen=True, slots=True)
class JobLookPorts:
    """What it touches."""

    ranks: RankProbe
    gpus: GpuProbe
    kernel_log: KernelLog
    verdicts: VerdictStore
    clock: Clock
    uptime_s: float
    """Since boot, for the times in the kernel log."""
    network: Callable[[], Sequence[PortSample]] = tuple
    """The ports of the InfiniBand and RoCE adapters; anybody may read them."""


@dataclass(frozen=True, slots=True)
class JobLook:
    """What to look at."""

    node: str
    job_id: str
    since: float
    """When the attempt started; older faults are not this attempt's. Seconds since the epoch."""
    stacks: bool = True
    gpus: int | None = None
    """How many GPUs the job was given here; None: not known, so none is missed."""
    interval_s: float = 1.0
    """Over which CPU time and network traffic are measured."""
    deadline_s: float = 3.0
    """Of each stack."""


def look_at_job(ports: JobLookPorts, wish: JobLook) -> NodeLook:
    """Never raises SovctlError: what cannot be seen is told in `problems`."""
    began = ports.clock.now()
    late = _begin(ports.gpus)
    ranks, network = ports.ranks.look(
        wish.job_id,
        wish.node,
        stacks=wish.stacks,
        interval_s=wish.interval_s if wish.stacks else 0.0,
        deadline_s=wish.deadline_s,
    )
    reading = GpuReading(blind=late) if late else _collect(ports.gpus)
    xids, blind = _xids(ports, wish.since, began)
    return NodeLook(
        node=wish.node,
        ranks=ranks,
        findings=_findings(ports, wish, reading, xids, began),
        gpus=tuple(_use(gpu) for gpu in reading.gpus),
        links=_links(ports.network(), reading.gpus),
        network_bytes_s=network if wish.stacks else None,
        took_s=ports.clock.now() - began,
        problems=tuple(said for said in (reading.blind, blind) if said),
    )


def _begin(gpus: GpuProbe) -> str:
    try:
        gpus.begin()
    except SovctlError as error:
        return f"nvml: {error.message}"
    return ""


def _collect(gpus: GpuProbe) -> GpuReading:
    try:
        found = gpus.collect(_GPU_WAIT_S)
    except SovctlError as error:
        return GpuReading(blind=f"nvml: {error.message}")
    return GpuReading(found) if found is not None else GpuReading(blind=f"nvml: no answer within {_GPU_WAIT_S:g} s")


def _xids(ports: JobLookPorts, since: float, now: float) -> tuple[tuple[XidEvent, ...], str]:
    """The driver's lines of the attempt's time; the log is root's own at many sites."""
    try:
        read: KernelLogRead = ports.kernel_log.read(0)
    except SovctlError as error:
        return (), f"kernel-log: {error.message}"
    earliest = ports.uptime_s - (now - since)
    return tuple(event for event in read.events if event.since_boot_s >= earliest), ""


def _findings(
    ports: JobLookPorts, wish: JobLook, reading: GpuReading, xids: tuple[XidEvent, ...], now: float
) -> tuple[str, ...]:
    # Where NVML says nothing (no library for this user, accelerators of another maker) no GPU is missing.
    blind = (reading.blind,) if reading.blind else ()
    snapshot = NodeSnapshot(wish.node, "", now, gpus=reading.gpus, xids=xids, expected_gpus=wish.gpus, blind=blind)
    own = judge(snapshot, (), _STATES).findings
    return tuple(
        dict.fromkeys(_words(item) for item in (*own, *_stored(ports, wish)) if item.severity is Severity.FAIL)
    )


def _stored(ports: JobLookPorts, wish: JobLook) -> tuple[Finding, ...]:
    """What a check as root found since the attempt began; older findings did not keep Slurm from starting it here."""
    try:
        verdict = ports.verdicts.load()
    except SovctlError:
        return ()
    if verdict is None or verdict.state is not VerdictState.FAILED or verdict.observed_at < wish.since:
        return ()
    return verdict.findings


def _words(finding: Finding) -> str:
    gpu = f"GPU {finding.gpu_index}: " if finding.gpu_index is not None else ""
    return f"{finding.code} {gpu}{finding.evidence}"


def _links(ports: Sequence[PortSample], gpus: Sequence[GpuSample]) -> tuple[LinkLook, ...]:
    network = [LinkLook(port.name, port.state, {name: n for name, n in port.counters.items() if n}) for port in ports]
    nvlink = [
        LinkLook(
            f"GPU {gpu.index} NVLink",
            "DOWN" if gpu.nvlinks_inactive else "ACTIVE",
            {"nvlink_errors": gpu.nvlink_errors} if gpu.nvlink_errors else {},
        )
        for gpu in gpus
        if gpu.nvlinks_active
    ]
    return (*network, *nvlink)


def _use(gpu: GpuSample) -> GpuUse:
    return GpuUse(
        gpu.index,
        gpu.utilization_percent,
        gpu.power_w,
        gpu.power_limit_w,
        gpu.sm_clock_mhz,
        gpu.sm_clock_max_mhz,
        gpu.throttle_reasons,
    )
