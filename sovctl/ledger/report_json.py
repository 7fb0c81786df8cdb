"""A report as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sovctl.ledger.incident import Incident
from sovctl.ledger.intervals import CONFIDENCE, MeanTime
from sovctl.ledger.report import ChainFigure, Report
from sovctl.ledger.stamps import Stamp

SCHEMA = "sovctl.report/1"
_STAMPS = tuple((stamp, stamp.value.replace(" ", "_")) for stamp in Stamp)


def report_record(report: Report) -> dict[str, Any]:
    """Durations in seconds, moments in seconds since the epoch; what is not known is null."""
    return {
        "since": report.since,
        "until": report.until,
        "confidence": CONFIDENCE,
        "mttf_hours": _mean_time(report.mttf),
        "mttf_hardware_hours": _mean_time(report.mttf_hardware),
        "node_days_per_hardware_failure": _mean_time(report.node_days),
        "ettr": report.ettr,
        "gpu_seconds": report.gpu_seconds,
        "gpu_seconds_lost": report.gpu_seconds_lost,
        "gpu_seconds_unknown": report.gpu_seconds_unknown,
        "steps_lost": report.steps_lost,
        "mttr": asdict(report.restart) if report.restart else None,
        "caught_up": asdict(report.caught_up) if report.caught_up else None,
        "stages": [
            {
                "stage": item.stamp.value,
                **asdict(item.spread),
                "earlier_median": item.earlier_median,
                "later_median": item.later_median,
            }
            for item in report.stages
        ],
        "trend": [asdict(item) for item in report.buckets],
        "culprits": {culprit.value: count for culprit, count in report.by_culprit},
        "outcomes": {outcome.value: count for outcome, count in report.outcomes},
        "chains": _chains(report.chains),
        "hardware_chains": _chains(report.hardware_chains),
        "runs": [{**asdict(item), "source": item.source.value} for item in report.runs],
        "nodes": [asdict(item) for item in report.nodes],
        "gpus": [asdict(item) for item in report.gpus],
        "probes": [
            {"probe": item.name, **asdict(item.count), "drained": item.drained, "cleared": item.cleared}
            for item in report.probes
        ],
        "incidents": [incident_record(item) for item in report.incidents],
    }


def incident_record(item: Incident) -> dict[str, Any]:
    """One incident with its timeline."""
    return {
        "run": item.run,
        "job_id": item.job_id,
        "user": item.user,
        "attempt": item.attempt,
        "culprit": item.culprit.value,
        "code": item.code or None,
        "evidence": item.evidence,
        "nodes": list(item.nodes),
        "gpu_serials": list(item.serials),
        "outcome": item.outcome.value,
        "how": item.how or None,
        "source": item.source.value,
        "steps_lost": item.steps_lost,
        "seconds_lost": item.lost_s,
        "gpus": item.gpus,
        "gpu_seconds_lost": item.gpu_seconds_lost,
        "stamps": {name: item.stamps.get(stamp) for stamp, name in _STAMPS},
    }


def _mean_time(found: MeanTime) -> dict[str, Any]:
    return {
        "failures": found.failures,
        "observed": round(found.observed, 3),
        "mean": _short(found.mean),
        "lower": _short(found.lower),
        "upper": _short(found.upper),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _chains(found: ChainFigure) -> dict[str, Any]:
    return {**asdict(found), "share": None if found.share is None else round(found.share, 4)}
