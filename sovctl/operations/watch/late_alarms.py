"""What was written within the hour: people are told once that a budget is spent, not with every pass or restart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sovctl.recovery.attempts import seconds, text

_HOUR_S = 3600.0
_COUNT = re.compile(r"\b\d+\b")
"""Not the number in a node's name."""


@dataclass(slots=True)
class LateAlarms:
    """Alarms by their words without the counts in them (the same finding on one node more is the same alarm), notes by
    their very words."""

    _at: dict[tuple[str, str], float] = field(default_factory=dict)

    def take(self, events: Sequence[Mapping[str, Any]]) -> None:
        """From a journal."""
        for event in events:
            if event.get("kind") in ("alarm", "noted"):
                self._at[_alike(text(event, "kind"), text(event, "words"))] = seconds(event, "at") or 0.0

    def new(self, words: str, now: float, kind: str = "alarm") -> bool:
        """Whether this one is to be written now; then it counts as written."""
        self._at = {said: at for said, at in self._at.items() if now - at < _HOUR_S}
        alike = _alike(kind, words)
        if alike in self._at:
            return False
        self._at[alike] = now
        return True


def _alike(kind: str, words: str) -> tuple[str, str]:
    return kind, _COUNT.sub("N", words) if kind == "alarm" else words
