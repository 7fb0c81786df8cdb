"""What one look leaves for the next: counters that rose, and conditions that hold. Pure.

A rate needs two looks and a flap several, so a rule can judge "five times within a day" from one snapshot. Everything
here lives as long as the boot, like the counters of the kernel and the driver themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sovctl.model.host import COUNTED_ON_PORTS, HostFacts, Outcome
from sovctl.model.node import NodeSnapshot
from sovctl.model.past import LookMemory

SCHEMA = "sovctl.memory/1"
DAY_S = 86400.0
HOUR_S = 3600.0
_STEP_S = 900.0
"""Every second point of a counter lies at least so far behind, so that a day has at most 192 of them."""
_MOST_POINTS = 200
_MOST_NAMES = 4096
_LONGEST_GAP_S = 1800.0
_NOTICES_UP_TO = "kernel-records"
"""Counter: the kernel's sequence number up to which complaints are counted."""

BAD_THROTTLE = 0x8 | 0x20 | 0x40 | 0x80
"""NVML's clocks-event bits: hardware slowdown, software thermal, hardware thermal, hardware power brake."""


def advance(memory: LookMemory, snapshot: NodeSnapshot) -> NodeSnapshot:
    """The snapshot with a memory that includes it. A memory of another boot is dropped."""
    kept = memory if memory.boot_id == snapshot.boot_id else LookMemory(snapshot.boot_id)
    now = snapshot.observed_at
    counters = dict(kept.counters)
    for name, value in _counters(snapshot):
        counters[name] = _add(counters.get(name, ()), now, value)
    _count_notices(counters, snapshot)
    since = {name: at for name, at in kept.since.items() if not _looked_at(name, snapshot)}
    since |= {name: _since(kept, name, now) for name in _conditions(snapshot)}
    looked = {**kept.looked, **{source: now for source in {*_SOURCE_OF.values()} if _answered(source, snapshot)}}
    bounded = dict(list(counters.items())[-_MOST_NAMES:])
    return replace(snapshot, memory=LookMemory(snapshot.boot_id, bounded, since, looked))


def rose(snapshot: NodeSnapshot, name: str, within_s: float) -> float:
    """By how much a counter rose within the last `within_s` seconds, as far as this boot was looked at."""
    points = snapshot.memory.counters.get(name, ())
    if len(points) < 2:
        return 0.0
    start = snapshot.observed_at - within_s
    before = [value for at, value in points if at <= start]
    return points[-1][1] - (before[-1] if before else points[0][1])


def rose_since(snapshot: NodeSnapshot, name: str, at: float) -> float:
    """By how much a counter rose since `at` (seconds since the epoch), as far as this boot was looked at."""
    return rose(snapshot, name, snapshot.observed_at - at)


def held_s(snapshot: NodeSnapshot, name: str) -> float | None:
    """For how many seconds a condition has been seen at every look; 0 at its first, None when it does not hold."""
    since = snapshot.memory.since.get(name)
    return None if since is None else max(0.0, snapshot.observed_at - since)


def memory_record(memory: LookMemory) -> dict[str, Any]:
    """As JSON."""
    return {
        "schema": SCHEMA,
        "boot_id": memory.boot_id,
        "counters": {name: [list(point) for point in points] for name, points in memory.counters.items()},
        "since": dict(memory.since),
        "looked": dict(memory.looked),
    }


def memory_from_record(record: Any) -> LookMemory:
    """Anything that is not exactly a memory is an empty one."""
    try:
        if record["schema"] != SCHEMA:
            return LookMemory()
        counters = {
            str(name): tuple((float(at), float(value)) for at, value in points)
            for name, points in record["counters"].items()
        }
        return LookMemory(str(record["boot_id"]), counters, _times(record["since"]), _times(record["looked"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return LookMemory()


def _times(record: Any) -> dict[str, float]:
    return {str(name): float(at) for name, at in record.items()}


def _since(memory: LookMemory, name: str, now: float) -> float:
    """Two looks hours apart that find the same say nothing about the time between them."""
    last = memory.looked.get(_source_of(name), now)
    return min(memory.since.get(name, now), now) if 0 <= now - last <= _LONGEST_GAP_S else now


def _add(points: tuple[tuple[float, float], ...], now: float, value: float) -> tuple[tuple[float, float], ...]:
    if not points or value < points[-1][1] or now < points[-1][0]:
        # Reset by the driver, or the clock was set back: what came before cannot be compared.
        return ((now, value),)
    if value == points[-1][1]:
        return points
    crowded = len(points) >= 2 and now - points[-2][0] < _STEP_S
    grown = (*(points[:-1] if crowded else points), (now, value))
    first = next((i for i in range(len(grown) - 1) if grown[i + 1][0] > now - DAY_S), 0)
    return grown[first:][-_MOST_POINTS:]


def _count_notices(counters: dict[str, tuple[tuple[float, float], ...]], snapshot: NodeSnapshot) -> None:
    """Complaints of the kernel by kind. A record that is read again (a fault not acted on yet) counts once."""
    now = snapshot.observed_at
    begun = counters.get(_NOTICES_UP_TO, ())
    up_to = begun[-1][1] if begun else 0.0
    for notice in snapshot.notices:
        if notice.sequence < up_to:
            continue
        name = f"kernel/{notice.code}/{notice.subject}" if notice.subject else f"kernel/{notice.code}"
        points = counters.get(name, ((now - 0.001, 0.0),))
        counters[name] = _add(points, now, points[-1][1] + 1)
    if snapshot.notices:
        counters[_NOTICES_UP_TO] = ((now, float(snapshot.notices[-1].sequence + 1)),)


def _counters(snapshot: NodeSnapshot) -> Iterator[tuple[str, float]]:
    for gpu in snapshot.gpus:
        if gpu.error:
            continue
        yield from _told(
            f"gpu/{gpu.uuid}",
            {
                "replays": gpu.pcie_replays,
                "nvlink": gpu.nvlink_errors,
                "corrected": gpu.ecc_volatile_corrected,
                "uncorrected": gpu.ecc_volatile_uncorrected,
            },
        )
    yield from _host_counters(snapshot.host)


def _host_counters(host: HostFacts) -> Iterator[tuple[str, float]]:
    for port in host.ports or ():
        yield from _told(f"port/{port.name}", {name: port.counters.get(name) for name in COUNTED_ON_PORTS})
    for link in host.ethernets or ():
        yield from _told(f"ethernet/{link.name}", {"changes": link.carrier_changes})
    for controller in host.edac or ():
        yield f"edac/{controller.controller}/corrected", controller.corrected
        yield f"edac/{controller.controller}/uncorrected", controller.uncorrected
    for row in host.ras or ():
        yield f"ras/{row.kind}/{row.severity}", row.count
    if host.ram and host.ram[0].corrupted_kib is not None:
        yield "ram/corrupted", host.ram[0].corrupted_kib
    for mount in host.nfs or ():
        yield f"nfs/{mount.path}/sends", mount.sends
        yield f"nfs/{mount.path}/backlog", mount.backlog


def _told(prefix: str, values: Mapping[str, int | None]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if value is not None:
            yield f"{prefix}/{name}", value


def _conditions(snapshot: NodeSnapshot) -> Iterator[str]:
    for gpu in snapshot.gpus:
        if (gpu.throttle_reasons or 0) & BAD_THROTTLE:
            yield f"gpu/{gpu.uuid}/throttled"
    yield from _missing(snapshot)
    host = snapshot.host
    for process in host.processes or ():
        yield f"process/{process.pid}/{process.started_ticks}/{process.state}"
    for answer in host.answers or ():
        if answer.error:
            yield f"answer/{answer.path}"
    live = {item.job_id for item in host.containers or () if item.kind == "live"}
    for item in host.containers or ():
        if item.job_id not in live:
            yield f"container/{item.kind}/{item.job_id}/{item.name}"
    if host.clock and not host.clock[0].synchronised:
        yield "clock/free"


def _missing(snapshot: NodeSnapshot) -> Iterator[str]:
    """Conditions against the inventory."""
    expected, host = snapshot.inventory, snapshot.host
    if expected is None:
        return
    if host.ports is not None:
        active = {port.name for port in host.ports if port.state == "ACTIVE"}
        yield from (f"port/{name}" for name in expected.ports if name not in active)
    if host.ethernets is not None:
        up = {link.name for link in host.ethernets if link.state in ("up", "unknown")}
        yield from (f"ethernet/{name}" for name in expected.ethernets if name not in up)
    if host.mounts is not None:
        modes = {mount.path: mount.read_only for mount in host.mounts}
        yield from (f"mount/{path}" for path in expected.mounts if path not in modes)
        yield from (f"readonly/{path}" for path, mode in expected.mounts.items() if mode == "rw" and modes.get(path))
    if host.services is not None:
        running = {service.name for service in host.services}
        yield from (f"service/{name}" for name in expected.services if name not in running)


_SOURCE_OF = {
    "gpu": "nvml",
    "port": "infiniband",
    "ethernet": "ethernet",
    "mount": "mounts",
    "readonly": "mounts",
    "answer": "answers",
    "service": "services",
    "process": "processes",
    "container": "containers",
    "clock": "clock",
}


def _source_of(name: str) -> str:
    return _SOURCE_OF.get(name.partition("/")[0], "")


def _looked_at(name: str, snapshot: NodeSnapshot) -> bool:
    """Whether this look could have seen that a condition is over."""
    return _answered(_source_of(name), snapshot)


def _answered(source: str, snapshot: NodeSnapshot) -> bool:
    if source == "nvml":
        return not any(blind.startswith("nvml") for blind in snapshot.blind)
    return snapshot.host.outcome(source) in (Outcome.SEEN, Outcome.ABSENT)
