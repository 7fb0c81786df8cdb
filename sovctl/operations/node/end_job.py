"""The epilog of a job on this node: what the job leaves, what the driver said while it ran, and a short burn-in.

Apart from the prolog, for which every job waits and which imports none of this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sovctl.errors import SovctlError
from sovctl.health.explain_line import explain_event
from sovctl.health.judge import judge
from sovctl.health.ledger import timed
from sovctl.health.memory import rose_since
from sovctl.health.probes import PROBES
from sovctl.model.burn_in import SILENT, BurnInOutcome, BurnInResult
from sovctl.model.gpu import pci_address
from sovctl.model.job_evidence import MOST, EccDelta, JobEvidence, JobXid, Stray
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Verdict, VerdictState
from sovctl.model.verdict_json import finding_record
from sovctl.operations.node.burn_in import after_job
from sovctl.operations.node.guard_job import Guarded, JobPorts, JobSettings, line_for_the_user
from sovctl.operations.node.look import Look, LookSettings, look

if TYPE_CHECKING:
    from sovctl.ports.common import Journal

_MOST_XIDS = 50
_JOB_MARK_KEPT_S = 30 * 86400.0
_EPILOG_PROBES = frozenset(
    {"xid", "sxid", "gpu-count", "gpu-lost", "gpu-ecc", "gpu-remap", "gpu-recovery", "gpu-strays", "shared-memory"}
    | {"leftovers", "burn-in", "burn-in-slow"}
)


def end_job(ports: JobPorts, settings: JobSettings, journal: Journal) -> Guarded:
    """The epilog: what the job leaves, and what the driver said while it ran."""
    boot_id = ports.kernel_log.boot_id()
    since, started_at = _mark_end(ports, settings, boot_id)
    alone = ports.records is not None and not ports.records.jobs()
    states = {
        probe.name: settings.probes.get(probe.name, probe.default) if probe.name in _EPILOG_PROBES else ProbeState.OFF
        for probe in PROBES
    }
    wanted = LookSettings(settings.node, settings.expected_gpus, states, epilog=alone)
    seen = look(ports, wanted, boot_id, ports.verdicts.cursor(boot_id) if since is None else since)
    verdict = judge(seen.snapshot, (), states)
    burnt: tuple[BurnInResult, ...] = ()
    notes = seen.notes
    if alone and verdict.state is not VerdictState.FAILED and ports.burn_in and settings.burn_in:
        burnt, more = after_job(ports.burn_in, settings.burn_in, seen.snapshot)
        notes = (*notes, *more, *_write_burnt(journal, settings, burnt))
        if burnt:
            verdict = judge(replace(seen.snapshot, burn_in=_with(seen.snapshot.burn_in, burnt)), (), states)
    notes = (*notes, *_evidence(journal, settings, verdict, seen))
    notes = (*notes, *_leave_evidence(ports, _job_evidence(settings, started_at, verdict, seen, burnt)))
    fit = True
    if settings.act and verdict.state is VerdictState.FAILED:
        # What a check has acted on may have been repaired and forgiven while the job ran on.
        cursor = ports.verdicts.cursor(boot_id)
        new = tuple(event for event in seen.snapshot.xids if event.sequence >= cursor)
        now = judge(replace(seen.snapshot, xids=new, burn_in=_with(seen.snapshot.burn_in, burnt)), (), states)
        fit = not now.fails_besides(ports.verdicts.load())
    return Guarded(fit, line_for_the_user(settings.node, verdict.worst, fit), verdict, len(_EPILOG_PROBES), notes)


def _mark_end(ports: JobPorts, settings: JobSettings, boot_id: str) -> tuple[int | None, float | None]:
    """(sequence, time) the prolog noted. Its mark is removed, and so are those of jobs whose epilog never came."""
    if ports.records is None or not settings.job_id.isdigit():
        return None, None
    mark = ports.records.load(f"job-{settings.job_id}")
    ports.records.drop(f"job-{settings.job_id}")
    for job_id in ports.records.jobs():
        other = ports.records.load(f"job-{job_id}")
        if not isinstance(other, dict) or _older(other, ports.clock.now()):
            ports.records.drop(f"job-{job_id}")
    if not isinstance(mark, dict) or mark.get("boot_id") != boot_id or type(mark.get("sequence")) is not int:
        return None, None
    at = mark.get("at")
    return int(mark["sequence"]), float(at) if isinstance(at, int | float) else None


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


def _write_burnt(journal: Journal, settings: JobSettings, burnt: tuple[BurnInResult, ...]) -> tuple[str, ...]:
    """So that a spare that is never idle has a proof, too: `sovctl spare status` shows its age."""
    notes: tuple[str, ...] = ()
    for result in (result for result in burnt if result.outcome not in SILENT):
        outcome = _OUTCOMES.get(result.outcome, "unsure")
        try:
            journal.append(
                "burnt-in", node=settings.node, job_id=settings.job_id, outcome=outcome, why=result.evidence[:200]
            )
        except SovctlError as error:
            notes = (*notes, error.message)
    return notes


_OUTCOMES = {
    BurnInOutcome.PASSED: "ok",
    BurnInOutcome.LEARNT: "ok",
    BurnInOutcome.WRONG: "failed",
    BurnInOutcome.FAILED: "failed",
}
"""In the words of the test of an idle spare."""


def _with(known: tuple[BurnInResult, ...], fresh: tuple[BurnInResult, ...]) -> tuple[BurnInResult, ...]:
    said = {result.piece: result for result in fresh if result.outcome not in SILENT}
    return (*(result for result in known if result.piece not in said), *said.values())


def _job_evidence(
    settings: JobSettings, started_at: float | None, verdict: Verdict, seen: Look, burnt: tuple[BurnInResult, ...]
) -> JobEvidence:
    """What this node has to say about the job, in the format that everybody reads."""
    gpus = {pci_address(gpu.pci_bus_id): gpu.uuid for gpu in seen.snapshot.gpus}
    xids = tuple(
        JobXid(
            event.code,
            round(at, 3),
            event.pci_bus_id,
            "" if event.switch else gpus.get(pci_address(event.pci_bus_id), ""),
            event.switch,
            str(explain_event(event).kind),
        )
        for event, at in timed(seen.snapshot)[:MOST]
    )
    alone = seen.snapshot.epilog
    return JobEvidence(
        node=settings.node,
        job_id=settings.job_id,
        boot_id=seen.snapshot.boot_id,
        started_at=started_at,
        ended_at=seen.snapshot.observed_at,
        state=verdict.state,
        repair=verdict.repair,
        xids=xids,
        strays=tuple(Stray(pid, gpu.uuid) for gpu in seen.snapshot.gpus for pid in gpu.process_ids if alone),
        ecc=_ecc_deltas(seen, started_at),
        burn_in=next((result for result in burnt if result.outcome not in SILENT), None),
        findings=verdict.findings,
    )


def _ecc_deltas(seen: Look, started_at: float | None) -> tuple[EccDelta, ...]:
    """By the counters that the watcher and the checks noted before and during the job."""
    if started_at is None:
        return ()
    rows = (
        EccDelta(
            gpu.uuid,
            int(rose_since(seen.snapshot, f"gpu/{gpu.uuid}/corrected", started_at)),
            int(rose_since(seen.snapshot, f"gpu/{gpu.uuid}/uncorrected", started_at)),
        )
        for gpu in seen.snapshot.gpus
        if not gpu.error
    )
    return tuple(row for row in rows if row.corrected or row.uncorrected)


def _leave_evidence(ports: JobPorts, evidence: JobEvidence) -> tuple[str, ...]:
    if ports.evidence is None or not evidence.job_id.isdigit() or not evidence.says_something:
        return ()
    try:
        ports.evidence.save(evidence)
    except SovctlError as error:
        return (error.message,)
    return ()
