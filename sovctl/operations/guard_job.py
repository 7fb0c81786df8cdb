"""Prolog and epilog of a job on this node: no word to slurmctld, no wait for anything that may hang.

The prolog refuses a job only on an explicit failed verdict: the one that the health check left, while it is fresh, or
what the cheap live facts say by themselves. The epilog looks at what the job left behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sovctl.errors import SovctlError
from sovctl.health.judge import judge
from sovctl.health.ledger import timed
from sovctl.health.probes import DEFAULT_STATES, PROBES
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Finding, Verdict, VerdictState
from sovctl.model.verdict_json import finding_record
from sovctl.operations.look import Look, LookSettings, look

if TYPE_CHECKING:
    from sovctl.ports import Clock, GpuProbe, HostProbe, Journal, KernelLog, NodeRecords, VerdictStore

_MOST_XIDS = 50
_JOB_MARK_KEPT_S = 30 * 86400.0
_EPILOG_PROBES = frozenset(
    {"xid", "sxid", "gpu-count", "gpu-lost", "gpu-ecc", "gpu-remap", "gpu-recovery", "gpu-strays", "shared-memory"}
)


@dataclass(frozen=True, slots=True)
class JobPorts:
    """Everything prolog and epilog touch."""

    gpus: GpuProbe
    kernel_log: KernelLog
    verdicts: VerdictStore
    clock: Clock
    host: HostProbe | None = None
    records: NodeRecords | None = None


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
    worst = live.worst
    failed = live.state is VerdictState.FAILED
    if stored is not None and stored.state is VerdictState.FAILED and not failed:
        worst, failed = stored.worst, True
    checks = 1 + sum(1 for probe in PROBES if probe.quick and settings.probes.get(probe.name) is not ProbeState.OFF)
    fit = not (failed and settings.act)
    line = _line(settings.node, worst, fit)
    notes = (*seen.notes, *_mark_start(ports, settings, boot_id, seen, line))
    return Guarded(fit, line, live, checks, notes)


def end_job(ports: JobPorts, settings: JobSettings, journal: Journal) -> Guarded:
    """The epilog: what the job leaves, and what the driver said while it ran."""
    boot_id = ports.kernel_log.boot_id()
    since = _mark_end(ports, settings, boot_id)
    alone = ports.records is not None and not ports.records.jobs()
    states = {
        probe.name: settings.probes.get(probe.name, probe.default) if probe.name in _EPILOG_PROBES else ProbeState.OFF
        for probe in PROBES
    }
    wanted = LookSettings(settings.node, settings.expected_gpus, states, epilog=alone)
    seen = look(ports, wanted, boot_id, ports.verdicts.cursor(boot_id) if since is None else since)
    verdict = judge(seen.snapshot, (), states)
    notes = (*seen.notes, *_evidence(journal, settings, verdict, seen))
    fit = not (verdict.state is VerdictState.FAILED and settings.act)
    return Guarded(fit, _line(settings.node, verdict.worst, fit), verdict, len(_EPILOG_PROBES), notes)


def _fresh(ports: JobPorts, settings: JobSettings, stored: Verdict | None) -> Verdict | None:
    """A verdict whose time is over says nothing: the checker may have died, the node may have been repaired."""
    if stored is None or not 0 <= ports.clock.now() - stored.observed_at <= settings.verdict_valid_s:
        return None
    return stored


def _line(node: str, worst: Finding | None, fit: bool) -> str:
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


def _mark_end(ports: JobPorts, settings: JobSettings, boot_id: str) -> int | None:
    """The sequence the prolog noted; its mark is removed, and so are those of jobs whose epilog never came."""
    if ports.records is None or not settings.job_id.isdigit():
        return None
    mark = ports.records.load(f"job-{settings.job_id}")
    ports.records.drop(f"job-{settings.job_id}")
    for job_id in ports.records.jobs():
        other = ports.records.load(f"job-{job_id}")
        if not isinstance(other, dict) or _older(other, ports.clock.now()):
            ports.records.drop(f"job-{job_id}")
    if not isinstance(mark, dict) or mark.get("boot_id") != boot_id or type(mark.get("sequence")) is not int:
        return None
    return int(mark["sequence"])


def _older(mark: dict[str, Any], now: float) -> bool:
    at = mark.get("at")
    return not isinstance(at, int | float) or at < now - _JOB_MARK_KEPT_S


def _evidence(journal: Journal, settings: JobSettings, verdict: Verdict, seen: Look) -> tuple[str, ...]:
    """What the recovery reads to blame: only written when there is something to say."""
    xids = [
        {"code": event.code, "switch": event.switch, "pci": event.pci_bus_id, "at": round(at, 3)}
        for event, at in timed(seen.snapshot)
    ]
    if not xids and not verdict.findings:
        return ()
    try:
        journal.append(
            "job-evidence",
            job_id=settings.job_id,
            node=settings.node,
            state=str(verdict.state),
            xids=xids[:_MOST_XIDS],
            findings=[finding_record(finding) for finding in verdict.findings],
        )
    except SovctlError as error:
        return (error.message,)
    return ()
