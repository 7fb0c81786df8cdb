"""Which entries of a journal are worth a message, and how it reads. Pure."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sovctl.ledger.incident import FAILURES
from sovctl.model.alert import Alert, AlertKind
from sovctl.model.blame import Culprit
from sovctl.recovery.attempts import Event, names, seconds, text

SUBJECT = "sovctl on $cluster: $what"
TEXT = "$what\n\nwhere: $where\nwhen: $when\nlook: $next\n"
_LONGEST = 300
_LEFT = "looks dead and is left as it is"


def alert_of_site(journal: str, entry: Event, cluster: str) -> Alert | None:
    """`journal`: its name, such as `watch` or `nodes/n003`. What a person did needs no message."""
    kind, at, node = text(entry, "kind"), seconds(entry, "at"), text(entry, "node")
    if at is None or "by" in entry:
        return None
    look = f"sovctl node show {node}" if node else "sovctl node ls"
    said = _SITE.get(kind)
    if said is not None:
        what = f"{node} {said}: {_reason(entry)}"
        return _alert(AlertKind.INCIDENT, journal, entry, at, what, node, cluster, look)
    words = text(entry, "why") or text(entry, "words")
    if kind == "drain-withheld" and entry.get("budget") is True:
        what = f"{node} failed and stays in service: {words}"
        return _alert(AlertKind.LIMIT, journal, entry, at, what, node, cluster, look)
    if kind == "alarm" or (kind == "noted" and _LEFT in words):
        return _alert(AlertKind.LIMIT, journal, entry, at, words, node or "cluster", cluster, look)
    if kind == "spares-short":
        what = words or "too few healthy spares"
        return _alert(AlertKind.SPARES_SHORT, journal, entry, at, what, "spares", cluster, "sovctl spare status")
    if kind == "run-held-by-slurm":
        job = text(entry, "job_id")
        what = f"job {job} is held by Slurm: {text(entry, 'why')}"
        return _alert(AlertKind.RUN_HELD, journal, entry, at, what, f"job {job}", cluster, f"scontrol release {job}")
    return None


def alert_of_run(record: Mapping[str, Any], event: Event) -> Alert | None:
    """An event of one run; `record`: run.json."""
    kind, at = text(event, "kind"), seconds(event, "at")
    if at is None:
        return None
    job, run, cluster = text(record, "job_id"), text(record, "run_id"), text(record, "cluster")
    where, look = f"job {job} {text(record, 'name')}".strip(), f"sovctl run why {job}"
    if kind == "attempt_ended" and _is_failure(event):
        blamed = ",".join(names(event, "blamed"))
        cause = f"{text(event, 'culprit')}{' ' + blamed if blamed else ''}: {text(event, 'evidence')}"
        return _alert(AlertKind.INCIDENT, run, event, at, f"job {job} stopped, {cause}", where, cluster, look)
    if kind == "held":
        what = f"job {job} is held: {text(event, 'why')}"
        return _alert(AlertKind.RUN_HELD, run, event, at, what, where, cluster, look)
    if kind == "run_ended":
        why = text(event, "why")
        what = f"job {job} is over: {text(event, 'outcome')}" + (f", {why}" if why else "")
        return _alert(AlertKind.RUN_ENDED, run, event, at, what, where, cluster, look)
    return None


def digest(alerts: Sequence[Alert]) -> Alert:
    """Several in one, where a message each would be too many."""
    newest = alerts[-1]
    lines = "\n".join(f"- {alert.what}" for alert in alerts[:50])
    more = f"\n- and {len(alerts) - 50} more" if len(alerts) > 50 else ""
    what = f"{len(alerts)} more alerts, above the limit of an hour:\n{lines}{more}"
    return Alert(newest.key, newest.kind, newest.at, what, newest.where, newest.cluster, newest.next)


def rendered(alert: Alert, subject: str, body: str) -> tuple[str, str]:
    """Subject (one line) and text. `$what`, `$kind`, `$where`, `$when`, `$cluster` and `$next` are filled in; another
    name stays as it stands, and nothing that was filled in is looked at again."""
    when = datetime.fromtimestamp(alert.at).strftime("%Y-%m-%d %H:%M:%S")
    values = {
        "what": alert.what,
        "kind": alert.kind.value,
        "where": alert.where,
        "when": when,
        "cluster": alert.cluster,
        "next": alert.next,
    }
    head = string.Template(subject or SUBJECT).safe_substitute(values)
    first = " ".join(head.split("\n", 1)[0].split())
    return "".join(char for char in first if char.isprintable())[:200], string.Template(body or TEXT).safe_substitute(
        values
    )


def unknown_names(template: str) -> list[str]:
    """Names in a template that nothing is known of, for `sovctl alert test`."""
    known = {"what", "kind", "where", "when", "cluster", "next"}
    found = [match["named"] or match["braced"] for match in string.Template.pattern.finditer(template)]
    return [name for name in found if name and name not in known]


_SITE = {"drain-done": "was drained", "down-done": "was set down"}


def _alert(
    kind: AlertKind, journal: str, entry: Event, at: float, what: str, where: str, cluster: str, look: str
) -> Alert:
    key = f"{journal}#{entry.get('seq')}"
    return Alert(key, kind, at, what[:_LONGEST], where, cluster, look)


def _reason(entry: Event) -> str:
    """Of the deed, which the entry that announced it has."""
    words = text(entry, "reason")
    if words.startswith("sovctl:"):
        words = words.partition(" ")[2]
    return words or text(entry, "incident")


def _is_failure(event: Event) -> bool:
    culprit = text(event, "culprit")
    return culprit in {item.value for item in FAILURES} and culprit != Culprit.NONE.value
