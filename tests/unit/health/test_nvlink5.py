"""NVLink5 messages taken apart: who is to blame stands in the bits of the interrupt word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.health.explain_line import LogExplainer
from sovctl.health.nvlink5 import link_event
from sovctl.model.log_prefix import kernel_message

DOWN = "NVRM: Xid (PCI:0000:00:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 09 ({word} 0x00000000 0x00000000)"


def test_every_part() -> None:
    said = link_event(DOWN.format(word="0x025525c6"))
    assert (said.unit, said.fatal, said.link, said.subcode, said.status) == ("NETIR_LINK_EVT", True, 9, 37, 0)
    assert said.link_down and not said.bit_errors


@pytest.mark.parametrize(
    ("word", "blame"),
    [
        ("0x025001c6", "the device at the other end of the link"),
        ("0x020001c6", "the device at the other end of the link"),
        ("0x002001c6", "the link itself: signal, cable or connector at this end"),
        ("0x00f001c6", "software: somebody took the link down"),
        ("0x012001c6", "software that took the link down, or the cable"),
        ("0x028001c6", "the host: its driver or its reset"),
        ("0x000001c6", "this GPU or its NVLink"),
    ],
)
def test_the_subcode_names_who_took_the_link_down(word: str, blame: str) -> None:
    assert link_event(DOWN.format(word=word)).blame == blame


def test_bit_errors_are_the_cable() -> None:
    text = "NVRM: Xid (PCI:0000:04:00): 149, NETIR_BER_EVENT Nonfatal XC0 i0 Link 00 (0x00000013 0x1)"
    assert link_event(text).blame == "the cable or connector of this link"


def test_older_drivers_use_other_brackets() -> None:
    said = link_event("NVRM: Xid (PCI:0000:00:1e): 149, NETIR_LINK_EVT Fatal XC 1 i 2 Link 01 [0x0000000a]")
    assert (said.unit, said.link, said.subcode, said.status) == ("NETIR_LINK_EVT", 1, 0, None)


@given(st.integers(0, len(DOWN)), st.text(max_size=30))
def test_cut_and_mangled_messages_raise_nothing(length: int, tail: str) -> None:
    text = DOWN.format(word="0x025525c6")[:length] + tail
    link_event(text)
    LogExplainer().read(text)


@given(st.text(max_size=200))
def test_no_line_raises(line: str) -> None:
    for start in ("", "[ 1.0] ", "3,1,2,-;", "<3>", "kern :err : ", "Nov 22 22:57:58 n003 kernel: "):
        kernel_message(start + line)
        LogExplainer().read(start + line)
