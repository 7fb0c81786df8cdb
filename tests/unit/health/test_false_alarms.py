"""A month of 63 healthy nodes with the noise that healthy nodes make: nobody is drained."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from look_series import Series, healthy_host, port, whole_gpu, whole_node
from node_builders import NOW, pci

from sovctl.health.judge import judge
from sovctl.health.ledger import Ledger, past_faults, recorded
from sovctl.health.memory import advance
from sovctl.model.gpu import XidEvent
from sovctl.model.host import (
    ClockSample,
    EdacSample,
    EthernetSample,
    MountAnswer,
    MountSample,
    NfsSample,
    ProcessSample,
    ServiceSample,
)
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import VerdictState
from sovctl.model.xid_line import parse_kernel_message

NODES, DAYS, LOOKS_A_DAY = 63, 30, 6
_RARE = 1 / (DAYS * LOOKS_A_DAY)
"""Of one look: about once a month and node."""


class HealthyNode:
    """One node that only makes noise. Counters rise, temperatures swing, programs crash."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)
        self.name = f"n{number:03d}"
        self.series = Series()
        self.series.at = NOW
        self.ledger = Ledger()
        self.sequence = 0
        self.pid = 1000
        self.corrected = [0] * 8
        self.replays = [0] * 8
        self.link_errors = [0] * 8
        self.flaps = 0
        self.carrier = 2
        self.memory_errors = 0
        self.sends = self.backlog = 1000
        self.gpus = [whole_gpu(n, serial=f"{self.name}-{n}", remap_pending=False) for n in range(8)]

    def often(self, share: float) -> bool:
        return self.random.random() < share

    def look(self) -> VerdictState:
        self.series.at += 86400 / LOOKS_A_DAY
        seen = whole_node(
            node=self.name,
            observed_at=self.series.at,
            inventory=self.series.inventory,
            gpus=tuple(self._gpu(n) for n in range(8)),
            host=self._host(),
            xids=self._programs(),
        )
        return self._judged(seen)

    def _judged(self, seen: NodeSnapshot) -> VerdictState:
        seen = advance(self.series.memory, replace(seen, past=past_faults(self.ledger, seen)))
        verdict = judge(seen)
        self.series.memory, self.ledger = seen.memory, recorded(self.ledger, seen, verdict)
        return verdict.state

    def _gpu(self, n: int) -> Any:
        self.corrected[n] += self.random.choice((0, 0, 0, 1, 3, 40))
        self.replays[n] += self.random.choice((0, 0, 2, 20))
        self.link_errors[n] += self.random.choice((0, 0, 0, 5))
        busy = self.often(0.9)
        hot = self.often(0.02)
        return replace(
            self.gpus[n],
            temperature_c=self.random.randint(55, 86) if busy else self.random.randint(28, 45),
            utilization_percent=100 if busy else 0,
            sm_clock_mhz=self.random.randint(1500, 1965) if busy else 345,
            throttle_reasons=0x40 if hot else (0x4 if busy else 0x1),
            pcie_generation=5 if busy else 1,
            ecc_volatile_corrected=self.corrected[n],
            pcie_replays=self.replays[n],
            nvlink_errors=self.link_errors[n],
        )

    def _host(self) -> Any:
        flapped, remounted, restarted = self.often(_RARE), self.often(_RARE), self.often(_RARE)
        self.flaps += flapped
        self.carrier += 2 * self.often(_RARE)
        self.memory_errors += self.random.choice((0, 0, 0, 2))
        sent = self.random.randint(10_000, 10**7)
        self.sends, self.backlog = self.sends + sent, self.backlog + int(sent * self.random.uniform(0, 4))
        storage = MountSample("/data", "nfs4", False)
        first = port(
            "mlx5_0", "INIT" if flapped else "ACTIVE", link_downed=self.flaps, symbol_error=self.random.randint(0, 20)
        )
        return healthy_host(
            ports=(first, port("mlx5_1")),
            ethernets=(EthernetSample("eth0", "up", 25000, self.carrier),),
            mounts=(MountSample("/", "ext4", False), *(() if remounted else (storage,))),
            answers=(MountAnswer("/", self.random.uniform(0.1, 3), "", self.random.uniform(30, 90), 9.0),),
            nfs=(NfsSample("/data", self.sends, self.sends, self.backlog),),
            edac=(EdacSample("mc0", self.memory_errors, 0),),
            clock=(ClockSample(not self.often(_RARE)),),
            services=(*(() if restarted else (ServiceSample("nvidia-fabricmanager"),)), ServiceSample("chrony")),
            processes=tuple(ProcessSample(self.random.randint(2, 30000), "D", "cp", 7) for _ in range(3)),
        )

    def _programs(self) -> tuple[XidEvent, ...]:
        """A crashing program takes all GPUs of its job; 45 follows on each; soft faults and notices stand alone."""
        lines: list[tuple[int, int]] = []
        if self.often(2 * _RARE):
            code = self.random.choice((13, 31, 43))
            lines += [(index, xid) for index in range(8) for xid in (code, 45)]
        if self.often(2 * _RARE):
            lines.append((self.random.randrange(8), self.random.choice((31, 13, 43, 45, 94, 63, 92, 137, 32, 69))))
        return tuple(self._xid(index, code) for index, code in lines)

    def _xid(self, index: int, code: int) -> XidEvent:
        self.sequence += 1
        self.pid += 1
        text = f"NVRM: Xid (PCI:{pci(index)}): {code}, pid={self.pid}, name=python3, detail"
        event = parse_kernel_message(text, sequence=self.sequence, since_boot_s=self.series.at - NOW)
        assert event is not None
        return event


def test_a_month_of_63_healthy_nodes_drains_nobody() -> None:
    drained: list[tuple[str, float]] = []
    looks = degraded = 0
    for number in range(1, NODES + 1):
        node = HealthyNode(number)
        for _ in range(DAYS * LOOKS_A_DAY):
            state = node.look()
            looks += 1
            degraded += state is VerdictState.DEGRADED
            if state is VerdictState.FAILED:
                drained.append((node.name, node.series.at - NOW))
    assert drained == []
    assert degraded < looks * 0.03, "nor do they cry wolf"


def test_the_same_node_is_drained_when_it_is_really_broken() -> None:
    node = HealthyNode(1)
    for _ in range(20):
        node.look()
    dead = whole_node(node=node.name, xids=(node._xid(3, 79),), observed_at=node.series.at + 60)
    assert node._judged(dead) is VerdictState.FAILED
