"""Amounts of bytes as people read them."""

from __future__ import annotations


def size_words(count: float) -> str:
    """Bytes in binary units: `412 B`, `1.8 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
