"""What the kernel shows of adapters, interfaces and memory controllers under /sys. `root` is `/`, or a tree like it."""

from __future__ import annotations

import os
import re

from sovctl.model.host import COUNTED_ON_PORTS, EdacSample, EthernetSample, PortSample

_RATE = r"([0-9.]+) Gb/sec"


def infiniband(root: str) -> tuple[PortSample, ...]:
    """Every port of every InfiniBand or RoCE adapter; empty where there is none."""
    base = f"{root}/sys/class/infiniband"
    ports = []
    for device in _entries(base):
        firmware = text(f"{base}/{device}/fw_ver")
        for number in _entries(f"{base}/{device}/ports"):
            if number.isdigit():
                ports.append(_port(f"{base}/{device}/ports/{number}", device, int(number), firmware))
    return tuple(ports)


def ethernet(root: str) -> tuple[EthernetSample, ...]:
    """Interfaces with a device behind them."""
    base = f"{root}/sys/class/net"
    return tuple(
        EthernetSample(
            name,
            text(f"{base}/{name}/operstate"),
            _speed(text(f"{base}/{name}/speed")),
            whole(text(f"{base}/{name}/carrier_changes")),
        )
        for name in _entries(base)
        if os.path.lexists(f"{base}/{name}/device")
    )


def edac(root: str) -> tuple[EdacSample, ...]:
    """Memory controllers with error counters; empty without an EDAC driver."""
    base = f"{root}/sys/devices/system/edac/mc"
    samples = []
    for name in _entries(base):
        corrected = whole(text(f"{base}/{name}/ce_count"))
        uncorrected = whole(text(f"{base}/{name}/ue_count"))
        if corrected is not None and uncorrected is not None:
            samples.append(EdacSample(name, corrected, uncorrected))
    return tuple(samples)


def text(path: str, largest: int = 64 * 1024) -> str:
    """One small file, without the line end; empty when it is not there or tells an error (`speed` of a link down)."""
    try:
        with open(path, "rb") as stream:
            return stream.read(largest).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def whole(value: str) -> int | None:
    """A whole number, or None."""
    return int(value) if value.isdigit() else None


def _port(path: str, device: str, number: int, firmware: str) -> PortSample:
    rate = re.match(_RATE, text(f"{path}/rate"))
    counters = {}
    for name in COUNTED_ON_PORTS:
        value = whole(text(f"{path}/counters/{name}") or text(f"{path}/hw_counters/{name}"))
        if value is not None:
            counters[name] = value
    return PortSample(
        device,
        number,
        text(f"{path}/link_layer"),
        _word(text(f"{path}/state")),
        _word(text(f"{path}/phys_state")),
        float(rate[1]) if rate else None,
        counters,
        firmware,
    )


def _word(value: str) -> str:
    """`ACTIVE` of `4: ACTIVE`."""
    return value.partition(":")[2].strip() or value


def _speed(value: str) -> int | None:
    speed = whole(value)
    return speed if speed else None


def _entries(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
