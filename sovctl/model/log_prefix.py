"""Takes a line as people paste it (dmesg, journalctl, syslog, /dev/kmsg) back to what the kernel said. Pure.

Only the kernel's own words come through: a line that another program wrote is `None`, because anybody can write
`NVRM: Xid ...` into a log with logger(1) or into /dev/kmsg as root of a container.
"""

from __future__ import annotations

import re

_KMSG = re.compile(r"(?P<priority>\d{1,6}),\d{1,19},\d{1,19},[^;]{0,64};")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_PRIORITY = re.compile(r"<(?P<priority>\d{1,4})>")
"""`dmesg -r` and syslog on the wire."""
_FACILITY = re.compile(r"(?P<facility>kern|user|mail|daemon|auth\w*|syslog|lpr|news|uucp|cron|ftp|local\d) *:\w+ *: ")
"""`dmesg -x`: `kern  :err   : `."""
_CLOCK = r"\d{2}:\d{2}:\d{2}(?:[.,]\d{1,9})?"
_ISO = rf"(?:\w{{2,4}} )?\d{{4}}-\d{{2}}-\d{{2}}[T ]{_CLOCK}(?:Z|[+-]\d{{2}}:?\d{{2}}| [A-Z]{{2,5}})?"
_DATE = rf"(?:{_ISO}|\w{{3,5}}\.? +\d{{1,2}} {_CLOCK})"
_SYSLOG = re.compile(
    rf"(?:{_DATE}|\d{{9,11}}\.\d{{1,9}}) (?P<host>[^\s:\[\]]{{1,255}}) (?P<tag>[^\s:\[\]]{{1,128}})(?:\[\d+\])?: "
)
"""syslog files and journalctl; the tag says who wrote it."""
_AHEAD = re.compile(r"[\w.-]{1,64}: (?=\[ *\d+\.\d+\]|\[\w{3} \w{3} )")
"""`n003: [ 12.3] ...`, from pdsh or clush over many nodes."""
_BRACKETS = (
    r"\[ *[+<]? *\d+\.\d+>?\] ?",
    rf"\[\w{{3}} +\w{{3}} +\d{{1,2}} {_CLOCK} \d{{4}}\] ?",
    r"\[\w{3} *\d{1,2} \d{2}:\d{2}\] ?",
)
_TIME = re.compile("|".join((*_BRACKETS, rf"{_DATE} ")))
"""dmesg, `dmesg -T`, `dmesg -e`, `dmesg --time-format=iso`, and several of these after each other."""
_CALLER = re.compile(r"\[ *[TC]\d{1,8}\] ?")
"""CONFIG_PRINTK_CALLER."""
_BY_KERNEL = re.compile(r"(?:[^\s:\[\]]{1,255} )?kernel: ")
"""`journalctl -o short-monotonic`, and logs that only keep the tag."""
_REPEATED = re.compile(r"message repeated \d{1,9} times: \[ ?(?P<text>.*?)\]?\Z", re.DOTALL)


def kernel_message(line: str) -> str | None:
    """The kernel's own words in one line of a log, or None when somebody else wrote the line."""
    if match := _KMSG.match(line):
        if int(match["priority"]) >> 3:
            return None
        return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), line[match.end() :])
    text = _without_facility(line.lstrip(" \t"))
    if text is None:
        return None
    if match := _SYSLOG.match(text):
        if match["tag"] != "kernel":
            return None
        text = text[match.end() :]
    elif match := _AHEAD.match(text):
        text = text[match.end() :]
    text = _without_time(text)
    if match := _BY_KERNEL.match(text):
        text = _without_time(text[match.end() :])
    if match := _REPEATED.match(text):
        text = _without_time(match["text"])
    return text


def _without_facility(text: str) -> str | None:
    """Without `<3>` or `kern :err :`; None when the facility is not the kernel's."""
    if match := _PRIORITY.match(text):
        return None if int(match["priority"]) >> 3 else text[match.end() :]
    if match := _FACILITY.match(text):
        return None if match["facility"] != "kern" else text[match.end() :]
    return text


def _without_time(text: str) -> str:
    for _ in range(3):
        match = _TIME.match(text) or _CALLER.match(text)
        if match is None:
            break
        text = text[match.end() :]
    return text
