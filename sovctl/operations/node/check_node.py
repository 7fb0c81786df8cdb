"""One look at this node: sample, judge, remember, and take it out of service when it failed and that is allowed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sovctl.errors import SovctlError
from sovctl.health.drain import Drain, Nothing, decide_drain, incident_id, recent_drains
from sovctl.health.judge import judge, not_asked, still_holds
from sovctl.health.probes import DEFAULT_STATES
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Finding, Verdict, VerdictState
from sovctl.model.verdict_json import finding_record
from sovctl.operations.node.look import GpuReading, HostReading, LookSettings, keep, look
from sovctl.ports.common import Clock, Journal, Turn
from sovctl.ports.node import GpuProbe, HostProbe, KernelLog, NodeRecords, VerdictStore
from sovctl.ports.slurm import ClusterView, NodeControl


@dataclass(frozen=True, slots=True)
class NodePorts:
    """Everything a look at a node touches."""

    gpus: GpuProbe
    kernel_log: KernelLog
    verdicts: VerdictStore
    nodes: NodeControl
    cluster: ClusterView
    journal: Journal
    turn: Turn
    clock: Clock
    host: HostProbe | None = None
    """None: this look is at the GPUs only; what an earlier one found on the host stands while it is fresh."""
    records: NodeRecords | None = None


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Who looks at which node, and how far it may go."""

    node: str
    uid: int
    """Effective user id; root and SlurmUser may drain."""
    act: bool
    """False: decide nothing, do nothing."""
    dry_run: bool = False
    """Decide, and show the command instead of running it; nothing is written."""
    expected_gpus: int | None = None
    drain_limit_per_hour: int = 4
    verdict_valid_s: float = 300.0
    probes: Mapping[str, ProbeState] = field(default_factory=lambda: DEFAULT_STATES)


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """The judgement and what came of it."""

    verdict: Verdict
    decision: Drain | Nothing
    drained: bool = False
    settled: bool = True
    """False: the node failed and is still in service; look again soon."""
    notes: tuple[str, ...] = ()
    """What went wrong on the side of the checker; never a reason to drain."""


def check_node(
    ports: NodePorts, settings: CheckSettings, reading: GpuReading | None = None, part: HostReading | None = None
) -> CheckOutcome:
    """Look once. `reading`, `part`: what the caller has asked already, see `look`. Idempotent."""
    boot_id = ports.kernel_log.boot_id()
    wanted = LookSettings(settings.node, settings.expected_gpus, settings.probes)
    seen = look(ports, wanted, boot_id, ports.verdicts.cursor(boot_id), reading, part)
    earlier = ports.verdicts.load()
    left_out, shadow = not_asked(earlier, boot_id, seen.asked, seen.snapshot.observed_at, settings.verdict_valid_s)
    verdict = judge(seen.snapshot, (*_carried(ports, settings, earlier, boot_id), *left_out), settings.probes)
    verdict = replace(verdict, shadow=(*shadow, *verdict.shadow))
    notes = [*seen.notes]
    if not settings.dry_run:
        kept = keep(ports.records, seen, verdict, earlier, settings.probes)
        notes += kept if settings.uid == 0 else []
        notes += _remember(ports, settings, verdict, earlier)
    outcome = _decide(ports, settings, verdict, earlier)
    if verdict.state is VerdictState.FAILED and not settings.dry_run:
        decided = replace(verdict, kept=_kept(outcome))
        notes += _attempt(settings, lambda: ports.verdicts.save(decided, settings.verdict_valid_s))
    if outcome.settled and not settings.dry_run:
        # Only now: a fault that could not be acted on (slurmctld down, budget spent) is read again next time, also by
        # another process after this one died.
        notes += _attempt(settings, lambda: ports.verdicts.save_cursor(boot_id, seen.next_sequence))
    return replace(outcome, notes=(*notes, *outcome.notes))


def _kept(outcome: CheckOutcome) -> str:
    """Why the node takes jobs all the same, see Verdict.kept."""
    decision = outcome.decision
    if outcome.verdict.state is not VerdictState.FAILED or not isinstance(decision, Nothing):
        return ""
    return "budget" if decision.budget else "out" if decision.settled else ""


def _carried(ports: NodePorts, settings: CheckSettings, earlier: Verdict | None, boot_id: str) -> tuple[Finding, ...]:
    """Earlier kernel faults hold as long as the node is out of service; who gives it back, forgives them."""
    held = still_holds(earlier, boot_id)
    return held if held and _is_out(ports, settings, unknown=True) else ()


def _is_out(ports: NodePorts, settings: CheckSettings, *, unknown: bool = False) -> bool:
    try:
        state = ports.nodes.node(settings.node).state
    except SovctlError:
        return unknown
    return state.draining or state.down


def _decide(ports: NodePorts, settings: CheckSettings, verdict: Verdict, earlier: Verdict | None) -> CheckOutcome:
    if verdict.state is not VerdictState.FAILED:
        return CheckOutcome(verdict, Nothing(f"the verdict is {verdict.state}"))
    if not settings.act:
        settled = _is_out(ports, settings)
        return CheckOutcome(verdict, Nothing("observing only", settled=settled), settled=settled)
    try:
        if not settings.dry_run and not _may_act(ports.cluster, settings.uid):
            return CheckOutcome(verdict, Nothing("only root and SlurmUser drain", settled=False), settled=False)
        with ports.turn.take():
            return _decide_in_turn(ports, settings, verdict, earlier)
    except SovctlError as error:
        why = f"the node could not be drained: {error.message}"
        return CheckOutcome(verdict, Nothing(why, settled=False), settled=False, notes=(why,))


def _decide_in_turn(
    ports: NodePorts, settings: CheckSettings, verdict: Verdict, earlier: Verdict | None
) -> CheckOutcome:
    nodes = ports.cluster.nodes()
    own = next((node for node in nodes if node.name == settings.node), None)
    if own is None:
        raise SovctlError(
            f"Slurm knows no node {settings.node}", hint="Set node.name to the NodeName of slurm.conf; see: sinfo -N"
        )
    incident = incident_id(settings.node, verdict.boot_id, verdict.observed_at)
    recent = recent_drains(nodes, ports.clock.now())
    decision = decide_drain(verdict, own, recent, settings.drain_limit_per_hour, incident)
    if isinstance(decision, Nothing):
        notes = _withheld(ports, settings, verdict, earlier, decision)
        return CheckOutcome(verdict, decision, settled=decision.settled, notes=notes)
    if settings.dry_run:
        return CheckOutcome(verdict, decision, settled=False)
    return _drain(ports, verdict, decision)


def _drain(ports: NodePorts, verdict: Verdict, decision: Drain) -> CheckOutcome:
    incident = decision.reason.incident
    notes = _journal(
        ports.journal,
        "drain-intended",
        incident=incident,
        node=decision.node,
        code=decision.reason.code,
        reason=str(decision.reason),
        repair=str(verdict.repair),
        detected_at=verdict.observed_at,
        findings=[finding_record(finding) for finding in verdict.findings],
        command=shlex.join(decision.argv),
    )
    try:
        ports.nodes.drain(decision.node, str(decision.reason))
    except SovctlError as error:
        _journal(ports.journal, "drain-failed", incident=incident, node=decision.node, error=error.message)
        raise
    notes += _journal(ports.journal, "drain-done", incident=incident, node=decision.node)
    return CheckOutcome(verdict, decision, drained=True, notes=tuple(notes))


def _withheld(
    ports: NodePorts, settings: CheckSettings, verdict: Verdict, earlier: Verdict | None, decision: Nothing
) -> tuple[str, ...]:
    """Say once, not at every look, why a failed node stays in service."""
    if decision.settled or settings.dry_run:
        return ()
    notes: list[str] = []
    if _changed(verdict, earlier):
        notes = _journal(ports.journal, "drain-withheld", node=settings.node, why=decision.why, budget=decision.budget)
    return (f"not drained: {decision.why}", *notes)


def _remember(ports: NodePorts, settings: CheckSettings, verdict: Verdict, earlier: Verdict | None) -> list[str]:
    # Until it is decided anew, what was decided last holds: a job may start in between.
    same = earlier is not None and earlier.state is verdict.state and earlier.boot_id == verdict.boot_id
    kept = replace(verdict, kept=earlier.kept if earlier is not None and same else "")
    notes = _attempt(settings, lambda: ports.verdicts.save(kept, settings.verdict_valid_s))
    if notes or not _changed(verdict, earlier) or (earlier is None and verdict.state is VerdictState.HEALTHY):
        return notes
    if settings.uid != 0 and not settings.act:
        return notes
    worst = verdict.worst
    return notes + _journal(
        ports.journal,
        "verdict",
        node=verdict.node,
        state=str(verdict.state),
        repair=str(verdict.repair),
        boot_id=verdict.boot_id,
        observed_at=verdict.observed_at,
        code=worst.code if worst else "",
        evidence=worst.evidence if worst else "; ".join(verdict.blind),
    )


def _changed(verdict: Verdict, earlier: Verdict | None) -> bool:
    return earlier is None or _gist(verdict) != _gist(earlier)


def _gist(verdict: Verdict) -> tuple[object, ...]:
    return verdict.state, verdict.boot_id, tuple((finding.code, finding.gpu_uuid) for finding in verdict.findings)


def _attempt(settings: CheckSettings, write: Callable[[], None]) -> list[str]:
    """Write a file of the node; an ordinary user may not and needs no word about it."""
    try:
        write()
    except SovctlError as error:
        return [error.message] if settings.uid == 0 else []
    return []


def _journal(journal: Journal, kind: str, **fields: object) -> list[str]:
    """A full shared file system must not keep a sick node in service: say it and go on."""
    try:
        journal.append(kind, **fields)
    except SovctlError as error:
        return [error.message]
    return []


def _may_act(cluster: ClusterView, uid: int) -> bool:
    """root, or the SlurmUser of this cluster (`SlurmUser = slurm(64030)`)."""
    if uid == 0:
        return True
    match = re.search(r"\((\d+)\)", cluster.settings().get("SlurmUser", ""))
    return match is not None and int(match[1]) == uid


def explain(outcome: CheckOutcome) -> Sequence[str]:
    """The outcome in lines for a person."""
    verdict = outcome.verdict
    lines = [f"{verdict.node}: {verdict.state}" + (f", repair: {verdict.repair}" if verdict.findings else "")]
    lines += [f"  {finding.severity:<4} {finding.code}: {finding.evidence}" for finding in verdict.findings]
    lines += [f"  shadow {finding.code}: {finding.evidence}" for finding in verdict.shadow]
    lines += [f"  not seen: {source}" for source in verdict.blind]
    if isinstance(outcome.decision, Drain):
        verb = "drained" if outcome.drained else "would drain"
        lines.append(f"  {verb}: {shlex.join(outcome.decision.argv)}")
    elif verdict.state is VerdictState.FAILED:
        lines.append(f"  left alone: {outcome.decision.why}")
    return lines
