"""How often nodes were taken out of service and how long they were away, from the cluster journal. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_OUT = frozenset({"drain-done", "down-done"})
_SAME_S = 3600.0
"""Two incidents of a node within an hour are one failure: a drain for what then killed it."""
_FEW = 3
"""Fewer repairs than this say nothing about the next."""


@dataclass(frozen=True, slots=True)
class Outages:
    """What the journal tells."""

    failures: int
    observed_s: float
    """From the first entry until now."""
    repairs: int
    """Ended ones among them."""
    repair_s: float | None
    """Mean; None: too few ended to say."""


def outages(events: Iterable[Mapping[str, Any]], out_now: Collection[str], now: float) -> Outages:
    """Count failures and repairs. What a person drained is no failure.

    `out_now`: nodes that are out of service. One that is in service again without an entry was given back past
    sovctl, nobody knows when: it counts as a failure and not as a repair. Repairs that still go on count with their
    time so far (the mean is the time away over the repairs that ended, as for any censored waiting time).
    """
    known = sorted(
        (event for event in events if isinstance(event.get("at"), int | float)), key=lambda event: float(event["at"])
    )
    began: dict[str, float] = {}
    failures, ended, away_s = 0, 0, 0.0
    for event in known:
        node, at = event.get("node"), float(event["at"])
        if not isinstance(node, str):
            continue
        if event.get("kind") in _OUT and "by" not in event:
            if at - began.get(node, float("-inf")) > _SAME_S:
                failures += 1
                began[node] = at
        elif event.get("kind") == "resume-done" and node in began:
            ended, away_s = ended + 1, away_s + at - began.pop(node)
    away_s += sum(now - at for node, at in began.items() if node in out_now)
    observed_s = max(0.0, now - float(known[0]["at"])) if known else 0.0
    return Outages(failures, observed_s, ended, away_s / ended if ended >= _FEW else None)
