"""The kernel log as a file: by cursor, bounded, whatever bytes are in it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovctl.adapters.node import kmsg
from sovctl.adapters.node.kmsg import KernelLogFile, KernelLogUnreadable
from sovctl.errors import SovctlError
from sovctl.lab.gpus import append_kernel_line, xid_line

XID = b"NVRM: Xid (PCI:0000:0f:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


@pytest.fixture
def log(tmp_path: Path) -> KernelLogFile:
    (tmp_path / "boot_id").write_text("484acdb2-1e28\n")
    (tmp_path / "kmsg").write_bytes(b"")
    return KernelLogFile(tmp_path / "kmsg", tmp_path / "boot_id")


def write(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "kmsg").write_bytes(data)


def test_reads_records_since_the_cursor(tmp_path: Path, log: KernelLogFile) -> None:
    write(
        tmp_path,
        b"6,10,1000000,-;usb 1-1: new device\n SUBSYSTEM=usb\n DEVICE=c189:3\n"
        b"3,11,2500000,-,caller=T123;" + XID + b"\n"
        b"3,12,2600000,-;" + XID.replace(b"79", b"45") + b"\n",
    )
    read = log.read(0)
    assert [(event.code, event.sequence, event.since_boot_s) for event in read.events] == [(79, 11, 2.5), (45, 12, 2.6)]
    assert read.next_sequence == 13
    assert [event.code for event in log.read(12).events] == [45]
    assert log.read(13) == kmsg.KernelLogRead((), 13)
    assert log.boot_id() == "484acdb2-1e28"


def test_torn_interleaved_and_undecodable_lines_cost_only_themselves(tmp_path: Path, log: KernelLogFile) -> None:
    write(
        tmp_path,
        b"\xff\xfe;garbage\n3,1,1,-;NVRM: Xid (PCI:0000:0f:3,2,2,-;" + XID + b"\n"
        b"3,3,3,-;" + XID[:-5] + b"\xff\xfe\n" + b"x" * 100000 + b"\n"
        b"no header at all\n,,,;\n3,99999999999999999999999,1,-;x\n"
        b"3,4,4,-;" + XID,
    )
    read = log.read(0)
    assert [event.sequence for event in read.events] == [3]
    assert "\ufffd" in read.events[0].text
    assert read.next_sequence == 4, "a line without its end is still being written"


def test_only_the_kernel_itself_is_believed(tmp_path: Path, log: KernelLogFile) -> None:
    write(tmp_path, b"11,1,1,-;" + XID + b"\n30,2,2,-;" + XID + b"\n")
    read = log.read(0)
    assert read.events == () and read.next_sequence == 3


def test_escaped_bytes_are_decoded(tmp_path: Path, log: KernelLogFile) -> None:
    write(
        tmp_path,
        b"3,1,1,-;NVRM: The NVIDIA GPU 0000:0f:00.0\\x0aNVRM: (PCI ID: 10de:2330) installed in this system has\\x0a"
        b"NVRM: fallen off the bus and is not responding to commands.\n",
    )
    assert [event.code for event in log.read(0).events] == [79]


def test_a_flood_is_bounded(tmp_path: Path, log: KernelLogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmsg, "_MOST_EVENTS", 10)
    monkeypatch.setattr(kmsg, "_LARGEST_READ", 50_000)
    write(tmp_path, b"".join(b"3,%d,1,-;%s\n" % (n, XID) for n in range(1000)))
    read = log.read(0)
    assert [event.sequence for event in read.events] == list(range(990, 1000))


@given(st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "kmsg").write_bytes(data)
    read = KernelLogFile(tmp_path / "kmsg", tmp_path / "boot_id").read(0)
    assert read.next_sequence >= 0


def test_what_the_lab_writes_comes_back(tmp_path: Path, log: KernelLogFile) -> None:
    path = tmp_path / "kmsg"
    assert append_kernel_line(path, "boot") == 0
    assert append_kernel_line(path, xid_line(31, "0000:0f:00", 77, "träin\n")) == 1
    (event,) = log.read(0).events
    assert (event.code, event.sequence) == (31, 1)
    assert "name=träin\n" in event.text


def test_writers_at_the_same_time_get_different_numbers(tmp_path: Path, log: KernelLogFile) -> None:
    path = tmp_path / "kmsg"
    threads = [
        threading.Thread(target=lambda: [append_kernel_line(path, xid_line(13, "0000:0f:00")) for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.sequence for event in log.read(0).events] == list(range(80))


def test_wait_sees_what_came_after_the_read(tmp_path: Path, log: KernelLogFile) -> None:
    log.read(0)
    assert not log.wait(0.02)
    append_kernel_line(tmp_path / "kmsg", "x")
    assert log.wait(5.0)
    log.read(0)
    writer = threading.Timer(0.05, append_kernel_line, (tmp_path / "kmsg", "y"))
    writer.start()
    assert log.wait(5.0)
    writer.join()
    log.close()


def test_wait_works_without_inotify(tmp_path: Path, log: KernelLogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmsg, "_inotify", lambda directory: -1)
    log.read(0)
    writer = threading.Timer(0.05, append_kernel_line, (tmp_path / "kmsg", "y"))
    writer.start()
    assert log.wait(5.0)
    writer.join()


def test_a_signal_ends_the_wait(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_bytes(b"")
    reader, writer = os.pipe()
    log = KernelLogFile(tmp_path / "kmsg", tmp_path / "boot_id", wake=reader)
    log.read(0)
    os.write(writer, b"\x0f")
    assert not log.wait(60.0)
    log.close()
    os.close(reader)
    os.close(writer)


def test_an_unreadable_log_says_so(tmp_path: Path) -> None:
    log = KernelLogFile(tmp_path / "absent", tmp_path / "absent-too")
    with pytest.raises(KernelLogUnreadable, match="No such file"):
        log.read(0)
    with pytest.raises(SovctlError, match="boot id"):
        log.boot_id()


def test_the_real_device_where_it_can_be_read() -> None:
    log = KernelLogFile(Path("/dev/kmsg"), Path("/proc/sys/kernel/random/boot_id"))
    try:
        read = log.read(0)
    except KernelLogUnreadable as error:
        pytest.skip(str(error))
    assert log.read(read.next_sequence).next_sequence >= read.next_sequence
    log.close()
