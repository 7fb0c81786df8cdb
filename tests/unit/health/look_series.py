"""A series of looks at one node, each with the memory of those before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from node_builders import NOW, gpu, snapshot

from sovctl.health.judge import judge
from sovctl.health.learn import learn
from sovctl.health.memory import advance
from sovctl.model.gpu import GpuSample
from sovctl.model.host import (
    ClockSample,
    EdacSample,
    EthernetSample,
    HostFacts,
    MountAnswer,
    MountSample,
    NfsSample,
    Outcome,
    PortSample,
    RamSample,
    ServiceSample,
    SourceReading,
)
from sovctl.model.node import NodeSnapshot
from sovctl.model.past import LookMemory
from sovctl.model.verdict import Verdict

SOURCES = (
    "infiniband",
    "ethernet",
    "edac",
    "mounts",
    "answers",
    "nfs",
    "ram",
    "services",
    "clock",
    "processes",
    "shared",
)


def whole_gpu(index: int, **changes: Any) -> GpuSample:
    values = {
        "driver_version": "580.95.05",
        "vbios_version": "97.00",
        "pcie_generation_max": 5,
        "pcie_width": 16,
        "pcie_width_max": 16,
        "nvlinks_active": 18,
        "nvlink_errors": 0,
        "pcie_replays": 0,
        "ecc_volatile_corrected": 0,
        "ecc_volatile_uncorrected": 0,
        "sm_clock_mhz": 1900,
        "sm_clock_max_mhz": 1965,
        "temperature_c": 60,
        "persistence_mode": True,
    }
    return gpu(index, **{**values, **changes})


def port(name: str = "mlx5_0", state: str = "ACTIVE", rate: float = 400.0, **counters: int) -> PortSample:
    return PortSample(name, 1, "InfiniBand", state, "LinkUp", rate, {"link_downed": 0, **counters})


def healthy_host(**changes: Any) -> HostFacts:
    host = HostFacts(
        ports=(port("mlx5_0"), port("mlx5_1")),
        ethernets=(EthernetSample("eth0", "up", 25000, 2),),
        mounts=(MountSample("/", "ext4", False), MountSample("/data", "nfs4", False)),
        answers=(MountAnswer("/", 0.2, "", 40.0, 3.0), MountAnswer("/data", 3.0, "", 60.0, 5.0)),
        nfs=(NfsSample("/data", 1000, 1000, 1000),),
        ram=(RamSample(2 * 2**30),),
        edac=(EdacSample("mc0", 0, 0),),
        clock=(ClockSample(True),),
        processes=(),
        services=(ServiceSample("nvidia-fabricmanager"), ServiceSample("chrony")),
        shared=(),
        readings=tuple(SourceReading(source, Outcome.SEEN, 1.0) for source in SOURCES),
    )
    return replace(host, **changes)


def whole_node(**changes: Any) -> NodeSnapshot:
    return snapshot(**{"gpus": tuple(whole_gpu(n) for n in range(8)), "host": healthy_host(), **changes})


class Series:
    """Looks one after the other; the inventory is learnt from a whole node."""

    def __init__(self) -> None:
        self.at = NOW
        self.memory = LookMemory()
        self.inventory = learn(whole_node())
        self.seen = whole_node()

    def look(self, after_s: float = 60.0, **changes: Any) -> Verdict:
        self.at += after_s
        seen = whole_node(observed_at=self.at, inventory=self.inventory, **changes)
        self.seen = advance(self.memory, seen)
        self.memory = self.seen.memory
        return judge(self.seen)

    def codes(self, after_s: float = 60.0, **changes: Any) -> list[tuple[str, str]]:
        verdict = self.look(after_s, **changes)
        return [(finding.code, str(finding.severity)) for finding in (*verdict.findings, *verdict.shadow)]
