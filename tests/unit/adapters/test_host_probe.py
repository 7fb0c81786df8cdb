"""The host's files: a tree like `/`, hardware that is absent, files that make no sense, sources that hang or die."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.node.host_probe import HostFiles
from sovctl.lab.host import write_healthy_host, write_mounts, write_port, write_services
from sovctl.model.host import HostFacts, Outcome

ALL = frozenset(
    {"infiniband", "ethernet", "edac", "mounts", "answers", "nfs", "ram", "services", "clock", "processes", "shared"}
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_healthy_host(tmp_path)
    return tmp_path


def read(root: Path, sources: frozenset[str] = ALL, **options: Any) -> HostFacts:
    return HostFiles(str(root), **options).read(sources)


def test_a_healthy_host(root: Path) -> None:
    facts = read(root)
    assert facts.ports is not None and [port.name for port in facts.ports] == ["mlx5_0/1", "mlx5_1/1"]
    port = facts.ports[0]
    assert (port.state, port.physical_state, port.rate_gbps, port.firmware) == ("ACTIVE", "LinkUp", 400.0, "28.43.1014")
    assert port.counters["link_downed"] == 0
    assert facts.ethernets and (facts.ethernets[0].speed_mbps, facts.ethernets[0].carrier_changes) == (25000, 2)
    assert facts.mounts and [(mount.path, mount.kind, mount.read_only) for mount in facts.mounts] == [
        ("/", "ext4", False),
        ("/data", "nfs4", False),
    ]
    assert facts.answers and {answer.path for answer in facts.answers} == {"/", "/data"}
    assert all(answer.error == "" and answer.answer_ms is not None for answer in facts.answers)
    assert facts.nfs and (facts.nfs[0].path, facts.nfs[0].sends, facts.nfs[0].backlog) == ("/data", 1000, 0)
    assert facts.ram and facts.ram[0].total_kib == 2 * 2**30
    assert facts.edac and facts.clock and facts.clock[0].synchronised
    assert {service.name for service in facts.services or ()} >= {"nvidia-fabricmanager", "munge"}
    assert {reading.outcome for reading in facts.readings} <= {Outcome.SEEN, Outcome.ABSENT}


def test_what_is_absent_says_so_and_is_not_unseen(tmp_path: Path) -> None:
    facts = read(tmp_path)
    assert all(facts.outcome(source) is Outcome.ABSENT for source in ALL)
    assert facts.ports == facts.mounts == facts.answers == ()


def test_what_is_not_asked_is_not_seen(root: Path) -> None:
    facts = read(root, frozenset({"ram"}))
    assert facts.ram and facts.ports is None and facts.outcome("infiniband") is None


def test_files_that_make_no_sense(root: Path) -> None:
    port = root / "sys" / "class" / "infiniband" / "mlx5_0" / "ports" / "1"
    (port / "rate").write_text("\xff fast")
    (port / "counters" / "link_downed").write_text("N/A (no PMA)")
    (port / "state").unlink()
    for name in ("mountinfo", "mountstats"):
        (root / "proc" / "self" / name).write_bytes(b"\xff\x00 - \n1 2 3\n - - -\ndevice x\n\txprt: tcp 1\n")
    (root / "proc" / "meminfo").write_text("MemTotal: lots kB\n")
    (root / "proc" / "17").mkdir()
    (root / "proc" / "17" / "stat").write_text("17 (a) b) D")
    facts = read(root)
    assert facts.ports and facts.ports[0].rate_gbps is None and "link_downed" not in facts.ports[0].counters
    assert (facts.mounts, facts.ram, facts.processes) == ((), (), ())


def test_a_process_in_uninterruptible_sleep_with_a_strange_name(root: Path) -> None:
    (root / "proc" / "17").mkdir()
    fields = " ".join(["D", *["0"] * 18, "4711", "0"])
    (root / "proc" / "17" / "stat").write_text(f"17 (a (b) c) {fields}\n")
    facts = read(root)
    assert facts.processes
    assert (facts.processes[0].command, facts.processes[0].started_ticks) == ("a (b) c", 4711)


def test_a_path_with_a_space(root: Path) -> None:
    write_mounts(root, {"/my data": "ro"})
    info = root / "proc" / "self" / "mountinfo"
    info.write_text(info.read_text().replace("/my data", r"/my\040data"))
    facts = read(root)
    assert facts.mounts and (facts.mounts[0].path, facts.mounts[0].read_only) == ("/my data", True)


def test_changes_are_seen(root: Path) -> None:
    write_port(root, "mlx5_0", "1: DOWN", link_downed=3)
    write_services(root, ("munge",))
    facts = read(root)
    assert facts.ports and (facts.ports[0].state, facts.ports[0].counters["link_downed"]) == ("DOWN", 3)
    assert [service.name for service in facts.services or ()] == ["munge"]


def _hang(_: str) -> tuple[Any, ...]:
    threading.Event().wait()
    return ()


def _die(_: str) -> tuple[Any, ...]:
    os._exit(3)


def _fail(_: str) -> tuple[Any, ...]:
    raise ValueError("no such thing")


def test_a_source_that_hangs_is_named_and_the_others_are_read(root: Path) -> None:
    began = time.monotonic()
    facts = read(root, timeout_s=0.2, extra={"ethernet": _hang, "ram": _die, "edac": _fail})
    assert time.monotonic() - began < 3
    assert facts.outcome("ethernet") is Outcome.HUNG
    assert facts.outcome("ram") is Outcome.FAILED
    assert next(r.error for r in facts.readings if r.source == "edac") == "ValueError: no such thing"
    assert facts.ethernets is None and facts.ram is None, "not seen, which is not the same as none"
    assert facts.ports and facts.services and facts.outcome("clock") is Outcome.SEEN


def test_a_mount_that_errs_is_its_own_error(root: Path) -> None:
    (root / "data").rmdir()
    facts = read(root)
    errors = {answer.path: answer.error for answer in facts.answers or ()}
    assert errors == {"/": "", "/data": "No such file or directory"}


def test_a_file_is_written_only_where_the_site_made_the_directory(root: Path) -> None:
    own = root / "data" / ".sovctl-probe"
    own.mkdir()
    facts = read(root)
    assert all(answer.error == "" for answer in facts.answers or ()) and not list(own.iterdir())
    own.rmdir()
    own.symlink_to("/tmp")
    facts = read(root)
    assert all(answer.error == "" for answer in facts.answers or ()), "who can make links there cannot blame the node"


def test_what_an_automounter_put_there_is_told_apart(root: Path) -> None:
    (root / "proc" / "self" / "mountinfo").write_text(
        "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        "40 21 0:40 / /home rw,relatime - autofs /etc/auto.home rw,indirect\n"
        "41 21 0:41 / /scratch rw,relatime - autofs systemd-1 rw,direct\n"
        "50 40 0:50 / /home/alice rw,relatime - nfs4 srv:/home/alice rw\n"
        "51 41 0:51 / /scratch rw,relatime - nfs4 srv:/scratch rw\n"
        "52 21 0:52 / /data rw,relatime - nfs4 srv:/data rw\n"
    )
    found = {mount.path: mount.automatic for mount in read(root, frozenset({"mounts"})).mounts or ()}
    assert found == {"/": False, "/home/alice": True, "/scratch": True, "/data": False}


def test_storage_is_what_init_sees(root: Path) -> None:
    """ProtectSystem=full of the watcher's unit makes /usr and the mounts below it read-only for that unit alone."""
    host = "60 21 0:60 / /usr/local rw,relatime - nfs4 srv:/usr/local rw\n"
    (root / "proc" / "1").mkdir()
    (root / "proc" / "1" / "mountinfo").write_text(host)
    (root / "proc" / "self" / "mountinfo").write_text(host.replace("/usr/local rw,", "/usr/local ro,"))
    (mount,) = read(root, frozenset({"mounts"})).mounts or ()
    assert (mount.path, mount.read_only) == ("/usr/local", False)
