"""From what was seen to what it means: one verdict of one node at one moment."""

from __future__ import annotations

from collections.abc import Mapping

from sovctl.health.probes import DEFAULT_STATES, apply, sources_of
from sovctl.model.node import NodeSnapshot
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Finding, Repair, Severity, Verdict, VerdictState

_MILDEST_FIRST = tuple(Repair)


def judge(
    snapshot: NodeSnapshot,
    carried: tuple[Finding, ...] = (),
    states: Mapping[str, ProbeState] = DEFAULT_STATES,
    *,
    quick: bool = False,
) -> Verdict:
    """Apply every probe. `carried`: findings of an earlier look at this boot that still hold (see `still_holds`).

    `quick`: only what the prolog asks. The snapshot's memory must include this look (see `memory.advance`).
    """
    seen, shadow = apply(snapshot, states, quick=quick)
    known = {(finding.code, finding.gpu_uuid) for finding in seen}
    findings = (*(old for old in carried if (old.code, old.gpu_uuid) not in known), *seen)
    return Verdict(
        node=snapshot.node,
        boot_id=snapshot.boot_id,
        observed_at=snapshot.observed_at,
        state=_state(findings, snapshot.blind),
        repair=_repair(findings),
        findings=findings,
        blind=snapshot.blind,
        shadow=shadow,
    )


def still_holds(earlier: Verdict | None, boot_id: str) -> tuple[Finding, ...]:
    """The faults the kernel told once: its log is read only from the cursor on, so the next look cannot see them again.

    They hold until the node boots again or is given back by hand; what NVML shows is simply looked at again.
    """
    if earlier is None or earlier.boot_id != boot_id or earlier.state is not VerdictState.FAILED:
        return ()
    return tuple(
        finding
        for finding in earlier.findings
        if finding.severity is Severity.FAIL and finding.code.startswith(("XID", "SXID"))
    )


def not_asked(
    earlier: Verdict | None, boot_id: str, asked: frozenset[str], now: float, valid_s: float
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Findings (and those in shadow) of a fresh earlier look whose sources this look leaves out.

    The watcher asks the GPUs only. Without this it would call a node healthy whose storage the health check just found
    missing, and what stays in shadow would count as new at every look.
    """
    if earlier is None or earlier.boot_id != boot_id or not 0 <= now - earlier.observed_at <= valid_s:
        return (), ()
    return _left_out(earlier.findings, asked), _left_out(earlier.shadow, asked)


def _left_out(findings: tuple[Finding, ...], asked: frozenset[str]) -> tuple[Finding, ...]:
    return tuple(
        finding for finding in findings if (sources := sources_of(finding.probe)) and not asked.intersection(sources)
    )


def _state(findings: tuple[Finding, ...], blind: tuple[str, ...]) -> VerdictState:
    severities = {finding.severity for finding in findings}
    if Severity.FAIL in severities:
        return VerdictState.FAILED
    if blind:
        # A source that could not be read might have failed the node: neither healthy nor merely degraded.
        return VerdictState.UNKNOWN
    return VerdictState.DEGRADED if Severity.WARN in severities else VerdictState.HEALTHY


def _repair(findings: tuple[Finding, ...]) -> Repair:
    """The strongest repair among what counts: failures when there are any, otherwise warnings."""
    for severity in (Severity.FAIL, Severity.WARN):
        repairs = [finding.repair for finding in findings if finding.severity is severity]
        if repairs:
            return max(repairs, key=_MILDEST_FIRST.index)
    return Repair.NONE
