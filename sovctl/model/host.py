"""What the kernel of a node shows of everything but the GPUs. The unit is in the field name; `None`: not shown here.

Every sample is flat (text, numbers, tables of numbers), because it comes out of a child process as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

COUNTED_ON_PORTS = (
    "link_downed",
    "link_error_recovery",
    "symbol_error",
    "local_link_integrity_errors",
    "excessive_buffer_overrun_errors",
    "port_rcv_errors",
    "port_xmit_discards",
    "local_ack_timeout_err",
    "rnr_nak_retry_err",
)
"""The error counters of a port that are read, by the kernel's name."""


@dataclass(frozen=True, slots=True)
class PortSample:
    """One port of an InfiniBand or RoCE adapter, /sys/class/infiniband/<device>/ports/<port>."""

    device: str
    port: int
    link_layer: str
    """`InfiniBand` or `Ethernet` (RoCE)."""
    state: str
    """The kernel's word: `ACTIVE`, `INIT`, `DOWN`, `ARMED`."""
    physical_state: str = ""
    rate_gbps: float | None = None
    counters: dict[str, int] = field(default_factory=dict)
    """Error counters by the kernel's name, since the driver loaded."""
    firmware: str = ""

    @property
    def name(self) -> str:
        """As perftest and NCCL_IB_HCA write it, without the colon that paths dislike: `mlx5_0/1`."""
        return f"{self.device}/{self.port}"


@dataclass(frozen=True, slots=True)
class EthernetSample:
    """One network interface that is a device, not a bridge or a tunnel."""

    name: str
    state: str
    """operstate: `up`, `down`, ..."""
    speed_mbps: int | None = None
    carrier_changes: int | None = None


@dataclass(frozen=True, slots=True)
class MountSample:
    """One line of /proc/self/mountinfo that names storage."""

    path: str
    kind: str
    """File system type: `ext4`, `nfs4`, `lustre`."""
    read_only: bool
    automatic: bool = False
    """An automounter put it there, and takes it away when nobody uses it."""


@dataclass(frozen=True, slots=True)
class MountAnswer:
    """What one mounted file system answered to one question, asked in a child of its own."""

    path: str
    answer_ms: float | None = None
    error: str = ""
    """The kernel's words: stale file handle, input/output error."""
    used_percent: float | None = None
    inodes_used_percent: float | None = None


@dataclass(frozen=True, slots=True)
class NfsSample:
    """RPC totals of one NFS mount over all its connections, since it was mounted."""

    path: str
    sends: int
    receives: int
    backlog: int
    """Sum over all sends of how many requests waited in the backlog queue."""


@dataclass(frozen=True, slots=True)
class RamSample:
    """Main memory and what tmpfs under /dev/shm holds of it."""

    total_kib: int
    available_kib: int | None = None
    shared_kib: int | None = None
    """Used in /dev/shm."""
    corrupted_kib: int | None = None
    """Taken out of use by the kernel because the hardware lost what was in it."""


@dataclass(frozen=True, slots=True)
class EdacSample:
    """One memory controller of /sys/devices/system/edac/mc: errors since boot."""

    controller: str
    corrected: int
    uncorrected: int


@dataclass(frozen=True, slots=True)
class ClockSample:
    """What the kernel thinks of its own clock (adjtimex)."""

    synchronised: bool
    offset_ms: float | None = None
    max_error_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """A process in uninterruptible sleep (`D`) or a zombie (`Z`)."""

    pid: int
    state: str
    command: str
    started_ticks: int
    """Start time in clock ticks since boot: with the pid it names the process."""


@dataclass(frozen=True, slots=True)
class ServiceSample:
    """A service that runs."""

    name: str


@dataclass(frozen=True, slots=True)
class SharedFile:
    """One file in /dev/shm."""

    name: str
    size_kib: int
    uid: int
    age_s: float


@dataclass(frozen=True, slots=True)
class ContainerSample:
    """Something of a container that bears a job id."""

    kind: str
    """`process`, `mount`, `directory`; `live`: not a container but a job that has a step here."""
    name: str
    job_id: str


@dataclass(frozen=True, slots=True)
class FirmwareSample:
    """One version."""

    name: str
    """`bios-version`, `fabric-manager`, ..."""
    version: str


@dataclass(frozen=True, slots=True)
class RasSample:
    """One row of what rasdaemon has counted since its database began."""

    kind: str
    """`memory`, `pcie`, `machine check`, `memory page`."""
    severity: str
    """rasdaemon's word: `Corrected`, `Uncorrected`, `Fatal`; empty: it has none."""
    count: int


class Outcome(StrEnum):
    """How one source of facts answered."""

    SEEN = "seen"
    ABSENT = "absent"
    """There is no such hardware here; costs nothing and means nothing."""
    FAILED = "failed"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class SourceReading:
    """One source asked once."""

    source: str
    outcome: Outcome
    cost_ms: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """All that one look at the host saw. A field is None when its source was not asked or did not answer."""

    ports: tuple[PortSample, ...] | None = None
    ethernets: tuple[EthernetSample, ...] | None = None
    mounts: tuple[MountSample, ...] | None = None
    answers: tuple[MountAnswer, ...] | None = None
    nfs: tuple[NfsSample, ...] | None = None
    ram: tuple[RamSample, ...] | None = None
    edac: tuple[EdacSample, ...] | None = None
    clock: tuple[ClockSample, ...] | None = None
    processes: tuple[ProcessSample, ...] | None = None
    services: tuple[ServiceSample, ...] | None = None
    shared: tuple[SharedFile, ...] | None = None
    containers: tuple[ContainerSample, ...] | None = None
    firmware: tuple[FirmwareSample, ...] | None = None
    ras: tuple[RasSample, ...] | None = None
    readings: tuple[SourceReading, ...] = ()

    def outcome(self, source: str) -> Outcome | None:
        """How a source answered; None when it was not asked."""
        return next((reading.outcome for reading in self.readings if reading.source == source), None)
