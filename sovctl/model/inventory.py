"""What a node of this site has when it is whole: learnt from a healthy node, the same for all nodes of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = "sovctl.inventory/1"


@dataclass(frozen=True, slots=True)
class Inventory:
    """Nothing in it names one machine, so that one file serves a whole site. Empty or None: not expected."""

    gpus: int | None = None
    gpu_names: tuple[str, ...] = ()
    vbios: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    pcie_generation: int | None = None
    """The generation the slowest link is built for (it falls when idle, so the maximum counts)."""
    pcie_width: int | None = None
    nvlinks: int | None = None
    """Active links a GPU."""
    ports: Mapping[str, float] = field(default_factory=dict)
    """Active InfiniBand or RoCE ports and their rate in Gb/s."""
    ethernets: Mapping[str, int] = field(default_factory=dict)
    """Interfaces that are up and their speed in Mb/s (0: not told)."""
    memory_kib: int | None = None
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Mount point: `ro` or `rw`."""
    services: tuple[str, ...] = ()
    clock_synchronised: bool = False
    firmware: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Allowed versions by name: `bios-version`, `hca mlx5_0`, `inforom`, ..."""


def inventory_record(inventory: Inventory, node: str, at: float) -> dict[str, Any]:
    """As JSON; `node` and `at` (seconds since the epoch) say where and when it was learnt, for a person."""
    return {"schema": SCHEMA, "learnt_on": node, "learnt_at": round(at), **asdict(inventory)}


def inventory_from_record(record: Any) -> Inventory | None:
    """The inventory, or None for anything that is not exactly one. A person may have edited it."""
    try:
        if record["schema"] != SCHEMA:
            return None
        return Inventory(
            gpus=_whole(record.get("gpus")),
            gpu_names=_names(record.get("gpu_names", ())),
            vbios=_names(record.get("vbios", ())),
            drivers=_names(record.get("drivers", ())),
            pcie_generation=_whole(record.get("pcie_generation")),
            pcie_width=_whole(record.get("pcie_width")),
            nvlinks=_whole(record.get("nvlinks")),
            ports={str(name): float(rate) for name, rate in record.get("ports", {}).items()},
            ethernets={str(name): int(speed) for name, speed in record.get("ethernets", {}).items()},
            memory_kib=_whole(record.get("memory_kib")),
            mounts={str(path): str(mode) for path, mode in record.get("mounts", {}).items()},
            services=_names(record.get("services", ())),
            clock_synchronised=record.get("clock_synchronised") is True,
            firmware={str(name): _names(versions) for name, versions in record.get("firmware", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _whole(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value


def _names(values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError("not a list")
    return tuple(str(value) for value in values)
