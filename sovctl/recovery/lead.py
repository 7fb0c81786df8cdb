"""How long before the time limit a run has to begin to save. Pure.

Slurm may send `--signal` up to 60 s before its time (sbatch(1)), and a save that takes 1.5 times its usual time is
nothing special on a shared file system: hence 1.5 x the save time, and for a signal of Slurm's another 60 s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_SIGNAL = re.compile(r"(?:[RB]+:)?[A-Za-z0-9]+(?:@(\d{1,9}))?")
SLURM_DEFAULT_LEAD_S = 60
"""`--signal=USR1` without `@`."""
_MARGIN_S = 10.0
_LAST_SAVES = 8
_SAVES = 3.0
"""A save may take so many times the longest one."""


def save_seconds(events: Sequence[Mapping[str, Any]], figure: str = "save_seconds") -> list[float]:
    """How long the last saves took, oldest first, as a run's journal tells; or another `figure` of them."""
    said = (event.get(figure) for event in events if event.get("kind") == "checkpoint_saved")
    known = [float(item) for item in said if isinstance(item, int | float) and not isinstance(item, bool)]
    return [item for item in known if math.isfinite(item) and item >= 0][-_LAST_SAVES:]


def stop_lead_s(configured_s: float, slice_s: float, saves_s: Sequence[float]) -> float:
    """When to ask the ranks to save and stop, in seconds before the end of a slice of `slice_s` seconds: from the
    measured saves, else as configured. Never more than half of the slice."""
    wanted = 1.5 * max(saves_s) + _MARGIN_S if saves_s else configured_s
    return min(wanted, (0.5 if saves_s else 0.25) * slice_s)


def stop_patience_s(saves_s: Sequence[float], least_s: float = 60.0) -> float:
    """How long ranks that were asked to save and stop are left to it before anybody asks what they are doing."""
    return max(least_s, _SAVES * max(saves_s, default=0.0))


def needed_lead_s(save_s: float) -> float:
    """Seconds before the end at which `--signal` must come for a last save of so many seconds to be complete."""
    return 1.5 * save_s + 60.0


def needed_signal_lead_s(saves_s: Sequence[float]) -> int | None:
    """What `--signal=...@SECONDS` has to be for a script that saves when it gets it; None: nothing was measured."""
    return math.ceil(needed_lead_s(max(saves_s))) if saves_s else None


def signal_lead_s(option: str | None) -> int | None:
    """The seconds of an sbatch `--signal` value; None: there is none, or it is not one."""
    match = _SIGNAL.fullmatch(option.strip()) if option else None
    if match is None:
        return None
    return int(match[1]) if match[1] else SLURM_DEFAULT_LEAD_S


def lead_warning(option: str | None, saves_s: Sequence[float]) -> str:
    """What to say at submission about a lead that is too short; empty: nothing."""
    given, needed = signal_lead_s(option), needed_signal_lead_s(saves_s)
    if given is None or needed is None or given >= needed:
        return ""
    return (
        f"--signal={option} comes {given} s before the end, but saving took up to {max(saves_s):.0f} s the last time: "
        f"give at least @{needed}"
    )


def grace_warning(where: str, grace_s: float, saves_s: Sequence[float]) -> str:
    """What to say at submission where a preempted job ends before its save; empty: nothing. `where`: what is preempted,
    such as `partition main`."""
    longest = max(saves_s, default=0.0)
    if grace_s >= longest:
        return ""
    return (
        f"saving took up to {longest:.0f} s the last time, but a preempted job of {where} has GraceTime={grace_s:g} s: "
        f"ask the site for GraceTime={math.ceil(1.5 * longest)}, or save often enough (sovctl ckpt advise)"
    )
