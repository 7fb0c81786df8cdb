"""Reads the fault lines of the NVIDIA driver out of kernel log messages. Pure: one message in, one event out.

Every pattern is anchored at the start of the message: further right stands text that users choose (`name=`, comm of a
crashed process), and nobody may get a node drained by naming a program.
"""

from __future__ import annotations

import re
from functools import cache

from sovctl.model.gpu import XidEvent

FELL_OFF_THE_BUS = 79

_STAMP = r"(?:\[ *[0-9]+\.[0-9]+\] *)?"
"""dmesg and syslog put the time in front; the kernel itself does not."""
_PCI = r"(?P<pci>[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})(?:\.[0-7])?"
# `Xid (PCI:0000:0f:00 GPU-I:05): 31, ...` names a MIG instance; drivers before 340 leave out `PCI:`.
_XID = _STAMP + r"NVRM: Xid \((?:PCI:)?" + _PCI + r"(?: [^)]{0,40})?\): (?P<code>[0-9]{1,6})(?=[,\s]|\Z)"
_SXID = _STAMP + r"[\w.-]{0,40}:? ?SXid \(PCI:" + _PCI + r"\): (?P<code>[0-9]{1,6})(?=[,\s]|\Z)"
# Without a number: at probe time and from the interrupt path. Drivers split the sentence over lines as they like.
_OFF_BUS = _STAMP + r"NVRM: (?:The NVIDIA GPU |GPU (?:at )?(?:PCI:)?)" + _PCI + r"\b.{0,200}?\bfallen off the bus"
_ACTION = r"recovery action changed from \S+(?: \([^)]{0,60}\))? to (?P<value>0x[0-9A-Fa-f]{1,4}|[0-9]{1,4})\b"
_LINK_WORD = r"\b(?P<word>Non-?fatal|Fatal)\b"


@cache
def _compiled(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """On the first line that needs it: the prolog of each job imports this, and most logs have no fault in them."""
    return re.compile(pattern, flags)


def parse_kernel_message(text: str, *, sequence: int = 0, since_boot_s: float = 0.0) -> XidEvent | None:
    """The fault in one kernel message, or None when it is not one of the driver's fault lines."""
    if "NVRM" not in text and "SXid" not in text:
        return None
    if match := _compiled(_XID).match(text):
        return XidEvent(int(match["code"]), match["pci"].lower(), sequence, since_boot_s, text)
    if match := _compiled(_SXID).match(text):
        return XidEvent(int(match["code"]), match["pci"].lower(), sequence, since_boot_s, text, switch=True)
    if match := _compiled(_OFF_BUS, re.DOTALL).match(text):
        return XidEvent(FELL_OFF_THE_BUS, match["pci"].lower(), sequence, since_boot_s, text)
    return None


def recovery_action(text: str) -> int | None:
    """The action XID 154 asks for, as NVML numbers it; None when the message names none."""
    match = _compiled(_ACTION).search(text)
    return int(match["value"], 0) if match else None


def says_fatal(text: str) -> bool | None:
    """What NVLink5 and NVSwitch messages call themselves: True fatal, False non-fatal, None neither."""
    words = [match["word"].lower() for match in _compiled(_LINK_WORD, re.IGNORECASE).finditer(text)]
    # A program's name, which its user chooses, stands before the driver's own words.
    return words[-1] == "fatal" if words else None
