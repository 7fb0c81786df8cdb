"""What was seen before: counters of this boot, and faults by the serial number of the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PastFault:
    """One fault line of the driver, by the GPU that has it."""

    serial: str
    code: int
    at: float
    """Seconds since the epoch."""
    text: str
    """The start of the kernel's words."""


@dataclass(frozen=True, slots=True)
class LookMemory:
    """What the looks of one boot leave for the next one. Empty after a reboot, like the counters it remembers."""

    boot_id: str = ""
    counters: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """By name: (seconds since the epoch, value) whenever the value changed, oldest first."""
    since: Mapping[str, float] = field(default_factory=dict)
    """Since when a condition holds, in seconds since the epoch; one that ended is not listed."""
    looked: Mapping[str, float] = field(default_factory=dict)
    """When each source was last asked, in seconds since the epoch."""
