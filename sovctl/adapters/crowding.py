"""How busy this machine is."""

from __future__ import annotations

import os
from pathlib import Path

_LOADAVG = Path("/proc/loadavg")


def crowding(loadavg: Path = _LOADAVG) -> float:
    """How many processes want each core, at least 1: by the last minute's average or this very moment, whichever is
    more (proc_loadavg(5), first and fourth field)."""
    try:
        words = loadavg.read_text("ascii").split()
        wanting = max(float(words[0]), float(words[3].partition("/")[0]))
    except (OSError, ValueError, IndexError):
        return 1.0
    return max(1.0, wanting / (os.cpu_count() or 1))
