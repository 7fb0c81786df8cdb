"""Compares nodes with each other: the same figure, the same minute, who is not like the rest. Pure.

Robust statistics only (median, median absolute deviation, majority), so that the odd ones do not move the yardstick;
and a floor below which a difference is no difference. All of it warns; a site names what may drain
(sweep.drain_codes), because a single sample of a busy cluster is a hint and not evidence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import median
from typing import TypeVar

from sovctl.model.facts import GpuFacts, NodeFacts
from sovctl.model.verdict import Finding, Severity

FEWEST_NODES = 5
"""Fewer peers are no yardstick."""
_MAJORITY = 2 / 3
_BUSY_PERCENT = 90
_DEVIATIONS = 6.0
_TO_SIGMA = 1.4826
"""From the median absolute deviation to the standard deviation of a normal distribution."""
_MOST_NAMED = 4
_Value = TypeVar("_Value", str, int)


@dataclass(frozen=True, slots=True)
class PeerFinding:
    """What is odd about one node."""

    node: str
    finding: Finding


@dataclass(frozen=True, slots=True)
class ClockReading:
    """A node's clock against ours."""

    offset_s: float
    """The node's clock minus ours."""
    slack_s: float
    """How far the way there and back leaves that open."""


@dataclass(frozen=True, slots=True)
class _Measure:
    """One figure of a GPU that is compared."""

    code: str
    words: str
    unit: str
    value: Callable[[GpuFacts], float | None]
    floor: float
    """A difference below this share of the median is none."""


_MEASURES = (
    _Measure("GPU_CLOCK", "SM clock", "MHz", attrgetter("sm_clock_mhz"), 0.10),
    _Measure("GPU_POWER", "power", "W", attrgetter("power_w"), 0.30),
)


@dataclass(slots=True)
class _Kind:
    """All GPUs of one name, column by column: there may be 80,000 of them."""

    nodes: list[str] = field(default_factory=list)
    gpus: list[GpuFacts] = field(default_factory=list)


def compare(
    facts: Sequence[NodeFacts], clocks: Mapping[str, ClockReading], clock_limit_s: float
) -> tuple[PeerFinding, ...]:
    """Everything odd, in the order of the nodes as given."""
    kinds: dict[str, _Kind] = defaultdict(_Kind)
    for node in facts:
        for gpu in node.gpus:
            kind = kinds[gpu.name]
            kind.nodes.append(node.node)
            kind.gpus.append(gpu)
    found: list[PeerFinding] = []
    for kind in kinds.values():
        if len(set(kind.nodes)) >= FEWEST_NODES:
            found += _odd_versions(kind, "DRIVER_SKEW", "driver", attrgetter("driver"))
            found += _odd_versions(kind, "VBIOS_SKEW", "VBIOS", attrgetter("vbios"))
            found += _narrow_links(kind)
            found += _low(kind)
    found += _odd_firmware(facts)
    found += _slow_storage(facts)
    found += _clock_offsets(clocks, clock_limit_s)
    order = {node.node: index for index, node in enumerate(facts)}
    return tuple(sorted(found, key=lambda item: order.get(item.node, len(order))))


def _odd_versions(kind: _Kind, code: str, words: str, value: Callable[[GpuFacts], str | None]) -> list[PeerFinding]:
    """A version that only a minority has. Without a clear majority (an update under way) nobody is odd."""
    values = list(map(value, kind.gpus))
    common = _common(values)
    if common is None:
        return []
    odd = {node: said for node, said in zip(kind.nodes, values, strict=True) if said not in (common, None)}
    nodes = len(set(kind.nodes)) if odd else 0
    return [
        _finding(node, code, f"{words} {said}, while {nodes - len(odd)} of {nodes} nodes have {common}")
        for node, said in odd.items()
    ]


def _odd_firmware(facts: Sequence[NodeFacts]) -> list[PeerFinding]:
    """Versions by name over all nodes that have such a thing."""
    by_name: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for node in facts:
        for name, version in node.firmware.items():
            by_name[name].append((node.node, version))
    found = []
    for name, seen in by_name.items():
        common = _common([version for _, version in seen]) if len(seen) >= FEWEST_NODES else None
        found += [
            _finding(node, "FIRMWARE_SKEW", f"{name} {version}, while most of {len(seen)} nodes have {common}")
            for node, version in seen
            if common is not None and version != common
        ]
    return found


def _narrow_links(kind: _Kind) -> list[PeerFinding]:
    """PCIe width does not change with load, so every GPU counts, busy or not."""
    widths = [gpu.pcie_width for gpu in kind.gpus]
    common = _common(widths)
    if common is None:
        return []
    narrow: dict[str, list[GpuFacts]] = defaultdict(list)
    for node, gpu, width in zip(kind.nodes, kind.gpus, widths, strict=True):
        if width and width < common:
            narrow[node].append(gpu)
    return [
        _finding(
            node,
            "PCIE_WIDTH",
            f"{_named(odd)}: PCIe x{min(gpu.pcie_width or 0 for gpu in odd)}, while others have x{common}",
        )
        for node, odd in narrow.items()
    ]


def _low(kind: _Kind) -> list[PeerFinding]:
    """Among busy GPUs, those that do far less than the others: a slow one makes all others wait."""
    busy = [index for index, gpu in enumerate(kind.gpus) if (gpu.utilization_percent or 0) >= _BUSY_PERCENT]
    nodes, gpus = [kind.nodes[index] for index in busy], [kind.gpus[index] for index in busy]
    if len(set(nodes)) < FEWEST_NODES:
        return []
    return [finding for measure in _MEASURES for finding in _low_in(measure, nodes, gpus)]


def _low_in(measure: _Measure, nodes: Sequence[str], gpus: Sequence[GpuFacts]) -> list[PeerFinding]:
    values = list(map(measure.value, gpus))
    known = [value for value in values if value is not None]
    if not known:
        return []
    middle, lowest = _lower_bound(known, measure.floor)
    low: dict[str, list[tuple[GpuFacts, float]]] = defaultdict(list)
    for node, gpu, value in zip(nodes, gpus, values, strict=True):
        if value is not None and value < lowest:
            low[node].append((gpu, value))
    return [
        _finding(
            node,
            measure.code,
            f"{_named([gpu for gpu, _ in odd])}: busy at {min(value for _, value in odd):.0f} {measure.unit} "
            f"{measure.words}, while the median of {len(known)} busy GPUs is {middle:.0f}",
        )
        for node, odd in low.items()
    ]


def _slow_storage(facts: Sequence[NodeFacts]) -> list[PeerFinding]:
    """One file system, many nodes: who waits far longer for it than the others."""
    by_path: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for node in facts:
        for path, took_ms in node.storage_ms.items():
            by_path[path].append((node.node, took_ms))
    found = []
    for path, seen in by_path.items():
        if len(seen) < FEWEST_NODES:
            continue
        values = [took for _, took in seen]
        middle = median(values)
        highest = middle + max(_spread(values, middle), 4 * middle, 100.0)
        found += [
            _finding(
                node, "STORAGE_SLOW", f"{path} took {took:.0f} ms, while the median of {len(seen)} is {middle:.0f}"
            )
            for node, took in seen
            if took > highest
        ]
    return found


def _clock_offsets(clocks: Mapping[str, ClockReading], limit_s: float) -> list[PeerFinding]:
    """Against the median, for it may be our own clock that is wrong."""
    if not clocks:
        return []
    middle = median(reading.offset_s for reading in clocks.values()) if len(clocks) >= FEWEST_NODES else 0.0
    found = []
    for node, reading in clocks.items():
        away = reading.offset_s - middle
        if abs(away) - reading.slack_s > limit_s:
            ahead = "ahead of" if away > 0 else "behind"
            found.append(_finding(node, "CLOCK_OFFSET", f"its clock is {abs(away):.1f} s {ahead} the others"))
    return found


def _common(values: Sequence[_Value | None]) -> _Value | None:
    """The value that two thirds of those that are known agree on."""
    counts = Counter(values)
    unknown = counts.pop(None, 0)
    if not counts:
        return None
    value, count = counts.most_common(1)[0]
    return value if count >= _MAJORITY * (len(values) - unknown) else None


def _lower_bound(values: Sequence[float], floor: float) -> tuple[float, float]:
    """(median, below what a value is odd)."""
    middle = median(values)
    return middle, middle - max(_spread(values, middle), floor * middle)


def _spread(values: Sequence[float], middle: float) -> float:
    return _DEVIATIONS * _TO_SIGMA * median([abs(value - middle) for value in values])


def _named(gpus: Sequence[GpuFacts]) -> str:
    names = ", ".join(str(gpu.index) for gpu in gpus[:_MOST_NAMED])
    more = f" and {len(gpus) - _MOST_NAMED} more" if len(gpus) > _MOST_NAMED else ""
    return f"GPU {names}{more}"


def _finding(node: str, code: str, evidence: str) -> PeerFinding:
    return PeerFinding(node, Finding(code, Severity.WARN, evidence))
