"""The period of a report, as people write it. Pure."""

from __future__ import annotations

import re
from datetime import datetime, tzinfo

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_AGO = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([mhdw])")


def since(words: str, now: float, zone: tzinfo | None = None) -> float:
    """`30d`, `12h`, `8w`, `90m` before now; or a day or moment such as `2026-11-01` or `2026-11-01T08:00`, in the
    reader's zone. Returns seconds since the epoch. Raises ValueError."""
    match = _AGO.fullmatch(words.strip())
    if match is not None:
        return max(0.0, now - float(match[1]) * _UNITS[match[2]])
    try:
        moment = datetime.fromisoformat(words.strip())
    except ValueError:
        raise ValueError("neither a length of time nor a day") from None
    at = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
    if not 0 <= at <= now:
        raise ValueError(f"{words} is not in the past")
    return at
