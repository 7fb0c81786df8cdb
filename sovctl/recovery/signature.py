"""Names a crash by the last error in the output, so that two crashes of the same kind compare equal. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

# `ValueError: ...`, `torch.OutOfMemoryError: ...`, `RuntimeError: ...`, at the start of a line or behind a rank prefix.
_PYTHON_ERROR = re.compile(
    r"^(?:[^\s\d]{0,40}\d\S{0,40}:\s+)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Failure)\b.*)$"
)
_OTHER_ERRORS = (
    re.compile(r"\bNCCL (?:WARN|error).*"),
    re.compile(r"\bCUDA error.*", re.IGNORECASE),
    re.compile(r".*\bNo space left on device.*"),
    re.compile(r".*\b(?:Segmentation fault|Bus error|Killed|Aborted)\b.*"),
)
# What other ranks, or their launcher, say when one of them is gone; never the cause.
_ECHO = re.compile(
    r"Connection (?:reset|closed|refused)|Broken pipe|\bgloo\b|DistBackendError|DistNetworkError|Socket Timeout"
    r"|ChildFailedError|SignalException: Process \d+ got signal|Rendezvous\w*Error"
)
_SLURMSTEPD = re.compile(r"\*\*\* JOB \d+ ON \S+ CANCELLED AT \S+ DUE TO (PREEMPTION|JOB REQUEUE|TIME LIMIT)")
_VARIABLE = (
    # torch puts this before what CUDA said, which is what tells.
    (re.compile(r" Did you run some cuda functions before calling NumCudaDevices\(\).*?already set an error\?"), ""),
    (re.compile(r"0x[0-9a-fA-F]+"), "ADDR"),
    (re.compile(r"(?<![\w.])/[^\s:'\"]+"), "PATH"),
    (re.compile(r"\d+(?:\.\d+)?"), "N"),
)
_LONGEST = 160
_LONGEST_LINE = 500


def crash_signature(output_tail: str) -> str:
    """The error line that tells most about a crash, with figures, addresses and paths replaced; empty when none."""
    return normalised(error_line(output_tail))


def error_line(output_tail: str) -> str:
    """The same line as it was printed, for a person to read.

    The first exception in the tail is the cause; what follows on the other ranks are echoes of it.
    """
    # A tensor printed on one line has thousands of digits; the patterns need time for each.
    lines = [line.strip()[:_LONGEST_LINE] for line in output_tail.splitlines()]
    python = [match[1] for line in lines if (match := _PYTHON_ERROR.match(line))]
    causes = [line for line in python if not _ECHO.search(line)]
    for line in causes or _others(lines) or python:
        return _printable(line)[:_LONGEST_LINE]
    return ""


def shell_error(lines: Sequence[str], status: int) -> str:
    """What a shell, or an interpreter without a script, said last before it ended with this status; else empty."""
    for line in reversed(lines):
        if _NO_SCRIPT.search(line) or (status in _NOT_RUN and _NOT_STARTED.search(line)):
            return _printable(line.strip())[:_LONGEST]
    return ""


_NOT_RUN = (126, 127)
_NOT_STARTED = re.compile(r": (?:command not found|not found|Permission denied|No such file or directory)$")
_NO_SCRIPT = re.compile(r"^\S{0,200}: can't open file .*No such file or directory")


def is_echo(line: str) -> bool:
    """Whether a line only tells that another rank is gone."""
    return _ECHO.search(line) is not None


def says_preempted(output_tail: str) -> bool:
    """Whether slurmstepd's last word on the job is that it was preempted; after the requeue nothing else tells
    (PreemptTime is cleared, 22.05)."""
    words = _SLURMSTEPD.findall(output_tail)
    return bool(words) and words[-1] == "PREEMPTION"


def _others(lines: list[str]) -> list[str]:
    return [line for line in lines if any(pattern.search(line) for pattern in _OTHER_ERRORS)]


def normalised(line: str) -> str:
    """Without what differs from crash to crash: figures, addresses, paths."""
    for pattern, word in _VARIABLE:
        line = pattern.sub(word, line)
    return _printable(line)[:_LONGEST]


def _printable(line: str) -> str:
    return "".join(char for char in line if char.isprintable())
