"""The prolog of a job on this node: no word to slurmctld, no wait for anything that may hang.

It refuses a job only on an explicit failed verdict: the one that the health check left, while it is fresh, or what the
cheap live facts say by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sovctl.errors import SovctlError
from sovctl.health.judge import judge
from sovctl.health.probes import DEFAULT_STATES, PROBES
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Finding, Verdict, VerdictState
from sovctl.operations.node.look import Look, LookSettings, look

if TYPE_CHECKING:
    from sovctl.operations.node.burn_in import BurnInPorts, BurnInSettings
    from sovctl.ports.common import Clock
    from sovctl.ports.node import EvidenceFiles, GpuProbe, HostProbe, KernelLog, NodeRecords, VerdictStore


@dataclass(frozen=True, slots=True)
class JobPorts:
    """Everything prolog and epilog touch."""

    gpus: GpuProbe
    kernel_log: KernelLog
    verdicts: VerdictStore
    clock: Clock
    host: HostProbe | None = None
    records: NodeRecords | None = None
    evidence: EvidenceFiles | None = None
    """Where the epilog leaves what speaks for or against this node."""
    burn_in: BurnInPorts | None = None


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Whose job it is and how strictly the node is judged."""

    node: str
    job_id: str
    act: bool = True
    """False: observe only; no job is refused."""
    expected_gpus: int | None = None
    probes: Mapping[str, ProbeState] = field(default_factory=lambda: DEFAULT_STATES)
    verdict_valid_s: float = 300.0
    burn_in: BurnInSettings | None = None
    """None: no burn-in after jobs."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """What is said about the node at the start or the end of a job."""

    fit: bool
    line: str
    """One line for the user; empty when there is nothing to say."""
    verdict: Verdict
    checks: int
    """How many probes were asked, and the stored verdict."""
    notes: tuple[str, ...] = ()


def start_job(ports: JobPorts, settings: JobSettings) -> Guarded:
    """The prolog."""
    boot_id = ports.kernel_log.boot_id()
    stored = _fresh(ports, settings, ports.verdicts.load())
    wanted = LookSettings(settings.node, settings.expected_gpus, settings.probes, quick=True)
    seen = look(ports, wanted, boot_id, ports.verdicts.cursor(boot_id))
    live = judge(seen.snapshot, (), settings.probes, quick=True)
    worst, failed = live.worst, live.fails_besides(stored)
    if stored is not None and stored.state is VerdictState.FAILED and not stored.kept and not failed:
        worst, failed = stored.worst, True
    checks = 1 + sum(1 for probe in PROBES if probe.quick and settings.probes.get(probe.name) is not ProbeState.OFF)
    fit = not (failed and settings.act)
    line = line_for_the_user(settings.node, worst, fit)
    notes = (*seen.notes, *_mark_start(ports, settings, boot_id, seen, line))
    return Guarded(fit, line, live, checks, notes)


def _fresh(ports: JobPorts, settings: JobSettings, stored: Verdict | None) -> Verdict | None:
    """A verdict whose time is over says nothing: the checker may have died, the node may have been repaired."""
    if stored is None or not 0 <= ports.clock.now() - stored.observed_at <= settings.verdict_valid_s:
        return None
    return stored


def line_for_the_user(node: str, worst: Finding | None, fit: bool) -> str:
    if worst is None:
        return ""
    if fit:
        return f"sovctl: node {node} is degraded: {worst.code} {worst.evidence}"
    return f"sovctl: node {node} is not fit for this job, Slurm starts it elsewhere: {worst.code} {worst.evidence}"


def _mark_start(ports: JobPorts, settings: JobSettings, boot_id: str, seen: Look, line: str) -> tuple[str, ...]:
    """From where on in the kernel log the faults are this job's, and what its tasks are told."""
    if ports.records is None or not settings.job_id.isdigit():
        return ()
    mark = {"boot_id": boot_id, "sequence": seen.next_sequence, "at": seen.snapshot.observed_at}
    try:
        ports.records.save(f"job-{settings.job_id}", mark)
        ports.records.notice(line)
    except SovctlError as error:
        return (error.message,)
    return ()
