"""One look at this node: ask every source, lay what was learnt and remembered beside it, and keep what is new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from sovctl.errors import SovctlError
from sovctl.health.ledger import (
    Ledger,
    adopted,
    ledger_from_record,
    ledger_record,
    merged,
    past_faults,
    recorded,
    strangers,
)
from sovctl.health.memory import advance, memory_from_record, memory_record
from sovctl.health.probes import DEFAULT_STATES, NOT_OF_THE_HOST, PROBES, needed_sources
from sovctl.health.tally import counted, tallies_from_record, tallies_record
from sovctl.model.facts import facts_of, facts_record
from sovctl.model.gpu import GpuSample, KernelLogRead
from sovctl.model.host import HostFacts
from sovctl.model.inventory import Inventory, inventory_from_record
from sovctl.model.node import NodeSnapshot
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Verdict

if TYPE_CHECKING:
    from sovctl.model.burn_in import BurnInResult

    # Types only: the prolog, for which every job waits, does not import the ports.
    from sovctl.ports.common import Clock
    from sovctl.ports.node import GpuProbe, HostProbe, KernelLog, NodeRecords


class LookPorts(Protocol):
    """What a look touches."""

    @property
    def gpus(self) -> GpuProbe: ...
    @property
    def kernel_log(self) -> KernelLog: ...
    @property
    def host(self) -> HostProbe | None: ...
    @property
    def records(self) -> NodeRecords | None: ...
    @property
    def clock(self) -> Clock: ...


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What NVML said last, or why it said nothing."""

    gpus: tuple[GpuSample, ...] = ()
    blind: str = ""
    cost_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class HostReading:
    """A part of the host, asked by the caller."""

    sources: frozenset[str]
    facts: HostFacts


@dataclass(frozen=True, slots=True)
class LookSettings:
    """What to look at."""

    node: str
    expected_gpus: int | None = None
    probes: Mapping[str, ProbeState] = field(default_factory=lambda: DEFAULT_STATES)
    quick: bool = False
    """Only what the prolog of a job can afford."""
    epilog: bool = False
    """A job just ended and no other is here."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, and what belongs to it."""

    snapshot: NodeSnapshot
    next_sequence: int
    """Of the kernel log, for the next look."""
    asked: frozenset[str]
    ledger: Ledger = field(default_factory=Ledger)
    """As it was before this look."""
    costs_ms: Mapping[str, float] = field(default_factory=dict)
    """By source."""
    notes: tuple[str, ...] = ()
    whole: bool = True
    """Everything was asked."""


def read_gpus(probe: GpuProbe) -> GpuReading:
    """Ask NVML and wait for the answer; a failure is a value."""
    try:
        return GpuReading(probe.read())
    except SovctlError as error:
        return GpuReading(blind=f"nvml: {error.message}")


def look(
    ports: LookPorts,
    settings: LookSettings,
    boot_id: str,
    cursor: int,
    reading: GpuReading | None = None,
    part: HostReading | None = None,
) -> Look:
    """`reading`, `part`: NVML's and the host's answers where the caller has them already; the rest of the host is then
    not asked. `cursor`: where to go on in the kernel log."""
    needed = needed_sources(settings.probes, quick=settings.quick)
    asked = needed
    if part is not None:
        asked &= NOT_OF_THE_HOST | part.sources
    elif ports.host is None:
        asked &= NOT_OF_THE_HOST
    gpus, host = _ask(ports, asked, reading) if part is None else (reading or read_gpus(ports.gpus), part.facts)
    began = ports.clock.now()
    log, blind = _read_log(ports.kernel_log, cursor)
    costs = {source.source: source.cost_ms for source in host.readings}
    costs |= {"nvml": gpus.cost_ms, "kernel-log": (ports.clock.now() - began) * 1000}
    inventory, note = _inventory(ports.records)
    snapshot = NodeSnapshot(
        node=settings.node,
        boot_id=boot_id,
        observed_at=ports.clock.now(),
        gpus=gpus.gpus,
        xids=log.events,
        notices=log.notices,
        expected_gpus=settings.expected_gpus,
        host=host,
        inventory=inventory,
        epilog=settings.epilog,
        burn_in=_burn_ins(ports.records) if "burn-in" in asked else (),
        blind=tuple(said for said in (gpus.blind, blind) if said),
    )
    ledger = _with_strangers(ports.records, ledger_from_record(_load(ports.records, "ledger")), gpus.gpus)
    snapshot = replace(snapshot, past=past_faults(ledger, snapshot))
    snapshot = advance(memory_from_record(_load(ports.records, "memory")), snapshot)
    notes = (note,) if note else ()
    return Look(snapshot, log.next_sequence, asked, ledger, costs, notes, whole=asked == needed and not settings.quick)


def keep(
    records: NodeRecords | None, seen: Look, verdict: Verdict, earlier: Verdict | None, states: Mapping[str, ProbeState]
) -> list[str]:
    """Leave for the next look what this one learnt; returns what could not be written."""
    if records is None:
        return []
    ledger = recorded(seen.ledger, seen.snapshot, verdict)
    tallies = tallies_from_record(records.load("probes"))
    costs = {
        probe.name: sum(seen.costs_ms.get(source, 0.0) for source in probe.sources)
        for probe in PROBES
        if states.get(probe.name) is not ProbeState.OFF and seen.asked.issuperset(probe.sources)
    }
    notes = _attempt(records, "memory", memory_record(seen.snapshot.memory))
    if seen.whole:
        # What `sovctl sweep` compares this node with its peers by.
        notes += _attempt(records, "facts", facts_record(facts_of(seen.snapshot)))
    if ledger != seen.ledger:
        notes += _attempt(records, "ledger", ledger_record(ledger))
    return notes + _attempt(records, "probes", tallies_record(counted(tallies, verdict, earlier, costs)))


def _ask(ports: LookPorts, asked: frozenset[str], reading: GpuReading | None) -> tuple[GpuReading, HostFacts]:
    """NVML and the host at the same time: each waits for something else."""
    if reading is None and "nvml" not in asked:
        reading = GpuReading()
    if reading is not None:
        return reading, _host(ports.host, asked)
    began = ports.clock.now()
    if ports.host is None:
        return _timed(read_gpus(ports.gpus), ports.clock, began), HostFacts()
    try:
        ports.gpus.begin()
    except SovctlError as error:
        return GpuReading(blind=f"nvml: {error.message}"), _host(ports.host, asked)
    host = _host(ports.host, asked)
    return _timed(_collected(ports.gpus), ports.clock, began), host


def _collected(probe: GpuProbe) -> GpuReading:
    """Wait for a reading that began; it ends by itself at its own deadline."""
    try:
        while (gpus := probe.collect(1.0)) is None:
            pass
        return GpuReading(gpus)
    except SovctlError as error:
        return GpuReading(blind=f"nvml: {error.message}")


def _timed(reading: GpuReading, clock: Clock, began: float) -> GpuReading:
    return replace(reading, cost_ms=max(0.0, (clock.now() - began) * 1000))


def _host(probe: HostProbe | None, asked: frozenset[str]) -> HostFacts:
    sources = asked - NOT_OF_THE_HOST
    return probe.read(sources) if probe is not None and sources else HostFacts()


def _read_log(kernel_log: KernelLog, cursor: int) -> tuple[KernelLogRead, str]:
    try:
        return kernel_log.read(cursor), ""
    except SovctlError as error:
        return KernelLogRead((), cursor), f"kernel-log: {error.message}"


def _inventory(records: NodeRecords | None) -> tuple[Inventory | None, str]:
    """An inventory that cannot be used is said: otherwise nothing would be missed any more, silently."""
    if records is None:
        return None, ""
    inventory = inventory_from_record(records.load("inventory"))
    if inventory is None and records.present("inventory"):
        return None, "the inventory cannot be used (not JSON, not root's, or of another version): nothing is missed"
    return inventory, ""


def _with_strangers(records: NodeRecords | None, ledger: Ledger, gpus: tuple[GpuSample, ...]) -> Ledger:
    """A GPU that is new here may have a past elsewhere: looked for once, when it is first seen."""
    new = strangers(ledger, gpus) if records is not None else frozenset()
    if records is None or not new:
        return ledger
    return adopted(ledger, new, merged(ledger_from_record(record) for record in records.ledgers()))


def _burn_ins(records: NodeRecords | None) -> tuple[BurnInResult, ...]:
    from sovctl.health.burn_in import memory_from_record  # not for the prolog

    return tuple(memory_from_record(_load(records, "burn-in")).results.values())


def _load(records: NodeRecords | None, name: str) -> Any:
    return records.load(name) if records is not None else None


def _attempt(records: NodeRecords, name: str, record: dict[str, Any]) -> list[str]:
    try:
        records.save(name, record)
    except SovctlError as error:
        return [error.message]
    return []
