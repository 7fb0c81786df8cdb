"""A verdict as the JSON object `sovctl.verdict/1`: the file on the node and the output of `health check --json`."""

from __future__ import annotations

from typing import Any

from sovctl.model.verdict import Finding, Repair, Severity, Verdict, VerdictState

SCHEMA = "sovctl.verdict/1"


def verdict_record(verdict: Verdict, valid_for_s: float) -> dict[str, Any]:
    """Times are seconds since the epoch."""
    return {
        "schema": SCHEMA,
        "node": verdict.node,
        "boot_id": verdict.boot_id,
        "observed_at": verdict.observed_at,
        "valid_until": verdict.observed_at + valid_for_s,
        "state": str(verdict.state),
        "repair": str(verdict.repair),
        "findings": [finding_record(finding) for finding in verdict.findings],
        "blind": list(verdict.blind),
        "shadow": [finding_record(finding) for finding in verdict.shadow],
        **({"kept": verdict.kept} if verdict.kept else {}),
    }


def finding_record(finding: Finding) -> dict[str, Any]:
    """One finding, every field by its own name."""
    return {
        "code": finding.code,
        "severity": str(finding.severity),
        "evidence": finding.evidence,
        "gpu_uuid": finding.gpu_uuid,
        "gpu_index": finding.gpu_index,
        "repair": str(finding.repair),
        "probe": finding.probe,
    }


def verdict_from_record(record: Any) -> Verdict | None:
    """The verdict, or None for anything that is not exactly one."""
    try:
        if record["schema"] != SCHEMA:
            return None
        return Verdict(
            node=_text(record["node"]),
            boot_id=_text(record["boot_id"]),
            observed_at=float(record["observed_at"]),
            state=VerdictState(record["state"]),
            repair=Repair(record["repair"]),
            findings=tuple(finding_from_record(item) for item in record["findings"]),
            blind=tuple(_text(item) for item in record["blind"]),
            shadow=tuple(finding_from_record(item) for item in record.get("shadow", ())),
            kept=_text(record.get("kept", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def finding_from_record(record: dict[str, Any]) -> Finding:
    """Raises KeyError, TypeError or ValueError for anything that is not exactly one."""
    index = record["gpu_index"]
    return Finding(
        code=_text(record["code"]),
        severity=Severity(record["severity"]),
        evidence=_text(record["evidence"]),
        gpu_uuid=_text(record["gpu_uuid"]),
        gpu_index=None if index is None else int(index),
        repair=Repair(record["repair"]),
        probe=_text(record.get("probe", "")),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value
