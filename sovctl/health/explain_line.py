"""What one line of a kernel log means: the fault, its class, the repair and who is to blame. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sovctl.health.nvlink5 import LINK_CODES, link_event
from sovctl.health.xid import RECOVERY_ACTIONS, XidClass, XidMeaning, meaning_of
from sovctl.model.gpu import XidEvent
from sovctl.model.log_prefix import kernel_message
from sovctl.model.verdict import Repair
from sovctl.model.xid_line import parse_kernel_message, recovery_action, says_fatal

_SWITCH_LINK = re.compile(r"\bLink (?P<link>\d{1,3})\b")
_BEGINS_OFF_BUS = "NVRM: The NVIDIA GPU "
_LONGEST_SENTENCE = 4
"""Lines."""
_ACTION_CLASS = {Repair.NONE: XidClass.IGNORE, Repair.RESET_GPU: XidClass.RESET, Repair.REBOOT: XidClass.DRAIN}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One fault line, explained."""

    number: int
    """XID or SXID."""
    switch: bool
    """True for an SXID (NVSwitch)."""
    kind: XidClass
    """Resolved: NVLink5, SXID and XID 154 are what their own words say."""
    repair: Repair
    meaning: str
    blame: str
    pci: str
    link: int | None = None

    @property
    def name(self) -> str:
        return f"{'SXID' if self.switch else 'XID'} {self.number}"


class LogExplainer:
    """Takes a log line by line. One sentence of the driver goes over several lines (79 without a number)."""

    def __init__(self) -> None:
        self._begun = ""
        self._lines = 0

    def read(self, line: str) -> Explanation | None:
        """`line` as it was pasted; None when it is no fault line of the driver."""
        if "NVRM" not in line and "SXid" not in line:
            return None
        message = kernel_message(line)
        if not message:
            return None
        event = parse_kernel_message(message) or self._continued(message)
        return explain_event(event) if event else None

    def _continued(self, message: str) -> XidEvent | None:
        if message.startswith(_BEGINS_OFF_BUS):
            self._begun, self._lines = message, 1
            return None
        if not self._begun or not message.startswith(("NVRM: ", " ")):
            return None
        self._begun, self._lines = f"{self._begun}\n{message}", self._lines + 1
        event = parse_kernel_message(self._begun)
        if event is not None or self._lines > _LONGEST_SENTENCE:
            self._begun = ""
        return event


def explain_event(event: XidEvent) -> Explanation:
    """What one fault line of the driver means by itself."""
    meaning = meaning_of(event.code)
    if event.switch:
        return _switch(event)
    if meaning.kind is XidClass.ACTION:
        return _action(event)
    if event.code in LINK_CODES:
        return _link(event, meaning)
    return _plain(event, meaning)


def _plain(event: XidEvent, meaning: XidMeaning) -> Explanation:
    blame = _BLAME_BY_CODE.get(event.code) or _BLAME_BY_CLASS[meaning.kind]
    return Explanation(event.code, False, meaning.kind, meaning.repair, meaning.meaning, blame, event.pci_bus_id)


def _switch(event: XidEvent) -> Explanation:
    fatal = says_fatal(event.text)
    link = _SWITCH_LINK.search(event.text)
    kind, repair, words = {
        True: (XidClass.DRAIN, Repair.REBOOT, "NVSwitch fault, fatal: the fabric of this node has stopped"),
        False: (XidClass.COUNT, Repair.NONE, "NVSwitch error, not fatal"),
        None: (XidClass.COUNT, Repair.NONE, "details of an NVSwitch error"),
    }[fatal]
    number = int(link["link"]) if link else None
    blame = "NVSwitch" if number is None else f"NVSwitch or its link {number}"
    return Explanation(event.code, True, kind, repair, words, blame, event.pci_bus_id, number)


def _action(event: XidEvent) -> Explanation:
    number = recovery_action(event.text)
    known = RECOVERY_ACTIONS.get(-1 if number is None else number)
    if known is None:
        words = "the driver asks for an action we do not know"
        return Explanation(event.code, False, XidClass.WARN, Repair.NONE, words, _ACTION_BLAME, event.pci_bus_id)
    _, repair, asked = known
    kind = XidClass.IGNORE if number == 0 else _ACTION_CLASS[repair]
    if number and repair is Repair.NONE:
        kind = XidClass.WARN
    words = "the driver asks for nothing any more" if number == 0 else f"the driver asks to {asked}"
    return Explanation(event.code, False, kind, repair, words, _ACTION_BLAME, event.pci_bus_id)


def _link(event: XidEvent, meaning: XidMeaning) -> Explanation:
    said = link_event(event.text)
    fatal = said.fatal or meaning.kind is XidClass.RESET
    kind, repair = (XidClass.RESET, Repair.RESET_GPU) if fatal else (XidClass.COUNT, Repair.NONE)
    words = meaning.meaning
    if said.link is not None:
        words += f" on link {said.link}"
    if said.bit_errors:
        words += ": too many bit errors"
    elif said.link_down:
        words += ": link down"
    weight = {True: "fatal", False: "not fatal", None: "does not say whether fatal"}[said.fatal]
    words += f", {said.unit} {weight}" if said.unit else f", {weight}"
    return Explanation(event.code, False, kind, repair, words, said.blame, event.pci_bus_id, said.link)


_ACTION_BLAME = "the fault before this line"
_GPU_MEMORY = "this GPU's memory"
_FIRMWARE = "the driver or this GPU's firmware"
_BUS = "this GPU, its power or its PCIe slot"
_NVLINK = "this GPU's NVLink, its cable or bridge"
_BLAME_BY_CODE = {
    **dict.fromkeys((48, 63, 64, 92, 94, 95, 140, 156, 157, 160, 161, 168, 171, 172), _GPU_MEMORY),
    **dict.fromkeys((61, 62, 109, 119, 120, 143, 158, 169), _FIRMWARE),
    **dict.fromkeys((54, 79, 81, 167), _BUS),
    **dict.fromkeys((74, 136, 155), _NVLINK),
    **dict.fromkeys((162, 163, 164, 165), "this GPU's power supply circuit"),
    **dict.fromkeys((151, 166, 170), "the set-up of confidential computing"),
    78: "the vGPU software",
    110: "the driver or the program",
    121: "the link between CPU and GPU",
    43: "the program, or the fault before this line",
    173: "the link between CPU and GPU",
}
_BLAME_BY_CLASS = {
    XidClass.APP: "the program",
    XidClass.SOFT: "the program first; this GPU when it repeats with other programs",
    XidClass.IGNORE: "nobody",
    XidClass.SYMPATHETIC: "the fault before this line",
    XidClass.COUNT: "nobody yet",
    XidClass.WARN: "not known",
    XidClass.RESET: "this GPU",
    XidClass.DRAIN: "this GPU",
    XidClass.LINK: _NVLINK,
    XidClass.ACTION: _ACTION_BLAME,
}
