"""A GPU as NVML and the kernel log describe it. `None` means the driver does not support the value here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sovctl.model.kernel_line import KernelNotice

_PCI = r"(?:(?P<domain>[0-9A-Fa-f]{1,8}):)?(?P<bus>[0-9A-Fa-f]{2}):(?P<device>[0-9A-Fa-f]{2})(?:\.[0-7])?\Z"


def pci_address(text: str) -> tuple[int, int, int] | None:
    """(domain, bus, device): NVML's `00000000:0F:00.0` equals the kernel's `0000:0f:00`. None: not an address."""
    match = re.match(_PCI, text.strip())
    if match is None:
        return None
    return int(match["domain"] or "0", 16), int(match["bus"], 16), int(match["device"], 16)


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment; the unit is in the field name."""

    index: int
    uuid: str
    serial: str | None
    name: str
    pci_bus_id: str
    """As NVML prints it, e.g. `00000000:0F:00.0`."""
    temperature_c: int | None = None
    power_w: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    utilization_percent: int | None = None
    ecc_volatile_uncorrected: int | None = None
    ecc_volatile_corrected: int | None = None
    ecc_aggregate_uncorrected: int | None = None
    ecc_aggregate_corrected: int | None = None
    remapped_rows_uncorrected: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    nvlinks_active: int | None = None
    nvlinks_inactive: int | None = None
    nvlink_errors: int | None = None
    """Replay, recovery and CRC errors of all links together, since the driver loaded."""
    throttle_reasons: int | None = None
    """NVML's clocks-event bit mask."""
    pcie_replays: int | None = None
    """Since the driver loaded."""
    sm_clock_max_mhz: int | None = None
    power_limit_w: float | None = None
    persistence_mode: bool | None = None
    driver_version: str | None = None
    vbios_version: str | None = None
    inforom_version: str | None = None
    process_ids: tuple[int, ...] = ()
    recovery_action: int | None = None
    """NVML's own advice: 0 none, 1 reset GPU, 2 reboot node, 3 drain P2P, 4 drain and reset, 5 recover IMEX domain,
    6 bus reset, 7 reboot system."""
    lost: bool = False
    """The driver says that this GPU is gone (NVML_ERROR_GPU_IS_LOST)."""
    error: str = ""
    """NVML's words when this GPU could not be read; the other fields are then not to be trusted."""


@dataclass(frozen=True, slots=True)
class XidEvent:
    """One fault line of the NVIDIA driver in the kernel log."""

    code: int
    pci_bus_id: str
    """As the driver prints it, e.g. `0000:0f:00`; empty when the line names none."""
    sequence: int
    """The kernel's sequence number of the record, unique within one boot."""
    since_boot_s: float
    """Seconds since boot, from the record's monotonic stamp."""
    text: str
    """The message as the kernel has it, undecodable bytes replaced."""
    switch: bool = False
    """True for an SXid (NVSwitch) line."""


@dataclass(frozen=True, slots=True)
class KernelLogRead:
    """The driver's fault lines since a cursor, and the cursor to read from next time."""

    events: tuple[XidEvent, ...]
    next_sequence: int
    """The first sequence number not read yet."""
    notices: tuple[KernelNotice, ...] = ()
    """What the kernel complained of besides."""
