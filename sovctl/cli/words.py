"""How the commands write what comes from outside, times and ages."""

from __future__ import annotations


def printable(text: str) -> str:
    """External text must not move the cursor or forge a line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def clock_time(at: float | None) -> str:
    """`2026-11-22 22:14:43` on the reader's clock; `-` when it is not known."""
    from datetime import datetime  # not needed by the commands that must start fast

    return "-" if at is None else datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def age(seconds: float) -> str:
    """Two figures are enough: `42s`, `3m05s`, `7h12m`, `9d04h`."""
    whole = max(int(seconds), 0)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole}s"
