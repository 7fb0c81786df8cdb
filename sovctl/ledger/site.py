"""What the site's journal and the nodes' ledgers add: drained nodes, GPUs, probes, the moment of a fault. Pure."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sovctl.health.ledger import Ledger, LedgerEntry, merged
from sovctl.health.tally import Tallies
from sovctl.health.xid import XidClass, meaning_of
from sovctl.ledger.incident import GpuFault, Incident, NodeEvent, ProbeCount, RunAccount, SiteAccount, TakenOver
from sovctl.ledger.stamps import Stamp, began
from sovctl.recovery.attempts import Event, seconds, text

_NEAR_S = 600.0
"""A fault of a blamed node that lies so far before the moment it was seen is taken for the cause."""
_AFTER_S = 30.0
_EXACT_S = 1.0
_HARD = frozenset({XidClass.RESET, XidClass.DRAIN})
_Told = TypeVar("_Told", GpuFault, NodeEvent)
_OUT = {"drain-intended": "drain-done", "down-intended": "down-done"}


def site_account(entries: Sequence[Event], ledgers: Iterable[Ledger], tallies: Iterable[Tallies]) -> SiteAccount:
    """`entries`: of all journals of the site, in any order."""
    taken = tuple(
        TakenOver(at, text(entry, "job_id"))
        for entry in entries
        if text(entry, "kind") == "takeover-done" and (at := seconds(entry, "at")) is not None
    )
    return SiteAccount(tuple(_node_events(entries)), tuple(_gpu_faults(merged(ledgers))), taken, _probes(tallies))


def record_directories(entries: Iterable[Event]) -> dict[int, list[str]]:
    """By user: where the watch saw runs of his keep their records. A node's own journal says nothing of that."""
    found: dict[int, dict[str, None]] = defaultdict(dict)
    for entry in entries:
        uid, directory = entry.get("uid"), text(entry, "directory")
        told = text(entry, "kind") == "records-at" and "node" not in entry
        if told and type(uid) is int and directory.startswith("/"):
            found[uid][directory] = None
    return {uid: list(directories) for uid, directories in found.items()}


def with_site(accounts: Iterable[RunAccount], site: SiteAccount) -> list[RunAccount]:
    """The incidents of each run with the moment of the fault and the GPU, as the blamed nodes tell them."""
    faults: dict[str, list[GpuFault]] = defaultdict(list)
    events: dict[str, list[NodeEvent]] = defaultdict(list)
    taken: dict[str, list[float]] = defaultdict(list)
    for one in site.take_overs:
        taken[one.job_id].append(one.at)
    for fault in site.gpu_faults:
        faults[fault.node].append(fault)
    for event in site.node_events:
        events[event.node].append(event)
    if not faults and not events:
        return list(accounts)
    for near in faults.values():
        near.sort(key=_at)
    for told in events.values():
        told.sort(key=_at)
    return [
        replace(
            account,
            incidents=tuple(
                _with_cause(_seen_by_watch(item, events, taken.get(item.job_id, ())), faults, events)
                for item in account.incidents
            ),
        )
        for account in accounts
    ]


def _seen_by_watch(item: Incident, events: Mapping[str, Sequence[NodeEvent]], taken: Sequence[float]) -> Incident:
    """A supervisor that died with its node saw nothing: what the watch on the controller did stands in its place."""
    if Stamp.DETECTED in item.stamps or not item.at:
        return item
    begun, again = item.at - _AFTER_S, item.stamps.get(Stamp.STARTED, math.inf)
    own = (event for node in item.nodes for event in events.get(node, ()) if begun <= event.at <= again)
    down = min(own, key=lambda event: event.at, default=None)
    if down is None:
        return item
    stamps = {**item.stamps, Stamp.DETECTED: down.at, Stamp.DECIDED: down.done_at or down.at}
    ready = min((at for at in taken if down.at <= at <= again), default=None)
    if ready is not None:
        stamps[Stamp.READY] = ready
    if Stamp.FAULT in stamps:
        stamps[Stamp.FAULT] = min(stamps[Stamp.FAULT], down.at)
    return replace(item, stamps=stamps, lost_s=_lost_s(item, stamps))


def _lost_s(item: Incident, stamps: Mapping[Stamp, float]) -> float | None:
    """Counted from where these stamps begin."""
    later = (began(stamps) or item.at) - item.at
    return None if item.lost_s is None else max(0.0, round(item.lost_s - later, 1))


def _with_cause(
    item: Incident, faults: Mapping[str, Sequence[GpuFault]], events: Mapping[str, Sequence[NodeEvent]]
) -> Incident:
    seen = item.stamps.get(Stamp.DETECTED)
    if seen is None or not item.nodes:
        return item
    near = [fault for node in item.nodes for fault in _around(faults.get(node, ()), seen)]
    drains = [event for node in item.nodes for event in _around(events.get(node, ()), seen)]
    lines = [fault.at for fault in near]
    times = lines or [event.fault_at for event in drains if event.fault_at is not None]
    stamps, known = dict(item.stamps), item.stamps.get(Stamp.FAULT)
    # The driver's own line is exact; what the run tells is a step late, or in whole seconds.
    if times and (known is None or (lines and max(lines) <= known + _EXACT_S)):
        # The node's clock may be ahead of the batch host's: a fault is not seen before it happens.
        stamps[Stamp.FAULT] = min(max(times), seen)
    serials = dict.fromkeys([*(fault.serial for fault in near), *(one for event in drains for one in event.serials)])
    code = item.code or next((event.code for event in drains), "")
    return replace(item, stamps=stamps, lost_s=_lost_s(item, stamps), serials=tuple(serials), code=code)


def _at(told: GpuFault | NodeEvent) -> float:
    return told.at


def _around(told: Sequence[_Told], seen: float) -> Sequence[_Told]:
    """Those that may be the cause of what was seen then. `told`: in the order of time."""
    begin = bisect.bisect_left(told, seen - _NEAR_S, key=_at)
    return told[begin : bisect.bisect_right(told, seen + _AFTER_S, lo=begin, key=_at)]


def _node_events(entries: Sequence[Event]) -> Iterable[NodeEvent]:
    done = {text(entry, "incident"): seconds(entry, "at") for entry in entries if text(entry, "kind") in _OUT.values()}
    boots = _boots(entries)
    returns = _returns(entries)
    for entry in entries:
        incident, node, at = text(entry, "incident"), text(entry, "node"), seconds(entry, "at")
        if text(entry, "kind") not in _OUT or incident not in done or at is None or not node or "by" in entry:
            continue
        findings = entry.get("findings")
        failed = [item for item in findings if isinstance(item, dict)] if isinstance(findings, list) else []
        yield NodeEvent(
            at=at,
            node=node,
            code=text(entry, "code") or _code_in_reason(text(entry, "reason")),
            incident=incident,
            fault_at=seconds(entry, "silent_since") or seconds(entry, "detected_at"),
            probes=tuple(dict.fromkeys(text(one, "probe") for one in failed if _failing(one))),
            done_at=done[incident],
            cleared=_untouched(boots.get(node, ()), at, returns.get(incident)),
        )


def _failing(finding: Mapping[str, Any]) -> bool:
    return bool(text(finding, "probe")) and text(finding, "severity") == "fail"


def _code_in_reason(reason: str) -> str:
    """`sovctl:<incident> <code> <words>`."""
    words = reason.split()
    return words[1] if len(words) > 1 and words[0].startswith("sovctl:") else ""


def _boots(entries: Sequence[Event]) -> dict[str, list[tuple[float, str]]]:
    """By node: when which boot was seen, in order."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for entry in entries:
        at, boot = seconds(entry, "at"), text(entry, "boot_id")
        if at is not None and boot and text(entry, "kind") == "verdict":
            found[text(entry, "node")].append((at, boot))
    return {node: sorted(seen) for node, seen in found.items()}


def _returns(entries: Sequence[Event]) -> dict[str, float]:
    """When sovctl itself gave a node back after its loaded test, by the incident that took it out."""
    tested = {
        text(entry, "incident")
        for entry in entries
        if text(entry, "kind") == "resume-intended" and "retest" in entry and "by" not in entry
    }
    return {
        incident: at
        for entry in entries
        if text(entry, "kind") == "resume-done"
        and (incident := text(entry, "incident")) in tested
        and (at := seconds(entry, "at")) is not None
    }


def _untouched(boots: Sequence[tuple[float, str]], out: float, back: float | None) -> bool:
    """It came back in the boot in which it was drained, so nobody repaired, reset or changed anything."""
    if back is None or not boots:
        return False
    before = boots[bisect.bisect_right(boots, (out + 1.0, "\U0010ffff")) - 1]
    after = boots[bisect.bisect_right(boots, (back, "\U0010ffff")) - 1]
    return before[0] <= out + 1.0 and before[1] == after[1]


def _gpu_faults(ledger: Ledger) -> Iterable[GpuFault]:
    """One a boot: what follows a hard fault until the reboot is the same incident."""
    for serial, entries in ledger.gpus.items():
        told: set[str] = set()
        for entry in sorted(entries, key=lambda item: item.at):
            if entry.boot_id not in told and _hard(entry):
                told.add(entry.boot_id)
                yield GpuFault(entry.at, entry.node, serial, entry.what.removeprefix("FAILED "))


def _hard(entry: LedgerEntry) -> bool:
    return entry.what.startswith("FAILED") or meaning_of(int(entry.what[3:])).kind in _HARD


def _probes(tallies: Iterable[Tallies]) -> dict[str, ProbeCount]:
    total: dict[str, ProbeCount] = {}
    for one in tallies:
        for name, tally in one.items():
            now = total.get(name, ProbeCount())
            total[name] = ProbeCount(
                now.hits + tally.hits,
                now.would_have_drained + tally.would_have_drained,
                now.confirmed + tally.confirmed,
            )
    return total
