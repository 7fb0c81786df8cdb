"""Containers left behind, firmware that differs, memory that broke: when that is worth a word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sovctl.health.learn import learn
from sovctl.health.memory import advance
from sovctl.health.peers import compare
from sovctl.health.rules_host import firmware, leftovers, memory_errors
from sovctl.model.facts import NodeFacts, facts_from_record, facts_of, facts_record
from sovctl.model.gpu import GpuSample
from sovctl.model.host import (
    ContainerSample,
    FirmwareSample,
    HostFacts,
    Outcome,
    PortSample,
    RamSample,
    RasSample,
    SourceReading,
)
from sovctl.model.inventory import inventory_from_record, inventory_record
from sovctl.model.node import NodeSnapshot
from sovctl.model.past import LookMemory

NOW = 1795384000.0
LEFT = ContainerSample("process", "python (20)", "41")
READ = tuple(SourceReading(name, Outcome.SEEN) for name in ("containers", "ras", "ram", "firmware"))


def look(memory: LookMemory, at: float, **facts: Any) -> NodeSnapshot:
    return advance(memory, NodeSnapshot("n1", "boot", at, host=HostFacts(readings=READ, **facts)))


def test_a_container_that_stays_after_its_job_is_named() -> None:
    first = look(LookMemory("boot"), NOW, containers=(LEFT,))
    assert leftovers(first) == [], "Slurm may still be clearing away"
    later = look(first.memory, NOW + 61, containers=(LEFT,))
    (finding,) = leftovers(later)
    assert finding.evidence == "left of containers: process python (20) of job 41"
    assert leftovers(look(later.memory, NOW + 122, containers=())) == []


def test_the_container_of_a_running_job_is_none_of_our_business() -> None:
    seen = look(LookMemory("boot"), NOW, containers=(ContainerSample("live", "41", "41"), LEFT))
    assert leftovers(look(seen.memory, NOW + 999, containers=(ContainerSample("live", "41", "41"), LEFT))) == []


def test_broken_memory_is_counted_from_the_first_look_on() -> None:
    rows = (RasSample("memory", "Uncorrected", 7), RasSample("memory", "Corrected", 9))
    first = look(LookMemory("boot"), NOW, ras=rows, ram=(RamSample(1000, corrupted_kib=4),))
    assert memory_errors(first) == [], "what was counted before this boot was looked at has been judged before"
    more = (RasSample("memory", "Uncorrected", 8), RasSample("memory", "Corrected", 20))
    later = look(first.memory, NOW + 60, ras=more, ram=(RamSample(1000, corrupted_kib=8),))
    assert [finding.code for finding in memory_errors(later)] == ["MEMORY_CORRUPTED", "RAS_UNCORRECTED"]


def snapshot(bios: str = "2.4.1", manager: str = "580.95.05", hca: str = "28.43.1014") -> NodeSnapshot:
    host = HostFacts(
        firmware=(FirmwareSample("bios-version", bios), FirmwareSample("fabric-manager", manager)),
        ports=(PortSample("mlx5_0", 1, "InfiniBand", "ACTIVE", firmware=hca),),
    )
    gpu = GpuSample(0, "GPU-0", "s", "B200", "0000:0f:00.0", driver_version="580.95.05", inforom_version="G525")
    return NodeSnapshot("n1", "boot", NOW, gpus=(gpu,), host=host)


def test_firmware_is_compared_with_a_healthy_node() -> None:
    inventory = inventory_from_record(inventory_record(learn(snapshot()), "n1", NOW))
    assert inventory is not None
    assert inventory.firmware == {
        "bios-version": ("2.4.1",),
        "fabric-manager": ("580.95.05",),
        "hca mlx5_0": ("28.43.1014",),
        "inforom": ("G525",),
    }
    assert firmware(replace(snapshot(), inventory=inventory)) == []
    (finding,) = firmware(replace(snapshot(bios="2.3.0", hca="28.40.0"), inventory=inventory))
    assert finding.evidence == "bios-version is 2.3.0, not 2.4.1; hca mlx5_0 is 28.40.0, not 28.43.1014"


def test_a_fabric_manager_must_fit_the_driver() -> None:
    assert [finding.code for finding in firmware(snapshot(manager="570.86.15"))] == ["FABRIC_MANAGER_VERSION"]


def test_firmware_is_compared_with_peers() -> None:
    nodes = [replace(facts_of(snapshot()), node=f"n{number}") for number in range(6)]
    odd: NodeFacts = replace(facts_of(snapshot(bios="2.3.0")), node="n6")
    found = compare([*nodes, odd], {}, 2.0)
    assert [(item.node, item.finding.code) for item in found] == [("n6", "FIRMWARE_SKEW")]
    assert "bios-version 2.3.0, while most of 7 nodes have 2.4.1" in found[0].finding.evidence
    assert facts_from_record(facts_record(odd)) == odd
