"""What a node tells about itself so that it can be compared with its peers, as the JSON object `sovctl.facts/1`.

`/run/sovctl/facts.json` beside the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sovctl.model.node import NodeSnapshot

SCHEMA = "sovctl.facts/1"
_MOST_GPUS = 64


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU; `None`: not supported or not read."""

    index: int
    name: str
    driver: str | None = None
    vbios: str | None = None
    sm_clock_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    utilization_percent: int | None = None
    pcie_width: int | None = None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node at one moment."""

    node: str
    at: float
    """Seconds since the epoch, by the node's own clock."""
    gpus: tuple[GpuFacts, ...] = ()
    storage_ms: Mapping[str, float] = field(default_factory=dict)
    """How long each mounted file system took to answer."""
    firmware: Mapping[str, str] = field(default_factory=dict)
    """Versions by name."""


def facts_of(snapshot: NodeSnapshot) -> NodeFacts:
    """The part of a look at a node that peers are compared by. GPUs that could not be read are left out."""
    gpus = tuple(
        GpuFacts(
            index=gpu.index,
            name=gpu.name,
            driver=gpu.driver_version,
            vbios=gpu.vbios_version,
            sm_clock_mhz=gpu.sm_clock_mhz,
            power_w=gpu.power_w,
            temperature_c=gpu.temperature_c,
            utilization_percent=gpu.utilization_percent,
            pcie_width=gpu.pcie_width,
        )
        for gpu in snapshot.gpus
        if not gpu.error
    )
    answers = snapshot.host.answers or ()
    storage = {answer.path: answer.answer_ms for answer in answers if answer.answer_ms is not None}
    return NodeFacts(snapshot.node, snapshot.observed_at, gpus, storage, firmware_of(snapshot))


def firmware_of(snapshot: NodeSnapshot) -> dict[str, str]:
    """Versions of everything but driver and VBIOS, by name; of GPUs that differ among themselves, all."""
    versions = {sample.name: sample.version for sample in snapshot.host.firmware or ()}
    versions |= {f"hca {port.device}": port.firmware for port in snapshot.host.ports or () if port.firmware}
    images = sorted({gpu.inforom_version for gpu in snapshot.gpus if gpu.inforom_version})
    return versions | ({"inforom": ", ".join(images)} if images else {})


def facts_record(facts: NodeFacts) -> dict[str, Any]:
    """What is not known is left out."""
    return {
        "schema": SCHEMA,
        "node": facts.node,
        "at": facts.at,
        "gpus": [_gpu_record(gpu) for gpu in facts.gpus],
        "storage_ms": dict(facts.storage_ms),
        "firmware": dict(facts.firmware),
    }


def facts_from_record(record: Any) -> NodeFacts | None:
    """The facts, or None for anything that is not exactly that: it comes from another machine."""
    try:
        if record["schema"] != SCHEMA or len(record["gpus"]) > _MOST_GPUS:
            return None
        return NodeFacts(
            node=_text(record["node"]),
            at=float(record["at"]),
            gpus=tuple([_gpu(item) for item in record["gpus"]]),
            storage_ms={_text(path): float(took) for path, took in record["storage_ms"].items()},
            firmware={_text(name): _text(version) for name, version in record.get("firmware", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _gpu_record(gpu: GpuFacts) -> dict[str, Any]:
    values = {name: getattr(gpu, name) for name in GpuFacts.__slots__}
    return {name: value for name, value in values.items() if value is not None}


def _gpu(record: dict[str, Any]) -> GpuFacts:
    get = record.get
    return GpuFacts(
        _whole(record["index"]),
        _text(record["name"]),
        _text(get("driver", "")) or None,
        _text(get("vbios", "")) or None,
        _whole_or_none(get("sm_clock_mhz")),
        _number_or_none(get("power_w")),
        _whole_or_none(get("temperature_c")),
        _whole_or_none(get("utilization_percent")),
        _whole_or_none(get("pcie_width")),
    )


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("not text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value


def _whole_or_none(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _number_or_none(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or value != value:
        raise TypeError("not a number")
    return float(value)
