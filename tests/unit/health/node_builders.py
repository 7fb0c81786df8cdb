"""Builders of what one look at a node saw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sovctl.model.gpu import GpuSample, XidEvent
from sovctl.model.node import NodeSnapshot
from sovctl.model.xid_line import parse_kernel_message

NOW = 1795384000.0
"""2026-11-22 21:46:40 UTC."""


def gpu(index: int = 0, **changes: Any) -> GpuSample:
    bus = f"00000000:{0x0F + 0x11 * index:02X}:00.0"
    return replace(GpuSample(index, f"GPU-{index}", f"165{index}", "NVIDIA B200", bus), **changes)


def pci(index: int) -> str:
    return f"0000:{0x0F + 0x11 * index:02x}:00"


def xid(code: int, *, index: int = 0, sequence: int = 1, detail: str = "detail") -> XidEvent:
    text = f"NVRM: Xid (PCI:{pci(index)}): {code}, pid=1, name=train, {detail}"
    event = parse_kernel_message(text, sequence=sequence)
    assert event is not None
    return event


def sxid(detail: str, sequence: int = 1) -> XidEvent:
    event = parse_kernel_message(f"nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 24007, {detail}", sequence=sequence)
    assert event is not None
    return event


def snapshot(*xids: XidEvent, **changes: Any) -> NodeSnapshot:
    whole = NodeSnapshot(
        "n003", "boot-1", NOW, gpus=tuple(gpu(index) for index in range(8)), xids=xids, expected_gpus=8
    )
    return replace(whole, **changes)
