"""What a pickle says, read opcode by opcode: strings and whole numbers in their order. Nothing is ever unpickled.

No class is looked up, no object is built, nothing is called: the walk keeps a table of the strings that were memoized
and yields them again where the pickle refers to them. A hostile pickle costs at most the bytes that were read.
Opcodes as in CPython's Lib/pickletools.py, protocols 0 to 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST_BYTES = 32 * 1024 * 1024
"""More of a pickle is not walked: about 2,000,000 entries of a checkpoint's table of contents."""

Atom = str | int
"""What a walk yields: a string or a whole number."""

_SHARD = re.compile(rb"__(?:0|[1-9]\d{0,9})_(?:0|[1-9]\d{0,9})\.distcp")

_LONGEST_NAME = 255
"""Of a file, in bytes."""

_FIXED = {
    **dict.fromkeys(b"0(12)N]a}edlous\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93RbtQ\x97\x98", 0),
    **dict.fromkeys(b"\x80\x82", 1),
    **dict.fromkeys(b"\x83", 2),
    **dict.fromkeys(b"\x84", 4),
    **dict.fromkeys(b"G\x95", 8),
}
"""Opcode -> bytes of its argument, of those that carry nothing we want."""
_COUNTED = {ord("U"): 1, ord("C"): 1, 0x8A: 1, 0x8B: 4, ord("T"): 4, ord("B"): 4, 0x8E: 8, 0x96: 8}
"""Opcode -> width of its length field, of those that carry bytes we do not want."""
_TEXT = {ord("X"): 4, 0x8C: 1, 0x8D: 8}
_NUMBER = {ord("J"): 4, ord("K"): 1, ord("M"): 2}
_LINES = {ord("g"): 1, ord("p"): 1, ord("c"): 2, ord("i"): 2, **dict.fromkeys(b"FILSPV", 1)}
"""Opcode -> lines of text after it (protocol 0)."""


class NotAPickle(ValueError):
    """The bytes are not a whole pickle; the text is a clause that says why."""


def shard_names(data: bytes) -> frozenset[str]:
    """Every string that ends with `__<rank>_<number>.distcp`, wherever it stands in a pickle; fast at any size."""
    found = (_string_around(data, match.start(), match.end()) for match in _SHARD.finditer(data))
    return frozenset(name.decode("utf-8", "replace") for name in found if name)


def _string_around(data: bytes, at: int, end: int) -> bytes:
    """The string that ends at `end` and begins at `at` or before, told by the length before it; empty when none does.

    Of protocol 4 (one byte of length, and names are shorter than that allows) or of 2 and 3 (four bytes).
    """
    for start in range(at, max(end - _LONGEST_NAME, 0) - 1, -1):
        if data[start] < 0x20:  # of no name, but of what stands between two strings
            return b""
        length = end - start
        if data[max(start - 2, 0) : start] == bytes((0x8C, length)):
            return data[start:end]
        if data[max(start - 5, 0) : start] == b"X" + length.to_bytes(4, "little"):
            return data[start:end]
    return b""


def atoms(data: bytes) -> Iterator[Atom]:
    """Strings and whole numbers of a pickle in the order it names them. Raises NotAPickle when it has no end."""
    at, end = 0, len(data)
    memo: dict[int, Atom | None] = {}
    last: Atom | None = None
    skips = _SKIPS
    while at < end:
        code = data[at]
        skip = skips[code]
        if skip:  # nearly every opcode; this loop is what a large table of contents costs
            at += skip
            last = None
        elif code == _MEMOIZE:
            at += 1
            memo[len(memo)] = last
        elif code in _PUT:
            past = at + 1 + _PUT[code]
            memo[int.from_bytes(data[at + 1 : past], "little")] = last
            at = past
        elif code == _STOP:
            return
        else:
            last, at = _step(data, code, at + 1, memo)
            if last is not None:
                yield last
    raise NotAPickle("it ends in the middle")


_MEMOIZE = 0x94
_STOP = ord(".")
_PUT = {ord("q"): 1, ord("r"): 4}
_SHORT_GET = ord("h")
_GET = {ord("h"): 1, ord("j"): 4}
_SKIPS = [1 + _FIXED[code] if code in _FIXED else 0 for code in range(256)]
"""Opcode -> its length with its argument; 0 for those that need a look."""


def _step(data: bytes, code: int, at: int, memo: dict[int, Atom | None]) -> tuple[Atom | None, int]:
    """What one opcode pushes, if it is of interest, and where the next one starts."""
    if code == _SHORT_GET and at < len(data):
        return memo.get(data[at]), at + 1
    if code in _GET:
        past = at + _GET[code]
        return memo.get(int.from_bytes(data[at:past], "little")), past
    if code in _NUMBER:
        past = at + _NUMBER[code]
        return int.from_bytes(data[at:past], "little", signed=code == 0x4A), past
    if code in _TEXT:
        text = at + _TEXT[code]
        past = text + int.from_bytes(data[at:text], "little")
        return (data[text:past].decode("utf-8", "replace") if past - text < 4096 else ""), past
    if code == 0x8A:  # LONG1
        past = at + 1 + (data[at] if at < len(data) else 0)
        return int.from_bytes(data[at + 1 : past], "little", signed=True), past
    if code in _COUNTED:
        start = at + _COUNTED[code]
        return None, start + int.from_bytes(data[at:start], "little")
    if code in _LINES:
        return None, _after_lines(data, at, _LINES[code])
    raise NotAPickle(f"byte {at - 1} is no opcode of a pickle")


def _after_lines(data: bytes, at: int, lines: int) -> int:
    for _ in range(lines):
        at = data.find(b"\n", at) + 1
        if at == 0:
            raise NotAPickle("it ends in the middle")
    return at


def number_after(data: bytes, name: str) -> int | None:
    """The whole number that follows the first string `name`, as in a dictionary; `None` when there is none."""
    before: Atom | None = None
    try:
        for atom in atoms(data):
            if before == name and isinstance(atom, int):
                return atom
            before = atom
    except NotAPickle:
        return None
    return None


def shard_lengths(data: bytes) -> dict[str, int]:
    """Shard -> bytes it needs at least, from the table of contents of a DCP `.metadata`. Raises NotAPickle.

    The table (torch.distributed.checkpoint, `_StorageInfo`) has for each piece `relative_path`, `offset`, `length`.
    """
    needed: dict[str, int] = {}
    name, offset, key = "", 0, ""
    for atom in atoms(data):
        if isinstance(atom, str):
            if key == "relative_path":
                name = atom
            key = atom
        elif key == "offset":
            offset = atom
        elif key == "length" and name:
            needed[name] = max(needed.get(name, 0), offset + atom)
            key = ""
    return needed
