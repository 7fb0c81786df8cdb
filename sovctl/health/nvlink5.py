"""Takes apart the text of XIDs 144 to 150, which NVLink of generation 5 (B200 and later) writes. Pure.

`149, NETIR_LINK_EVT Fatal XC0 i0 Link 09 (0x025525c6 0x00000000 ...)`: unit, weight, cross-containment, injected,
link, then the interrupt word and the error status. Before driver 575 it is `XC 0 i 0` and `[0x...]`.
Source: NVIDIA's XID catalogue, sheet "XID 144-150 decode".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sovctl.model.xid_line import says_fatal

LINK_CODES = range(144, 151)
_EVENT = re.compile(
    r": (?P<code>14[4-9]|150), (?:pid=[^,]{1,40}, )?(?:name=[^,]{1,80}, )?(?P<unit>[A-Z][A-Z0-9_/]{2,60}) "
)
_LINK = re.compile(r"\bLink (?P<link>-?\d{1,3})\b")
_WORDS = re.compile(r"[(\[](?P<words>0x[0-9A-Fa-f]{1,8}(?: 0x[0-9A-Fa-f]{1,8})*)")
_BER_UNIT = "NETIR_BER_EVENT"
_LINK_DOWN_UNITS = ("NETIR_LINK_EVT", "NETIR_LINK_DOWN")
_SUBCODE_SHIFT, _SUBCODE_MASK = 20, 0x3F
_THIS_END = frozenset({2, 4, 10})
_SOFTWARE = frozenset({15, 17, 22, 38})
_SOFTWARE_OR_CABLE = frozenset({16, 18})
_PEER = frozenset({21, *range(32, 38)})
_HOST = frozenset({40})


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """One NVLink5 message."""

    unit: str
    """`NETIR_LINK_EVT`, `RLW_REMAP`, ...; empty when the text is cut."""
    fatal: bool | None
    """As the message calls itself; None when it does not say."""
    link: int | None = None
    subcode: int | None = None
    """Bits 20 to 25 of the interrupt word."""
    status: int | None = None

    @property
    def bit_errors(self) -> bool:
        """A rate of bit errors was passed: a matter of the cable, nothing to do at once."""
        return _BER_UNIT in self.unit

    @property
    def link_down(self) -> bool:
        return any(unit in self.unit for unit in _LINK_DOWN_UNITS)

    @property
    def blame(self) -> str:
        """Who most likely broke it, in words."""
        if self.bit_errors:
            return "the cable or connector of this link"
        if not self.link_down or self.subcode is None:
            return "this GPU or its NVLink"
        for subcodes, words in _BLAME:
            if self.subcode in subcodes:
                return words
        return "this GPU or its NVLink"


_BLAME = (
    (_THIS_END, "the link itself: signal, cable or connector at this end"),
    (_PEER, "the device at the other end of the link"),
    (_SOFTWARE, "software: somebody took the link down"),
    (_SOFTWARE_OR_CABLE, "software that took the link down, or the cable"),
    (_HOST, "the host: its driver or its reset"),
)


def link_event(text: str) -> LinkEvent:
    """What the message says; parts that are cut off are None or empty."""
    unit, link, words = _EVENT.search(text), _LINK.search(text), _WORDS.search(text)
    numbers = [int(word, 16) for word in words["words"].split()] if words else []
    return LinkEvent(
        unit=unit["unit"] if unit else "",
        fatal=says_fatal(text),
        link=int(link["link"]) if link else None,
        subcode=numbers[0] >> _SUBCODE_SHIFT & _SUBCODE_MASK if numbers else None,
        status=numbers[1] if len(numbers) > 1 else None,
    )
