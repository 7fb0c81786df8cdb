"""What jobs leave of containers, versions of firmware, and rasdaemon's database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from sovctl.adapters.node.host_probe import HostFiles
from sovctl.lab.host import write_healthy_host
from sovctl.model.host import ContainerSample, Outcome

SOURCES = frozenset({"containers", "firmware", "ras", "ram"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_healthy_host(tmp_path)
    return tmp_path


def process(root: Path, pid: int, namespace: str = "mnt:[1]", job: str = "", title: str = "") -> None:
    directory = root / "proc" / str(pid)
    (directory / "ns").mkdir(parents=True)
    (directory / "ns" / "mnt").symlink_to(namespace)
    (directory / "comm").write_text("python\n", "utf-8")
    (directory / "cmdline").write_text(title, "utf-8")
    (directory / "environ").write_bytes(f"PATH=/bin\0SLURM_JOB_ID={job}\0".encode() if job else b"PATH=/bin\0")


def test_nothing_left_is_absent_and_costs_nothing(root: Path) -> None:
    facts = HostFiles(str(root)).read(SOURCES)
    assert [facts.outcome(name) for name in ("containers", "firmware", "ras")] == [Outcome.ABSENT] * 3


def test_processes_mounts_and_directories_of_jobs_are_told_apart_from_services(root: Path) -> None:
    process(root, 1)
    process(root, 20, "mnt:[2]", job="41")
    process(root, 21, "mnt:[2]", job="42")
    process(root, 22, "mnt:[3]")  # a service with a namespace of its own
    process(root, 23, job="43")  # a shell of salloc
    process(root, 24, title="slurmstepd: [42.0]")
    (root / "run" / "enroot" / "user-1000" / "pyxis_41.0").mkdir(parents=True)
    mounts = root / "proc" / "self" / "mountinfo"
    left = "90 1 0:90 / /run/enroot/user-1000/pyxis_41.0 rw - fuse.squashfuse squashfuse rw\n"
    mounts.write_text(mounts.read_text("utf-8") + left, "utf-8")
    facts = HostFiles(str(root)).read(SOURCES)
    assert facts.containers == (
        ContainerSample("live", "42", "42"),
        ContainerSample("process", "python (20)", "41"),
        ContainerSample("process", "python (21)", "42"),
        ContainerSample("mount", "/run/enroot/user-1000/pyxis_41.0", "41"),
        ContainerSample("directory", f"{root}/run/enroot/user-1000/pyxis_41.0", "41"),
    )


def test_firmware_by_dmi_and_the_newest_start_of_the_fabric_manager(root: Path) -> None:
    dmi = root / "sys" / "class" / "dmi" / "id"
    dmi.mkdir(parents=True)
    (dmi / "bios_version").write_text("2.4.1\n", "utf-8")
    log = root / "var" / "log" / "fabricmanager.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "[Nov 01 2026] [INFO] Fabric Manager version is : 570.86.15\nx\n"
        "[Nov 20 2026] [INFO] Fabric Manager version is : 580.95.05\n",
        "utf-8",
    )
    facts = HostFiles(str(root)).read(SOURCES)
    assert [(item.name, item.version) for item in facts.firmware or ()] == [
        ("bios-version", "2.4.1"),
        ("fabric-manager", "580.95.05"),
    ]


def test_rasdaemons_counts_are_read_by_severity(root: Path) -> None:
    path = root / "var" / "lib" / "rasdaemon" / "ras-mc_event.db"
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path)
    database.execute("create table mc_event (id integer, timestamp text, err_count integer, err_type text)")
    database.executemany("insert into mc_event values (?, '', ?, ?)", [(1, 5, "Corrected"), (2, 2, "Uncorrected")])
    database.execute("create table mce_record (id integer)")
    database.execute("insert into mce_record values (1)")
    database.commit()
    database.close()
    facts = HostFiles(str(root)).read(SOURCES)
    assert [(row.kind, row.severity, row.count) for row in facts.ras or ()] == [
        ("memory", "Corrected", 5),
        ("memory", "Uncorrected", 2),
        ("machine check", "", 1),
    ]
    path.write_bytes(b"not a database at all, " * 100)
    assert HostFiles(str(root)).read(SOURCES).outcome("ras") is Outcome.FAILED


def test_memory_that_the_kernel_gave_up(root: Path) -> None:
    meminfo = root / "proc" / "meminfo"
    meminfo.write_text(meminfo.read_text("utf-8") + "HardwareCorrupted:     4 kB\n", "utf-8")
    facts = HostFiles(str(root)).read(SOURCES)
    assert facts.ram and facts.ram[0].corrupted_kib == 4
