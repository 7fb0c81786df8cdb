"""`sovctl health explain`: what the fault lines of a log mean. Neither typer nor rich: it reads logs of any size."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import IO, Any

from sovctl.cli.json_output import print_json
from sovctl.cli.words import print_line, say
from sovctl.errors import EXIT_DONE, SovctlError
from sovctl.health.explain_line import Explanation, LogExplainer
from sovctl.model.verdict import Repair

_LONGEST_LINE = 16 * 1024
"""Bytes; no record of the kernel is longer than 8 KiB."""
_LONGEST_SHOWN = 200
_PIPE_IT = "Pipe it instead: sudo dmesg | sovctl health explain"


def run_explain(arguments: argparse.Namespace) -> int:
    """Read a file or stdin line by line, print what is a fault; exit status 0 whether or not there was one."""
    seen, explainer = 0, LogExplainer()
    with _opened(arguments.file) as stream:
        for number, line in _lines(stream):
            explanation = explainer.read(line)
            if explanation is None:
                continue
            seen += 1
            if arguments.json:
                print_json("sovctl.explain/1", _record(explanation, line, number), flush=True)
            else:
                for words in _words(explanation, line):
                    print_line(words)
                sys.stdout.flush()
    if not seen and not arguments.json:
        say("sovctl: no XID or SXID in this log")
    return EXIT_DONE


def _opened(name: str) -> Any:
    if name == "-":
        if sys.stdin.isatty():
            say("sovctl: reading from the terminal; end with Ctrl-D")
        return nullcontext(sys.stdin.buffer)
    try:
        return open(name, "rb")
    except OSError as error:
        raise SovctlError(f"cannot read {name}: {error.strerror}", hint=_PIPE_IT) from error


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    """(line number, text); of an overlong line only the beginning, bytes that are not UTF-8 replaced."""
    number, start = 1, True
    while True:
        try:
            piece = stream.readline(_LONGEST_LINE)
        except OSError as error:
            raise SovctlError(f"cannot read the log: {error.strerror}", hint=_PIPE_IT) from error
        if not piece:
            return
        if start:
            yield number, piece.rstrip(b"\r\n\0").decode("utf-8", "replace")
        start = piece.endswith(b"\n")
        number += start


def _record(explanation: Explanation, line: str, number: int) -> dict[str, Any]:
    key = "sxid" if explanation.switch else "xid"
    return {
        key: explanation.number,
        "class": str(explanation.kind),
        "repair": str(explanation.repair),
        "meaning": explanation.meaning,
        "blame": explanation.blame,
        "pci": explanation.pci,
        "link": explanation.link,
        "number": number,
        "line": line,
    }


def _words(explanation: Explanation, line: str) -> list[str]:
    shown = line if len(line) <= _LONGEST_SHOWN else line[: _LONGEST_SHOWN - 3] + "..."
    repair = "nothing to repair" if explanation.repair is Repair.NONE else f"repair: {explanation.repair}"
    return [
        shown,
        f"  {explanation.name} ({explanation.kind}): {explanation.meaning}",
        f"  {repair}; to blame: {explanation.blame}",
    ]
