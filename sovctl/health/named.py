"""Which nodes a run suspects, from the last events of its record. Pure.

The record is a file of some user: whatever it says, it can only name nodes that the run held, and being named only
means being looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FRESH_S = 900.0
"""An older word is history."""
_AHEAD_S = 60.0
_MOST = 64
_LONGEST = 160
_BLAMING = frozenset({"hardware", "fabric", "unknown"})


@dataclass(frozen=True, slots=True)
class Named:
    """One node that a run suspects."""

    node: str
    seq: int
    at: float
    why: str
    silent: bool = False
    """Its slurmd was silent for the supervisor."""


def named_suspects(events: Sequence[Any], own: Collection[str], now: float) -> tuple[Named, ...]:
    """The newest word about each node in `own`, at most 64."""
    newest: dict[str, Named] = {}
    for event in events:
        if not isinstance(event, Mapping):
            continue
        seq, at = event.get("seq"), event.get("at")
        if type(seq) is not int or not 0 < seq < 2**53:
            continue
        if not isinstance(at, int | float) or not now - FRESH_S < at < now + _AHEAD_S:  # neither NaN nor a huge int
            continue
        why = _words(event.get("evidence"))
        for node in _nodes(event):
            if node in own and (node not in newest or newest[node].seq < seq):
                newest[node] = Named(node, seq, float(at), why, event.get("kind") == "detected")
    return tuple(sorted(newest.values(), key=lambda item: -item.seq)[:_MOST])


def _nodes(event: Mapping[str, Any]) -> list[str]:
    match event.get("kind"):
        case "attempt_ended" if _strings([event.get("culprit")])[:1] and event["culprit"] in _BLAMING:
            return [*_strings(event.get("blamed")), *_strings(event.get("suspects"))]
        case "detected":
            return _strings(event.get("nodes"))
        case "straggler":
            return _strings([event.get("node")])
    return []


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)][:_MOST] if isinstance(value, list) else []


def _words(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    return " ".join("".join(char if char.isprintable() else " " for char in text[:1000]).split())[:_LONGEST]
