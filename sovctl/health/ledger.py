"""What became of each GPU, by serial number: faults and drains over boots, node names and swaps. Pure.

Three of 63 nodes caused half of all exclusions at the public reference site: what a GPU did before is the best guess at
what it does next. The lemon score turns that into one number, which falls by half every month.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sovctl.health.xid import XidClass, meaning_of
from sovctl.model.gpu import GpuSample, XidEvent, pci_address
from sovctl.model.node import NodeSnapshot
from sovctl.model.past import PastFault
from sovctl.model.verdict import Severity, Verdict

SCHEMA = "sovctl.ledger/1"
HALF_LIFE_S = 30 * 86400.0
KEPT_S = 365 * 86400.0
_MOST_ENTRIES = 50
"""A GPU; the newest are kept, so that the file of a whole node stays well below 256 KiB."""
_LOUDEST = 20
"""Entries of one code in one boot: a fault that repeats a thousand times says no more than twenty."""
_QUOTE = 120
_WEIGHT = {
    XidClass.APP: 0.1,
    XidClass.SOFT: 0.3,
    XidClass.WARN: 0.2,
    XidClass.LINK: 0.3,
    XidClass.RESET: 1.0,
    XidClass.DRAIN: 2.0,
}
"""By class of XID; noise and followers weigh nothing."""
_DRAIN_WEIGHT = 3.0
LEMON = 6.0
"""From this score on a node is taken last: two drains within a month."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One thing that happened to a GPU."""

    at: float
    """Seconds since the epoch."""
    node: str
    boot_id: str
    what: str
    """`XID31`, or `FAILED <code>` when the GPU failed its node."""
    sequence: int = -1
    """Of the kernel log in that boot, so that a line read twice is one entry; -1: not from the kernel log."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that is known of the GPUs a node ever had."""

    gpus: Mapping[str, tuple[LedgerEntry, ...]] = field(default_factory=dict)
    """By serial number, oldest entry first."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Serial number by PCI address as last seen: a GPU that fell off the bus tells no serial any more."""


def recorded(ledger: Ledger, snapshot: NodeSnapshot, verdict: Verdict | None = None) -> Ledger:
    """The ledger with this look's faults and what failed the node. The same look twice adds nothing."""
    places = {**ledger.places, **_places(snapshot.gpus)}
    gpus = dict(ledger.gpus)
    for event, at in timed(snapshot):
        serial = places.get(_place(event.pci_bus_id), "")
        if serial and not event.switch:
            entry = LedgerEntry(
                round(at, 3), snapshot.node, snapshot.boot_id, f"XID{event.code}", event.sequence, event.text[:_QUOTE]
            )
            gpus[serial] = _with(gpus.get(serial, ()), entry)
    for serial, entry in _failures(snapshot, verdict, places):
        gpus[serial] = _with(gpus.get(serial, ()), entry)
    return Ledger(gpus, places)


def timed(snapshot: NodeSnapshot) -> list[tuple[XidEvent, float]]:
    """Each event with its time in seconds since the epoch: the newest is now, the others by the kernel's own stamps."""
    newest = max((event.since_boot_s for event in snapshot.xids), default=0.0)
    return [(event, snapshot.observed_at - (newest - event.since_boot_s)) for event in snapshot.xids]


def past_faults(ledger: Ledger, snapshot: NodeSnapshot, within_s: float = 86400.0) -> tuple[PastFault, ...]:
    """What the GPUs here did lately, without the lines this look has read itself."""
    own = {event.sequence for event in snapshot.xids}
    return tuple(
        PastFault(serial, int(entry.what[3:]), entry.at, entry.text)
        for serial in {gpu.serial for gpu in snapshot.gpus if gpu.serial}
        for entry in ledger.gpus.get(serial, ())
        if entry.what.startswith("XID")
        and entry.at > snapshot.observed_at - within_s
        and not (entry.boot_id == snapshot.boot_id and entry.sequence in own)
    )


def gpu_score(entries: Iterable[LedgerEntry], now: float) -> float:
    """How much speaks against one GPU; 0: nothing."""
    return sum(_weight(entry) * math.exp2(-max(0.0, now - entry.at) / HALF_LIFE_S) for entry in _grouped(entries))


def lemon_score(ledger: Ledger, serials: Iterable[str], now: float) -> float:
    """How much speaks against a node with these GPUs: what submission and the choice of spares go by."""
    return round(sum(gpu_score(ledger.gpus.get(serial, ()), now) for serial in serials), 2)


def merged(ledgers: Iterable[Ledger]) -> Ledger:
    """Several nodes' ledgers as one; places are each node's own and are left out."""
    gpus: dict[str, tuple[LedgerEntry, ...]] = {}
    for ledger in ledgers:
        for serial, entries in ledger.gpus.items():
            for entry in entries:
                gpus[serial] = _with(gpus.get(serial, ()), entry)
    return Ledger(gpus)


def strangers(ledger: Ledger, gpus: Iterable[GpuSample]) -> frozenset[str]:
    """Serial numbers that this node's ledger has never met: swapped in, or the file is new."""
    known = {*ledger.gpus, *ledger.places.values()}
    return frozenset(gpu.serial for gpu in gpus if gpu.serial and gpu.serial not in known)


def adopted(ledger: Ledger, serials: Iterable[str], others: Ledger) -> Ledger:
    """With the past that these GPUs have in other nodes' ledgers (`others`: these merged)."""
    gpus = dict(ledger.gpus)
    for serial in serials:
        for entry in others.gpus.get(serial, ()):
            gpus[serial] = _with(gpus.get(serial, ()), entry)
    return Ledger(gpus, ledger.places)


def node_scores(ledgers: Mapping[str, Ledger], now: float) -> dict[str, float]:
    """The lemon score of each node that has one, worst first: of the GPUs in it now, with their past anywhere."""
    everything = merged(ledgers.values())
    scores = {node: lemon_score(everything, set(ledger.places.values()), now) for node, ledger in ledgers.items()}
    return dict(sorted(((node, score) for node, score in scores.items() if score > 0), key=lambda item: -item[1]))


def ledger_record(ledger: Ledger) -> dict[str, Any]:
    """As JSON."""
    return {
        "schema": SCHEMA,
        "gpus": {serial: [asdict(entry) for entry in entries] for serial, entries in ledger.gpus.items()},
        "places": dict(ledger.places),
    }


def ledger_from_record(record: Any) -> Ledger:
    """Anything that is not exactly a ledger is an empty one."""
    try:
        if record["schema"] != SCHEMA:
            return Ledger()
        gpus = {str(serial): tuple(_entry(item) for item in items) for serial, items in record["gpus"].items()}
        return Ledger(gpus, {str(place): str(serial) for place, serial in record["places"].items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        return Ledger()


def _entry(item: Any) -> LedgerEntry:
    entry = LedgerEntry(
        float(item["at"]),
        str(item["node"]),
        str(item["boot_id"]),
        str(item["what"]),
        int(item["sequence"]),
        str(item["text"]),
    )
    if entry.what.startswith("XID"):
        int(entry.what[3:])
    return entry


def _with(entries: tuple[LedgerEntry, ...], new: LedgerEntry) -> tuple[LedgerEntry, ...]:
    for old in entries:
        if (old.boot_id, old.what, old.sequence, old.node) == (new.boot_id, new.what, new.sequence, new.node):
            return entries
    if sum(1 for old in entries if (old.boot_id, old.what) == (new.boot_id, new.what)) >= _LOUDEST:
        return entries
    kept = sorted((*entries, new), key=lambda entry: entry.at)
    return tuple(entry for entry in kept if entry.at > kept[-1].at - KEPT_S)[-_MOST_ENTRIES:]


def _failures(
    snapshot: NodeSnapshot, verdict: Verdict | None, places: Mapping[str, str]
) -> Iterable[tuple[str, LedgerEntry]]:
    """One entry a boot for each GPU that failed its node."""
    serials = {gpu.uuid: gpu.serial for gpu in snapshot.gpus if gpu.serial}
    gone = set(places.values()) - set(serials.values())
    for finding in verdict.findings if verdict else ():
        if finding.severity is not Severity.FAIL:
            continue
        serial = serials.get(finding.gpu_uuid, "")
        if not serial and finding.code == "GPU_COUNT" and len(gone) == 1:
            serial = next(iter(gone))
        if serial:
            what = f"FAILED {finding.code}"
            at, repair = round(snapshot.observed_at, 3), f"repair: {finding.repair}"
            yield serial, LedgerEntry(at, snapshot.node, snapshot.boot_id, what, text=repair)


def _grouped(entries: Iterable[LedgerEntry]) -> Iterable[LedgerEntry]:
    """One entry a boot and cause: repeats of one fault are one incident."""
    seen: dict[tuple[str, str], LedgerEntry] = {}
    for entry in entries:
        seen[(entry.boot_id, entry.what)] = entry
    return seen.values()


def _weight(entry: LedgerEntry) -> float:
    if entry.what.startswith("FAILED"):
        return _DRAIN_WEIGHT
    return _WEIGHT.get(meaning_of(int(entry.what[3:])).kind, 0.0)


def _places(gpus: Iterable[GpuSample]) -> dict[str, str]:
    return {_place(gpu.pci_bus_id): gpu.serial for gpu in gpus if gpu.serial and _place(gpu.pci_bus_id)}


def _place(pci_bus_id: str) -> str:
    address = pci_address(pci_bus_id)
    return "" if address is None else "{:04x}:{:02x}:{:02x}".format(*address)
