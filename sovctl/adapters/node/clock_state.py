"""Whether the kernel's clock is steered: adjtimex(2), read only."""

from __future__ import annotations

import ctypes
import os

from sovctl.model.host import ClockSample

_STA_UNSYNC, _STA_NANO = 0x40, 0x2000


class _Timex(ctypes.Structure):
    """struct timex of linux/timex.h on 64-bit machines; the tail is reserved."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("tail", ctypes.c_byte * 256),
    )


def clock(root: str) -> tuple[ClockSample, ...]:
    """The kernel's own word; for another tree than this machine's, the mark that systemd-timesyncd leaves."""
    if root:
        mark = f"{root}/run/systemd/timesync/synchronized"
        return (ClockSample(True),) if os.access(mark, os.F_OK) else ()
    timex = _Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        return ()
    scale = 1e6 if timex.status & _STA_NANO else 1e3
    return (ClockSample(not timex.status & _STA_UNSYNC, timex.offset / scale, timex.maxerror / 1e3),)
