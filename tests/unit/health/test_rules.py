"""Each rule of the GPUs, the network, the storage and the host: what it finds, and what it lets pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from look_series import Series, healthy_host, port, whole_gpu, whole_node
from node_builders import NOW, snapshot

from sovctl.health.judge import judge
from sovctl.health.learn import learn
from sovctl.health.memory import advance, held_s, memory_from_record, memory_record, rose
from sovctl.health.probes import DEFAULT_STATES
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
    ProcessSample,
    RamSample,
    ServiceSample,
    SharedFile,
    SourceReading,
)
from sovctl.model.inventory import Inventory, inventory_from_record, inventory_record
from sovctl.model.past import LookMemory
from sovctl.model.probe import ProbeState
from sovctl.model.verdict import Verdict, VerdictState


@pytest.fixture
def series() -> Series:
    made = Series()
    assert made.codes() == []
    return made


def gpus(index: int, **changes: Any) -> dict[str, Any]:
    return {"gpus": tuple(whole_gpu(n, **(changes if n == index else {})) for n in range(8))}


def host(**changes: Any) -> dict[str, Any]:
    return {"host": healthy_host(**changes)}


AT_ONCE = [
    (gpus(2, nvlinks_active=17), ("NVLINK_DOWN", "fail")),
    (gpus(2, pcie_width=8), ("PCIE_WIDTH", "warn")),
    (gpus(2, pcie_generation_max=4), ("PCIE_GENERATION", "warn")),
    (gpus(2, temperature_c=91), ("GPU_HOT", "warn")),
    (gpus(2, persistence_mode=False), ("GPU_PERSISTENCE", "warn")),
    (gpus(2, driver_version="570.1"), ("GPU_DRIVER", "warn")),
    (gpus(2, vbios_version="96"), ("GPU_VBIOS", "warn")),
    (gpus(2, utilization_percent=99, sm_clock_mhz=600, throttle_reasons=0), ("GPU_SLOW", "fail")),
    (gpus(2, pcie_replays=5000), ("PCIE_REPLAYS", "warn")),
    (gpus(2, ecc_volatile_corrected=2_000_000), ("ECC_RATE", "fail")),
    (gpus(2, nvlink_errors=500), ("NVLINK_ERRORS", "fail")),
    ({**gpus(2, process_ids=(7,)), "epilog": True}, ("GPU_STRAY", "warn")),
    (host(ports=(port("mlx5_0", rate=200.0), port("mlx5_1"))), ("IB_PORT_RATE", "warn")),
    (host(ports=(port("mlx5_0"),)), ("IB_PORT_DOWN", "warn")),
    (host(ports=(port("mlx5_0", link_downed=6), port("mlx5_1"))), ("IB_PORT_FLAPS", "warn")),
    (host(ports=(port("mlx5_0", port_xmit_discards=10**7), port("mlx5_1"))), None),
    (host(ethernets=(EthernetSample("eth0", "up", 1000, 2),)), ("ETHERNET_SPEED", "warn")),
    (host(ethernets=(EthernetSample("eth0", "up", 25000, 40),)), ("ETHERNET_FLAPS", "warn")),
    (host(ethernets=()), ("ETHERNET_DOWN", "warn")),
    (host(mounts=(MountSample("/", "ext4", False),)), ("MOUNT_MISSING", "warn")),
    (host(answers=(MountAnswer("/data", None, "Stale file handle"),)), ("MOUNT_ERROR", "warn")),
    (host(answers=(MountAnswer("/data", 1500.0),)), ("MOUNT_SLOW", "warn")),
    (host(answers=(MountAnswer("/", 1.0, "", 97.0, 3.0),)), ("DISK_FULL", "warn")),
    (host(answers=(MountAnswer("/", 1.0, "", 7.0, 99.0),)), ("INODES_FULL", "warn")),
    (host(nfs=(NfsSample("/data", 2000, 1900, 11000),)), ("NFS_BACKLOG", "warn")),
    (host(ram=(RamSample(2**30),)), ("MEMORY_SIZE", "warn")),
    (host(edac=(EdacSample("mc0", 0, 1),)), ("MEMORY_UNCORRECTED", "warn")),
    (host(edac=(EdacSample("mc0", 20_000, 0),)), ("MEMORY_CORRECTED", "warn")),
    (host(services=(ServiceSample("chrony"),)), ("SERVICE_DOWN", "warn")),
    (host(ram=(RamSample(2**30, 0, 0),), shared=(SharedFile("x", 2**30, 1000, 90000.0),)), ("SHARED_MEMORY", "warn")),
]


@pytest.mark.parametrize(("changes", "found"), AT_ONCE)
def test_seen_at_once(series: Series, changes: dict[str, Any], found: tuple[str, str] | None) -> None:
    codes = series.codes(**changes)
    assert found is None or found in codes


LASTING = [
    (host(ports=(port("mlx5_0", "DOWN"), port("mlx5_1"))), "IB_PORT_DOWN"),
    (host(mounts=(MountSample("/", "ext4", False),)), "MOUNT_MISSING"),
    (host(mounts=(MountSample("/", "ext4", False), MountSample("/data", "nfs4", True))), "MOUNT_READ_ONLY"),
    (host(services=(ServiceSample("chrony"),)), "SERVICE_DOWN"),
]


@pytest.mark.parametrize(("changes", "code"), LASTING)
def test_what_lasts_fails_and_what_was_short_does_not(series: Series, changes: dict[str, Any], code: str) -> None:
    assert series.look(**changes).state is VerdictState.DEGRADED
    assert series.codes() == [], "it was over at the next look"
    for _ in range(3):
        series.look(**changes)
    verdict = series.look(**changes)
    assert verdict.state is VerdictState.FAILED
    assert verdict.worst is not None and verdict.worst.code == code


def test_warnings_that_need_time(series: Series) -> None:
    stuck = host(
        clock=(ClockSample(False),),
        processes=(ProcessSample(1, "D", "cp", 5), *(ProcessSample(n, "Z", "x", 5) for n in range(20, 40))),
    )
    assert series.codes(**stuck) == []
    for _ in range(11):
        codes = series.codes(**stuck)
    assert {code for code, _ in codes} == {"CLOCK_FREE", "PROCESS_STUCK", "PROCESS_ZOMBIES"}
    assert series.codes(**gpus(1, throttle_reasons=0x40)) == []
    series.codes(**gpus(1, throttle_reasons=0x40))
    assert ("GPU_THROTTLED", "warn") in series.codes(**gpus(1, throttle_reasons=0x40))


def test_nothing_is_missed_without_an_inventory(series: Series) -> None:
    series.inventory = Inventory()
    bare = HostFacts(**dict.fromkeys(("ports", "ethernets", "mounts", "services", "ram"), ()))
    assert series.codes(host=bare, expected_gpus=None, gpus=()) == []


def test_a_source_that_does_not_answer_is_named(series: Series) -> None:
    readings = (
        SourceReading("infiniband", Outcome.HUNG, 2000.0),
        SourceReading("edac", Outcome.FAILED, 1.0, "ValueError: x"),
        SourceReading("mount:/data", Outcome.HUNG, 2000.0),
    )
    verdict = series.look(host=HostFacts(readings=readings), blind=("nvml: NVML gave no answer within 10 s",))
    assert verdict.state is VerdictState.UNKNOWN, "blind is neither healthy nor failed"
    said = {finding.code: finding.evidence for finding in verdict.findings}
    assert said["MOUNT_STUCK"] == "/data gave no answer within 2.0 s"
    assert said["PROBE_FAILED"] == "edac: ValueError: x"
    hung = [finding.evidence for finding in verdict.findings if finding.code == "PROBE_HUNG"]
    assert hung == ["infiniband gave no answer within 2.0 s", "nvml: NVML gave no answer within 10 s"]


def test_a_condition_is_kept_while_its_source_is_not_asked(series: Series) -> None:
    missing = host(mounts=(MountSample("/", "ext4", False),))
    series.look(**missing)
    series.look(host=HostFacts())
    assert held_s(series.seen, "mount//data") == 60.0
    series.look()
    assert held_s(series.seen, "mount//data") is None


def test_counters_that_fall_or_belong_to_another_boot_start_again(series: Series) -> None:
    series.look(**gpus(0, pcie_replays=4000))
    assert rose(series.seen, "gpu/GPU-0/replays", 3600) == 4000
    series.look(**gpus(0, pcie_replays=5))
    assert rose(series.seen, "gpu/GPU-0/replays", 3600) == 0
    assert advance(series.memory, whole_node(boot_id="boot-2")).memory.counters["gpu/GPU-0/replays"][0][1] == 0


def test_old_rises_are_forgotten_and_the_memory_stays_small(series: Series) -> None:
    for n in range(800):
        series.look(after_s=60.0, **gpus(0, pcie_replays=n))
    assert len(series.memory.counters["gpu/GPU-0/replays"]) <= 100
    assert rose(series.seen, "gpu/GPU-0/replays", 3600) == pytest.approx(60, abs=20)
    assert memory_from_record(memory_record(series.memory)) == series.memory


@pytest.mark.parametrize("junk", [None, [], {"schema": "sovctl.memory/1"}, {"schema": "x"}, "x"])
def test_a_memory_of_another_shape_is_empty(junk: object) -> None:
    assert memory_from_record(junk) == LookMemory()


def test_an_inventory_survives_its_file_and_junk_is_none() -> None:
    learnt = learn(whole_node())
    assert learnt.gpus == 8 and learnt.mounts == {"/": "rw", "/data": "rw"} and learnt.nvlinks == 18
    assert inventory_from_record(inventory_record(learnt, "n003", 1.0)) == learnt
    for junk in (
        None,
        3,
        {},
        {"schema": "sovctl.inventory/1", "gpus": "8"},
        {"schema": "sovctl.inventory/1", "ports": 1},
    ):
        assert inventory_from_record(junk) is None


def test_one_lame_link_is_not_learnt_as_what_is_normal() -> None:
    lame = replace(whole_node(), gpus=tuple(whole_gpu(n, nvlinks_active=18 - (n == 3)) for n in range(8)))
    assert learn(lame).nvlinks == 18


def test_automounted_storage_is_not_learnt() -> None:
    """It is not there while nobody uses it, here or on any other node."""
    mounts = (MountSample("/data", "nfs4", False), MountSample("/home/alice", "nfs4", False, automatic=True))
    assert learn(snapshot(host=HostFacts(mounts=mounts))).mounts == {"/data": "rw"}


def test_a_flap_long_after_a_burst_is_counted_by_itself() -> None:
    memory = LookMemory()

    def look(seconds: float, link_downed: int) -> Verdict:
        nonlocal memory
        port = PortSample("mlx5_0", 1, "InfiniBand", "ACTIVE", "LinkUp", 400.0, {"link_downed": link_downed})
        seen = HostFacts(ports=(port,), readings=(SourceReading("infiniband", Outcome.SEEN),))
        shot = advance(memory, snapshot(host=seen, observed_at=NOW + seconds))
        memory = shot.memory
        return judge(shot, (), {**DEFAULT_STATES, "ib-flaps": ProbeState.DRAIN})

    for minute, downed in ((0, 0), (1, 0), (7200, 1), (7201, 2), (7202, 3), (7203, 4)):  # a switch is upgraded
        look(60.0 * minute, downed)
    for minute in range(7300, 14400, 30):  # five quiet days
        look(60.0 * minute, 4)
    assert [look(60.0 * minute, downed).state for minute, downed in ((14405, 5), (14406, 6))] == [
        VerdictState.HEALTHY,
        VerdictState.HEALTHY,
    ]
    for minute, downed in ((14407, 7), (14408, 8), (14409, 9)):
        last = look(60.0 * minute, downed)
    assert last.state is VerdictState.FAILED, "five within a day"
