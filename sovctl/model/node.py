"""A Slurm node as the controller sees it, and what one look at a node found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sovctl.model.past import LookMemory, PastFault

if TYPE_CHECKING:  # a list of nodes is waited for, and needs none of what a look finds
    from sovctl.model.burn_in import BurnInResult
    from sovctl.model.gpu import GpuSample, XidEvent
    from sovctl.model.host import HostFacts
    from sovctl.model.inventory import Inventory
    from sovctl.model.kernel_line import KernelNotice


_RESERVED = frozenset({"RESERVED", "MAINT", "MAINTENANCE"})


@dataclass(frozen=True, slots=True)
class NodeState:
    """Base state plus flags, as Slurm means them (`IDLE+DRAIN`), on every Slurm version.

    `base` is upper case without decoration ("IDLE", "ALLOCATED", "MIXED", "DOWN", ...); `flags` likewise
    ("DRAIN", "NOT_RESPONDING", "COMPLETING", "FAIL", ...).
    """

    base: str
    flags: frozenset[str] = frozenset()

    @property
    def down(self) -> bool:
        return self.base == "DOWN"

    @property
    def draining(self) -> bool:
        """Takes no new work, whether or not jobs are still on it."""
        return "DRAIN" in self.flags

    @property
    def responding(self) -> bool:
        return "NOT_RESPONDING" not in self.flags

    @property
    def schedulable(self) -> bool:
        """Slurm could place a job here now or when it is free."""
        return self.responding and not self.down and not self.draining and "FAIL" not in self.flags

    @property
    def reserved(self) -> bool:
        """In a reservation that has begun, of maintenance too."""
        return self.base in _RESERVED or bool(_RESERVED & self.flags)

    def open_to(self, in_reservation: bool) -> bool:
        """As `schedulable`, for a job that names a reservation, or one that does not: Slurm keeps their nodes apart."""
        return self.schedulable and self.reserved == in_reservation

    def __str__(self) -> str:
        return "+".join([self.base, *sorted(self.flags)])


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node of `scontrol show node`."""

    name: str
    state: NodeState
    reason: str = ""
    """The Reason text without Slurm's trailing `[user@time]`; empty when there is none."""
    reason_by: str = ""
    reason_at: int | None = None
    """Seconds since the epoch."""
    address: str = ""
    port: int = 6818
    """slurmd's port."""
    gres: str = ""
    partitions: tuple[str, ...] = ()
    boot_time: int | None = None
    """Seconds since the epoch."""
    weight: int = 1
    """Slurm hands out nodes of lower weight first."""


def _no_facts() -> HostFacts:
    from sovctl.model.host import HostFacts

    return HostFacts()


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """Everything one look at a node saw, at one moment."""

    node: str
    boot_id: str
    observed_at: float
    """Seconds since the epoch."""
    gpus: tuple[GpuSample, ...] = ()
    xids: tuple[XidEvent, ...] = ()
    """Kernel log events since the cursor of this boot."""
    notices: tuple[KernelNotice, ...] = ()
    """What the kernel complained of besides, since the same cursor."""
    expected_gpus: int | None = None
    host: HostFacts = field(default_factory=_no_facts)
    inventory: Inventory | None = None
    """What the node must have; None: nothing learnt yet, so nothing is missed."""
    memory: LookMemory = field(default_factory=LookMemory)
    """What earlier looks of this boot saw, this look included."""
    past: tuple[PastFault, ...] = ()
    """Faults of this node's GPUs within the last days, on whichever node and boot, without those in `xids`."""
    epilog: bool = False
    """A job just ended and no other is here: nothing may be left on the GPUs."""
    burn_in: tuple[BurnInResult, ...] = ()
    """The last burn-in of each piece that said something."""
    blind: tuple[str, ...] = field(default=())
    """Sources that could not be read ("nvml: ...", "kernel-log: ..."): never shown as empty."""
