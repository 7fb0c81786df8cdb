"""What was found on a node and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding says against the node."""

    INFO = "info"
    WARN = "warn"
    FAIL = "fail"


class VerdictState(StrEnum):
    """`unknown` never drains a node alone and never gives one back."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Repair(StrEnum):
    """What makes the node good again, mildest first."""

    NONE = "none"
    RESTART_APP = "restart-app"
    RESET_GPU = "reset-gpu"
    REBOOT = "reboot"
    RMA = "rma"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing seen on one node. `code` is short and stable ("XID79", "GPU_COUNT", "ECC_UNCORRECTED")."""

    code: str
    severity: Severity
    evidence: str
    """One sentence with the figures and the source."""
    gpu_uuid: str = ""
    gpu_index: int | None = None
    repair: Repair = Repair.NONE
    probe: str = ""
    """The probe that found it (`sovctl health probes`)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one node at one moment."""

    node: str
    boot_id: str
    observed_at: float
    """Seconds since the epoch."""
    state: VerdictState
    repair: Repair = Repair.NONE
    findings: tuple[Finding, ...] = ()
    blind: tuple[str, ...] = ()
    shadow: tuple[Finding, ...] = ()
    """What probes in state `shadow` found: recorded and counted, without weight."""
    kept: str = ""
    """Why a failed node takes jobs all the same; `out`: it was out of service already, and who starts a job here has
    given it back; `budget`: no more nodes may be drained this hour, and its known faults keep no job away either."""

    def fails_besides(self, stored: Verdict | None) -> bool:
        """Whether it fails for more than what the stored one keeps in service for want of a budget."""
        kept = {item.code for item in stored.findings} if stored is not None and stored.kept == "budget" else set()
        return any(item.severity is Severity.FAIL and item.code not in kept for item in self.findings)

    @property
    def worst(self) -> Finding | None:
        """The first finding that failed the node, or the first warning."""
        for severity in (Severity.FAIL, Severity.WARN):
            for finding in self.findings:
                if finding.severity is severity:
                    return finding
        return None
