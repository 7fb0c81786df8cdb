"""Alarms that were written within the hour: people are told once that a budget is spent, not with every pass."""

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
    """By their words without the counts in them: the same finding on one node more is the same alarm."""

    _at: dict[str, float] = field(default_factory=dict)

    def take(self, events: Sequence[Mapping[str, Any]]) -> None:
        """From a journal."""
        for event in events:
            if event.get("kind") == "alarm":
                self._at[_COUNT.sub("N", text(event, "words"))] = seconds(event, "at") or 0.0

    def new(self, words: str, now: float) -> bool:
        """Whether this one is to be written now; then it counts as written."""
        self._at = {said: at for said, at in self._at.items() if now - at < _HOUR_S}
        alike = _COUNT.sub("N", words)
        if alike in self._at:
            return False
        self._at[alike] = now
        return True
