"""The device files of accelerators and fabrics on a node. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """One of them."""

    path: str
    openable: bool = True
    """Neither its mode nor the cgroup of the job keeps this process from it."""
    confined: bool = False
    """The cgroup does."""
    private: bool = False
    """Others on this node do not see it, or may not open it."""


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A compute instance on a GPU that is split (MIG)."""

    gpu: int
    """The number of the GPU's device file."""
    files: tuple[str, str]
    """What opens its GPU instance, and the compute instance itself."""
    openable: bool = True
    confined: bool = False
    """The cgroup of the job keeps one of the files away."""


@dataclass(frozen=True, slots=True)
class NodeDevices:
    """All that is there."""

    files: tuple[DeviceFile, ...] = ()
    migs: tuple[MigInstance, ...] = ()
