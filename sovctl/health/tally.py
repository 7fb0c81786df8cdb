"""How often each probe was right: hits, what shadow would have drained, and what turned out to be true. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sovctl.model.verdict import Finding, Severity, Verdict, VerdictState

SCHEMA = "sovctl.probes/1"
CONFIRMED_WITHIN_S = 86400.0
"""A node that fails within a day after a shadow finding confirms it."""


@dataclass(frozen=True, slots=True)
class ProbeTally:
    """One probe on one node, since the file began."""

    hits: int = 0
    """Times it began to find something; a finding that stays is one hit."""
    would_have_drained: int = 0
    """Times it began to find, in shadow, what fails a node."""
    confirmed: int = 0
    """Of these, how often another probe failed the node within a day."""
    cost_ms: float = 0.0
    """At the last look."""
    open: tuple[float, ...] = field(default=())
    """When the not yet confirmed ones were found, seconds since the epoch."""


Tallies = Mapping[str, ProbeTally]


def counted(tallies: Tallies, verdict: Verdict, earlier: Verdict | None, costs_ms: Mapping[str, float]) -> Tallies:
    """The tallies after one look. `earlier`: the look before it; `costs_ms`: by probe."""
    result = dict(tallies)
    known = _keys((*earlier.findings, *earlier.shadow)) if earlier and earlier.boot_id == verdict.boot_id else set()
    for finding in (*verdict.findings, *verdict.shadow):
        if finding.probe and finding.severity is not Severity.INFO and _key(finding) not in known:
            known.add(_key(finding))
            tally = result.get(finding.probe, ProbeTally())
            result[finding.probe] = replace(tally, hits=tally.hits + 1)
            if finding in verdict.shadow and finding.severity is Severity.FAIL:
                result[finding.probe] = replace(
                    result[finding.probe],
                    would_have_drained=tally.would_have_drained + 1,
                    open=(*tally.open, round(verdict.observed_at, 3))[-20:],
                )
    if verdict.state is VerdictState.FAILED:
        result = {name: _confirm(tally, verdict.observed_at) for name, tally in result.items()}
    for name, cost in costs_ms.items():
        result[name] = replace(result.get(name, ProbeTally()), cost_ms=round(cost, 2))
    return result


def tallies_record(tallies: Tallies) -> dict[str, Any]:
    """As JSON."""
    return {"schema": SCHEMA, "probes": {name: asdict(tally) for name, tally in tallies.items()}}


def tallies_from_record(record: Any) -> Tallies:
    """Anything that is not exactly tallies counts from zero."""
    try:
        if record["schema"] != SCHEMA:
            return {}
        return {
            str(name): ProbeTally(
                int(item["hits"]),
                int(item["would_have_drained"]),
                int(item["confirmed"]),
                float(item["cost_ms"]),
                tuple(float(at) for at in item["open"]),
            )
            for name, item in record["probes"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _confirm(tally: ProbeTally, now: float) -> ProbeTally:
    proven = sum(1 for at in tally.open if 0 <= now - at <= CONFIRMED_WITHIN_S)
    return replace(tally, confirmed=tally.confirmed + proven, open=()) if tally.open else tally


def _keys(findings: Iterable[Finding]) -> set[tuple[str, str, str]]:
    return {_key(finding) for finding in findings}


def _key(finding: Finding) -> tuple[str, str, str]:
    return finding.probe, finding.code, finding.gpu_uuid
