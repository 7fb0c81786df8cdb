"""The figures of a period, and what the site adds to them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from event_builders import RECORD, T0, lost_with_its_host, recovered

from sovctl.cli.report import gpu_hours, lost
from sovctl.health.ledger import Ledger, LedgerEntry
from sovctl.health.tally import ProbeTally
from sovctl.ledger.incident import Chain, Incident, Outcome, RunAccount, SiteAccount, Source, Span
from sovctl.ledger.period import since
from sovctl.ledger.report import Report, make_report
from sovctl.ledger.report_json import report_record
from sovctl.ledger.runs import run_account
from sovctl.ledger.site import site_account, with_site
from sovctl.ledger.stamps import Stamp
from sovctl.model.blame import Culprit

DAY = 86400.0


def incident(at: float, took: float = 30.0, **fields: Any) -> Incident:
    stamps = {Stamp.DETECTED: T0 + at, Stamp.STARTED: T0 + at + took / 2, Stamp.FIRST_STEP: T0 + at + took}
    made = Incident(
        "r", "1", "alice", 0, Culprit.HARDWARE, "XID79", "n1: XID79", ("n1",), stamps, Outcome.RECOVERED, Source.RECORD,
        steps_lost=5, lost_s=took + 10, gpus=16,
    )  # fmt: skip
    return replace(made, **fields)


def account(*incidents: Incident, days: float = 10.0, **fields: Any) -> RunAccount:
    span = Span(T0, T0 + days * DAY, 2, 16, days * DAY * 0.9)
    made = RunAccount("r", "1", "alice", "t", Source.RECORD, (span,), T0 + days * DAY, incidents)
    return replace(made, **fields)


def made(*accounts: RunAccount, site: SiteAccount | None = None, start: float = 0.0, end: float = 10 * DAY) -> Report:
    return make_report(accounts, site or SiteAccount(), T0 + start, T0 + end)


def test_time_between_failures_and_time_to_recover() -> None:
    found = made(account(*(incident(day * DAY, took=20.0 + day) for day in range(1, 9))))
    assert (found.mttf.failures, found.mttf.observed, found.mttf.mean) == (8, 240.0, 30.0)
    assert found.node_days.mean == pytest.approx(2.5)
    assert found.restart is not None and found.restart.median == pytest.approx(24.5)
    assert found.restart.p90 == pytest.approx(28.0)
    stage = {item.stamp: item for item in found.stages}[Stamp.FIRST_STEP]
    assert stage.earlier_median is not None and stage.later_median is not None
    assert stage.earlier_median < stage.later_median
    assert [bucket.failures for bucket in found.buckets].count(1) == 8
    assert (found.ettr, found.steps_lost) == (0.9, 40)
    assert found.gpu_seconds_lost == pytest.approx(sum(30.0 + day for day in range(1, 9)) * 16)


def test_only_what_lies_in_the_period_counts() -> None:
    found = made(account(incident(1 * DAY), incident(6 * DAY)), start=5 * DAY)
    assert (found.mttf.failures, found.mttf.observed) == (1, 120.0)
    assert found.runs[0].wall_s == 5 * DAY
    assert made(account(days=3.0), start=5 * DAY).runs == ()


def test_waiting_between_attempts_is_time_a_run_had() -> None:
    spans = (Span(T0, T0 + 100, 2, 16, 90.0), Span(T0 + 300, T0 + 400, 2, 16, 70.0))
    found = made(account(spans=spans, ended_at=T0 + 400))
    assert found.ettr == pytest.approx(160 / 400)
    assert found.mttf.observed == pytest.approx(200 / 3600), "failures are counted against time in which it ran"


def test_a_preemption_is_no_failure_and_a_person_no_recovery() -> None:
    preempted = incident(DAY, culprit=Culprit.PREEMPTED)
    found = made(account(preempted, incident(2 * DAY, outcome=Outcome.BY_HAND, took=9000.0)))
    assert (len(found.incidents), found.mttf.failures, found.restart) == (2, 1, None)
    assert found.by_culprit == ((Culprit.PREEMPTED, 1), (Culprit.HARDWARE, 1))


def test_chains() -> None:
    chains = (
        Chain(T0 + 1, Culprit.HARDWARE, 1, True, (10.0,)),
        Chain(T0 + 2, Culprit.UNKNOWN, 3, False, (20.0, 30.0, 40.0)),
        Chain(T0 + 3, Culprit.HARDWARE, 1, None, ()),
    )
    found = made(account(chains=chains))
    assert (found.chains.share, found.chains.retries, found.chains.interval_median_s) == (0.5, 5, 25.0)
    assert found.hardware_chains.share == 1.0


def test_jobs_without_a_record_have_no_part_in_the_ettr_of_all() -> None:
    found = made(account(), account(source=Source.ACCOUNTING, spans=(Span(T0, T0 + DAY, 50, 400, DAY),)))
    assert found.ettr == 0.9


@pytest.mark.parametrize(
    ("gpus", "words", "hours"),
    [
        ((16, 16), "10 steps done again, 0.356 GPU-hours", "0.356 GPU-hours"),
        (
            (16, None),
            "10 steps done again, 0.178 GPU-hours, and 40.0 s of runs whose GPUs are not known",
            "0.178 GPU-hours",
        ),
        ((None, None), "10 steps done again, 80.0 s of runs whose GPUs are not known", "not known"),
        ((0, 0), "10 steps done again, 0 GPU-hours", "0 GPU-hours"),
    ],
)
def test_gpus_that_nobody_told_of_are_not_none(gpus: tuple[int | None, ...], words: str, hours: str) -> None:
    found = made(account(*(incident(DAY * (1 + day), gpus=count) for day, count in enumerate(gpus))))
    found = replace(found, gpu_seconds=0.0)
    assert (lost(found), gpu_hours(found)) == (words, hours)
    assert report_record(found)["gpu_seconds_unknown"] == 40.0 * gpus.count(None)


# What the site adds

BAD = {"code": "XID79", "probe": "xid", "severity": "fail", "evidence": "fell off"}


def drained(at: float, node: str = "n003", number: int = 1, **fields: Any) -> list[dict[str, Any]]:
    told = {"incident": f"i{number}", "node": node}
    intended = {
        "at": T0 + at,
        "kind": "drain-intended",
        "code": "XID79",
        "detected_at": T0 + at - 0.2,
        "findings": [BAD],
    }
    return [{**intended, **told, **fields}, {"at": T0 + at + 0.1, "kind": "drain-done", **told}]


def test_a_node_blamed_and_drained_is_one_incident() -> None:
    site = site_account([*drained(83), *drained(9000, number=2), *drained(50, "n009", 3)], [], [])
    found = made(run_account({**RECORD, "run_id": "lab-34-1"}, recovered().events, T0 + 500), site=site)
    assert [(item.name, item.incidents) for item in found.nodes] == [("n003", 2), ("n009", 1)]


def test_what_was_only_intended_or_done_by_a_person_does_not_count() -> None:
    by_hand = drained(10, by="root")
    assert site_account([drained(5, number=2)[0], *by_hand], [], []).node_events == ()


def entry(at: float, what: str, boot: str = "b1", sequence: int = 1) -> LedgerEntry:
    return LedgerEntry(T0 + at, "n003", boot, what, sequence)


def test_the_blamed_node_tells_the_second_of_the_fault_and_the_gpu() -> None:
    ledger = Ledger(
        {"S5": (entry(10, "XID31"), entry(82.9, "XID79", sequence=2), entry(83.2, "FAILED XID79", sequence=3))}
    )
    site = site_account([], [ledger], [])
    (found,) = with_site([run_account({**RECORD, "run_id": "lab-34-1"}, recovered().events, T0 + 500)], site)
    (item,) = found.incidents
    assert (item.stamps[Stamp.FAULT], item.serials) == (T0 + 82.9, ("S5",))
    report = made(found, site=site)
    assert [(one.name, one.incidents, one.where) for one in report.gpus] == [("S5", 1, "n003")]


def of_the_watch() -> list[dict[str, Any]]:
    told = {"incident": "i9", "node": "n001"}
    reason = "sovctl:i9 NODE_DEAD slurmd silent 3 s"
    return [
        {"at": T0 + 96, "kind": "down-intended", "reason": reason, "silent_since": T0 + 86, **told},
        {"at": T0 + 96.5, "kind": "down-done", **told},
        {"at": T0 + 98, "kind": "takeover-done", "job_id": "7"},
        {"at": T0 + 98, "kind": "takeover-done", "job_id": "34"},
        {"at": T0 + 9000, "kind": "down-intended", "reason": reason, "incident": "i10", "node": "n001"},
        {"at": T0 + 9001, "kind": "down-done", "incident": "i10", "node": "n001"},
    ]


@pytest.mark.parametrize(("end", "fault"), [({}, 86), ({"happened": T0 + 84.5}, 84.5)])
def test_what_the_watch_did_stands_for_a_supervisor_that_died_with_its_node(end: dict[str, Any], fault: float) -> None:
    alone = run_account({**RECORD, "run_id": "lab-34-1"}, lost_with_its_host(**end).events, T0 + 500)
    site = site_account(of_the_watch(), [], [])
    (found,) = with_site([alone], site)
    (item,) = found.incidents
    seen = (Stamp.FAULT, Stamp.DETECTED, Stamp.DECIDED, Stamp.READY)
    assert [item.stamps[stamp] - T0 for stamp in seen] == [fault, 96, 96.5, 98]
    (before,) = alone.incidents
    assert item.lost_s == pytest.approx((before.lost_s or 0) + before.at - T0 - fault, abs=0.11)
    report = made(found, site=site)
    assert report.by_culprit == ((Culprit.HARDWARE, 1),) and report.restart is not None
    assert [(one.name, one.incidents) for one in report.nodes] == [("n001", 2)]


def test_without_a_journal_of_the_watch_it_is_in_the_report_all_the_same() -> None:
    alone = run_account({**RECORD, "run_id": "lab-34-1"}, lost_with_its_host().events, T0 + 500)
    assert made(*with_site([alone], SiteAccount())).by_culprit == ((Culprit.HARDWARE, 1),)


def test_a_fault_of_yesterday_is_not_the_cause() -> None:
    site = site_account([], [Ledger({"S5": (entry(-90000, "XID79"),)})], [])
    (found,) = with_site([run_account({**RECORD, "run_id": "lab-34-1"}, recovered().events, T0 + 500)], site)
    assert Stamp.FAULT not in found.incidents[0].stamps


def verdict(at: float, boot: str) -> dict[str, Any]:
    return {"at": T0 + at, "kind": "verdict", "node": "n003", "boot_id": boot}


@pytest.mark.parametrize(("boot", "false_alarms"), [("b1", 1), ("b2", 0)])
def test_given_back_in_the_same_boot_nothing_was_wrong(boot: str, false_alarms: int) -> None:
    told = {"incident": "i1", "node": "n003"}
    back = [
        {"at": T0 + 500, "kind": "resume-intended", "retest": "burn-in", **told},
        {"at": T0 + 501, "kind": "resume-done", **told},
    ]
    entries = [verdict(82, "b1"), *drained(83), verdict(400, boot), *back]
    tallies = [{"xid": ProbeTally(3, 1, 1)}, {"xid": ProbeTally(2)}]
    (probe,) = made(account(), site=site_account(entries, [], tallies)).probes
    assert (probe.name, probe.drained, probe.cleared) == ("xid", 1, false_alarms)
    assert (probe.count.hits, probe.count.would_have_drained, probe.count.confirmed) == (5, 1, 1)


def test_the_record_is_json_also_of_nothing() -> None:
    empty = report_record(made())
    assert json.loads(json.dumps(empty, allow_nan=False))["mttr"] is None
    whole = report_record(made(account(incident(DAY))))
    (item,) = whole["incidents"]
    assert item["stamps"]["first_step"] == T0 + DAY + 30
    assert set(item["stamps"]) == {stamp.value.replace(" ", "_") for stamp in Stamp}
    assert whole["mttf_hours"]["lower"] < whole["mttf_hours"]["mean"] < whole["mttf_hours"]["upper"]


@pytest.mark.parametrize(
    ("words", "ago"), [("30d", 30 * DAY), ("12h", 12 * 3600), ("1.5w", 10.5 * DAY), ("2026-11-22T22:13:20+00:00", 0.0)]
)
def test_periods(words: str, ago: float) -> None:
    assert since(words, T0) == T0 - ago


@pytest.mark.parametrize("words", ["", "30", "-3d", "tomorrow", "2036-01-01", "9" * 30 + "d", "1969-01-01"])
def test_no_periods(words: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        since(words, T0)
