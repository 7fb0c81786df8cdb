"""Whether a single file is whole, as far as its own structure tells: a few bounded reads, nothing loaded.

A file of torch.save is a zip archive: its directory stands at the end, so a truncated one has none. A safetensors
file says in its header how long it is. JSON parses or does not. An old torch.save or a plain pickle has only a
first byte that tells.
"""

from __future__ import annotations

import json
import struct
from pathlib import PurePath

from sovctl.checkpoint.opcodes import LONGEST_BYTES
from sovctl.checkpoint.tree import Tree

_LONGEST_HEADER = 100 * 1024 * 1024
"""The safetensors library's own limit of a header."""
_LONGEST_JSON = 64 * 1024 * 1024
_TAIL = 22 + 65535 + 20
"""A zip's end record, the longest comment after it, and the locator of the 64-bit end record before it."""
_TORCH = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl"})
_DATA = _TORCH | {".distcp", ".safetensors", ".json"}


def content_problem(tree: Tree, name: str) -> str:
    """Why a file cannot be whole; empty when nothing speaks against it. Raises OSError."""
    suffix = PurePath(name).suffix
    size = tree.files[name].size
    if suffix in _DATA and size == 0:
        return f"{name} is empty"
    if suffix == ".safetensors":
        why = _safetensors_problem(tree, name, size)
    elif suffix == ".json":
        why = "" if read_json(tree, name) is not None or size > _LONGEST_JSON else "is not readable as JSON"
    elif suffix in _TORCH:
        why = _torch_problem(tree, name, size)
    else:
        why = ""
    return f"{name} {why}" if why else ""


def read_json(tree: Tree, name: str) -> object | None:
    """A JSON file of bounded length; `None` when it is not one. Raises OSError."""
    try:
        found: object = json.loads(tree.read(name, _LONGEST_JSON))
    except (ValueError, RecursionError):
        return None
    return found


def torch_pickle(tree: Tree, name: str) -> bytes:
    """The pickle inside a file of torch.save, for a walk over its opcodes; empty when there is none to be had.

    torch writes `<name>/data.pkl` first and without compression. Raises OSError.
    """
    head = tree.read(name, 30 + 1024)
    if head[:4] != b"PK\x03\x04":
        return tree.read(name, LONGEST_BYTES) if head[:1] == b"\x80" else b""
    if len(head) < 30:
        return b""
    name_bytes, extra_bytes = struct.unpack_from("<HH", head, 26)
    if head[8:10] != b"\0\0" or not head[30 : 30 + name_bytes].endswith(b"/data.pkl"):
        return b""
    # Its length stands behind it; the walk stops at the pickle's own end.
    return tree.read(name, LONGEST_BYTES, 30 + name_bytes + extra_bytes)


def _safetensors_problem(tree: Tree, name: str, size: int) -> str:
    head = tree.read(name, 8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= _LONGEST_HEADER or 8 + length > size:
        return "is truncated: its header is not whole"
    try:
        header = json.loads(tree.read(name, length, 8))
        ends = [int(one["data_offsets"][1]) for key, one in header.items() if key != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return "has a header that is not readable"
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        return f"has {size} bytes where its header says {expected}"
    return ""


def _torch_problem(tree: Tree, name: str, size: int) -> str:
    head = tree.read(name, 4)
    if head == b"PK\x03\x04":
        return _zip_problem(tree.read(name, _TAIL, -_TAIL), size)
    if head[:1] == b"\x80":
        return ""
    return "does not begin like a file of torch.save"


def _zip_problem(tail: bytes, size: int) -> str:
    """The end record must be there and the central directory must lie right before it (PKWARE APPNOTE 4.3)."""
    cut = "is truncated: the directory at its end is missing"
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        return cut
    entries, length, offset, comment = struct.unpack_from("<HIIH", tail, at + 10)
    if at + 22 + comment != len(tail):
        return cut
    end = size - len(tail) + at
    locator = at - 20
    if (entries == 0xFFFF or length == 0xFFFFFFFF or offset == 0xFFFFFFFF) or (
        locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07"
    ):
        # torch always writes the 64-bit records; the directory ends where the 64-bit end record begins.
        record = int.from_bytes(tail[locator + 8 : locator + 16], "little")
        record_at = record - (size - len(tail))
        if locator < 0 or not 0 <= record_at <= locator - 56 or tail[record_at : record_at + 4] != b"PK\x06\x06":
            return cut
        length, offset = struct.unpack_from("<QQ", tail, record_at + 40)
        end = record
    return "" if offset + length == end else "is damaged: the directory at its end does not fit its length"
