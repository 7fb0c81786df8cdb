"""Fault lines of the NVIDIA driver, as real kernels have printed them, and everything that only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.gpu import pci_address
from sovctl.model.xid_line import parse_kernel_message, recovery_action, says_fatal

FAULTS = [
    ("NVRM: Xid (PCI:0000:0f:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", 79, "0000:0f:00"),
    ("NVRM: Xid (PCI:0000:0f:00): 79, pid=1234, GPU has fallen off the bus.", 79, "0000:0f:00"),
    ("NVRM: Xid (PCI:0000:0F:00.0): 94, pid=77, name=python, Contained: SM (0x1).", 94, "0000:0f:00"),
    ("NVRM: Xid (PCI:0002:00:00): 31, pid=9, name=a), b (PCI:0000:01:00): 79, Ch 8, MMU Fault", 31, "0002:00:00"),
    ("NVRM: Xid (PCI:0000:4e:00 GPU-I:05): 13, Graphics SM Warp Exception", 13, "0000:4e:00"),
    ("NVRM: Xid (0000:03:00): 62, 0cb5(1c8c) 00000000 00000000", 62, "0000:03:00"),
    ("NVRM: Xid (PCI:0000:c1:00): 45, pid=12, name=train, Ch 00000010", 45, "0000:c1:00"),
    ("NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT Fatal   XC0 i0 Link 09 (0x004505c6 0x0)", 149, "0018:01:00"),
    ("NVRM: Xid (PCI:0000:04:00): 145, RLW_REMAP Nonfatal XC0 i0 Link 08 (0x00000004)", 145, "0000:04:00"),
    ("[ 1234.567890] NVRM: Xid (PCI:0000:0f:00): 48, pid=1, name=x, DBE", 48, "0000:0f:00"),
    ("NVRM: Xid (PCI:0000:0f:00): 64", 64, "0000:0f:00"),
    ("NVRM: GPU 0000:0f:00.0: GPU has fallen off the bus.", 79, "0000:0f:00"),
    ("NVRM: GPU at PCI:0000:0f:00: has fallen off the bus.", 79, "0000:0f:00"),
    (
        "NVRM: The NVIDIA GPU 0000:0f:00.0\nNVRM: (PCI ID: 10de:2330) installed in this system has\n"
        "NVRM: fallen off the bus and is not responding to commands.",
        79,
        "0000:0f:00",
    ),
]

NOISE = [
    "",
    "NVRM",
    "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.95.05",
    "NVRM: GPU 0000:0f:00.0: GPU serial number is 1650522010000.",
    "NVRM: GPU at PCI:0000:0f:00: GPU-1ca07d40-4bed-4665-efa8-32e8a0dc4bf0",
    "NVRM: A GPU crash dump has been created. If possible, please run",
    "NVRM: Xid (PCI:0000:0f:00): ",
    "NVRM: Xid (PCI:0000:0f:00): abc, pid=1",
    "NVRM: Xid (PCI:0000:0f:00): 79bis",
    "NVRM: Xid (PCI:0000:0f:",
    "NVRM: Xid (PCI:zzzz:0f:00): 79, pid=1",
    "train[411]: segfault at 0 NVRM: Xid (PCI:0000:0f:00): 79, GPU has fallen off the bus.",
    'audit: comm="NVRM: Xid (PCI:0000:0f:00): 79,"',
    "usb 1-1: fallen off the bus",
    "nvidia 0000:0f:00.0: AER: can't recover (no error_detected callback)",
]


@pytest.mark.parametrize(("text", "code", "pci"), FAULTS)
def test_a_fault_line_is_read(text: str, code: int, pci: str) -> None:
    event = parse_kernel_message(text, sequence=7, since_boot_s=1.5)
    assert event is not None
    assert (event.code, event.pci_bus_id, event.sequence, event.since_boot_s) == (code, pci, 7, 1.5)
    assert event.text == text
    assert not event.switch


@pytest.mark.parametrize("text", NOISE)
def test_noise_is_no_fault(text: str) -> None:
    assert parse_kernel_message(text) is None


@pytest.mark.parametrize(
    ("text", "code", "fatal"),
    [
        ("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 24007, Fatal, Link 24 sourceport deadlock detected", 24007, True),
        ("nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress PRIV error", 12028, False),
        ("nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 12028, Data {0x00000004, 0x00000000}", 12028, None),
    ],
)
def test_a_switch_fault_is_told_apart(text: str, code: int, fatal: bool | None) -> None:
    event = parse_kernel_message(text)
    assert event is not None and event.switch and event.code == code
    assert says_fatal(event.text) is fatal


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("Xid 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", 1),
        ("GPU recovery action changed from 0x1 (GPU Reset Required) to 0x2 (Node Reboot Required)", 2),
        ("GPU recovery action changed from 0x4 (Drain and Reset) to 0x0 (None)", 0),
        ("recovery action changed from 0 to 7", 7),
        ("recovery action changed", None),
        ("", None),
    ],
)
def test_the_recovery_action_is_the_new_one(text: str, action: int | None) -> None:
    assert recovery_action(text) == action


def test_pci_addresses_of_nvml_and_of_the_kernel_are_equal() -> None:
    assert pci_address("00000000:0F:00.0") == pci_address("0000:0f:00") == (0, 15, 0)
    assert pci_address("00000018:01:00.0") == pci_address("0018:01:00") == (24, 1, 0)
    assert pci_address("") is None
    assert pci_address("GPU-1") is None


@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "replace")))
def test_no_text_raises(text: str) -> None:
    for candidate in (text, f"NVRM: {text}", f"NVRM: Xid (PCI:{text}", f"NVRM: Xid (PCI:0000:0f:00): {text}"):
        parse_kernel_message(candidate)
        recovery_action(candidate)
        says_fatal(candidate)
        pci_address(candidate)


@given(st.sampled_from(FAULTS), st.data())
def test_a_cut_line_never_names_another_gpu(fault: tuple[str, int, str], data: st.DataObject) -> None:
    text, _, pci = fault
    event = parse_kernel_message(text[: data.draw(st.integers(0, len(text)))])
    assert event is None or event.pci_bus_id == pci


@pytest.mark.parametrize(
    ("name", "words", "fatal"),
    [
        ("Fatal", "NETIR_BER_EVENT Nonfatal", False),
        ("nonfatal", "NETIR_LINK_EVT Fatal", True),
        ("python", "NETIR_BER_EVENT Nonfatal", False),
    ],
)
def test_the_drivers_own_word_counts_and_no_programs_name(name: str, words: str, fatal: bool) -> None:
    line = f"NVRM: Xid (PCI:0000:0f:00): 149, pid=4711, name={name}, {words} XC0 i0 Link 09 (0x025525c6 0x0)"
    event = parse_kernel_message(line)
    assert event is not None
    assert says_fatal(event.text) is fatal
