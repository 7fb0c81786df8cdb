"""Which entries are worth a message, and how it reads."""

from __future__ import annotations

from typing import Any

import pytest
from event_builders import T0
from hypothesis import given
from hypothesis import strategies as st

from sovctl.ledger.alerts import alert_of_run, alert_of_site, digest, rendered, unknown_names
from sovctl.model.alert import Alert, AlertKind, alert_from_record

RUN = {"run_id": "lab-34-1", "job_id": "34", "name": "train.sbatch", "cluster": "lab"}
ALERT = Alert("k", AlertKind.INCIDENT, T0, "n003 was drained", "n003", "lab", "sovctl node show n003")


def site(kind: str, **fields: Any) -> Alert | None:
    return alert_of_site("watch", {"seq": 7, "at": T0, "kind": kind, **fields}, "lab")


def run(kind: str, **fields: Any) -> Alert | None:
    return alert_of_run(RUN, {"seq": 7, "at": T0, "kind": kind, **fields})


def test_a_node_out_of_service() -> None:
    reason = "sovctl:261122-230223-n003-5979 XID79 GPU 5 fell off the bus"
    found = site("drain-done", node="n003", incident="i", reason=reason)
    assert found is not None
    assert (found.kind, found.key, found.where) == (AlertKind.INCIDENT, "watch#7", "n003")
    assert found.what == "n003 was drained: XID79 GPU 5 fell off the bus"
    assert found.next == "sovctl node show n003"


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("drain-withheld", {"node": "n1", "why": "4 nodes in an hour", "budget": True}, AlertKind.LIMIT),
        ("drain-withheld", {"node": "n1", "why": "n1 is down: Not responding", "budget": False}, None),
        ("noted", {"words": "n1: the budget of drains is spent"}, None),
        ("run-held-by-slurm", {"job_id": "7", "why": "launch failed requeued held"}, AlertKind.RUN_HELD),
        ("alarm", {"words": "STOPPED: 7 nodes show XID79"}, AlertKind.LIMIT),
        ("noted", {"words": "n1 looks dead and is left as it is: 5 in an hour"}, AlertKind.LIMIT),
        ("noted", {"words": "would set n1 down"}, None),
        ("spares-short", {"words": "1 of 3 spares is healthy"}, AlertKind.SPARES_SHORT),
        ("down-done", {"node": "n1", "incident": "i"}, AlertKind.INCIDENT),
        ("drain-done", {"node": "n1", "incident": "i", "by": "root"}, None),
        ("drain-intended", {"node": "n1", "incident": "i"}, None),
        ("verdict", {"node": "n1"}, None),
    ],
)
def test_entries_of_the_site(kind: str, fields: dict[str, Any], expected: AlertKind | None) -> None:
    found = site(kind, **fields)
    assert (found.kind if found else None) == expected


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("attempt_ended", {"culprit": "hardware", "blamed": ["n3"], "evidence": "XID79"}, AlertKind.INCIDENT),
        ("attempt_ended", {"culprit": "none"}, None),
        ("attempt_ended", {"culprit": "preempted"}, None),
        ("held", {"why": "the same crash twice"}, AlertKind.RUN_HELD),
        ("run_ended", {"outcome": "finished"}, AlertKind.RUN_ENDED),
        ("first_step", {}, None),
    ],
)
def test_events_of_a_run(kind: str, fields: dict[str, Any], expected: AlertKind | None) -> None:
    found = run(kind, **fields)
    assert (found.kind if found else None) == expected
    if found is not None:
        assert found.next == "sovctl run why 34"


def test_a_template_is_filled_once() -> None:
    found = Alert("k", AlertKind.INCIDENT, T0, "$next ${kind} $$", "n003", "lab", "look")
    subject, body = rendered(found, "", "[$cluster] $what / ${next} / $unknown")
    assert subject == "sovctl on lab: $next ${kind} $$"
    assert body == "[lab] $next ${kind} $$ / look / $unknown"
    assert unknown_names("$what $whta ${when}") == ["whta"]


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_subject_is_one_printable_line(what: str, template: str) -> None:
    found = Alert("k", AlertKind.INCIDENT, T0, what, "n", "lab", "look")
    for line in (rendered(found, template, "")[0], rendered(found, "", "")[0]):
        assert "\n" not in line and "\r" not in line and line.isprintable() and len(line) <= 200


def test_several_in_one_say_each() -> None:
    words = digest([ALERT, Alert("l", AlertKind.LIMIT, T0 + 1, "stopped", "cluster", "lab", "look")]).what
    assert "2 more alerts" in words and "- n003 was drained" in words and "- stopped" in words


def test_an_alert_survives_json() -> None:
    assert alert_from_record(ALERT.record()) == ALERT
    assert alert_from_record({**ALERT.record(), "kind": "no"}) is None
    assert alert_from_record({}) is None
