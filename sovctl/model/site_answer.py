"""What the site found when it checked a node that a run suspected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SCHEMA = "sovctl.suspects/1"
_LONGEST = 300


class SiteWord(StrEnum):
    """What the check on the node said."""

    FAILED = "failed"
    CLEARED = "cleared"
    UNKNOWN = "unknown"
    """The node was not heard, or could not judge itself."""


@dataclass(frozen=True, slots=True)
class SiteAnswer:
    """One node."""

    node: str
    state: SiteWord
    checked_at: float
    """Seconds since the epoch."""
    seq: int
    """Of the run's event that named the node."""
    words: str = ""
    drained: bool = False
    """It is out of service now."""

    @property
    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "node": self.node,
            "state": str(self.state),
            "checked_at": self.checked_at,
            "seq": self.seq,
            "words": self.words[:_LONGEST],
            "drained": self.drained,
        }


def answers_from_record(record: Any) -> tuple[SiteAnswer, ...]:
    """Every answer in the JSON of a file; what is not one is passed over."""
    found = record.get("nodes") if isinstance(record, Mapping) and record.get("schema") == SCHEMA else None
    return tuple(filter(None, map(_answer, found if isinstance(found, list) else ())))


def _answer(item: Any) -> SiteAnswer | None:
    if not isinstance(item, Mapping) or item.get("state") not in [*SiteWord]:
        return None
    node, at, seq, words = item.get("node"), item.get("checked_at"), item.get("seq"), item.get("words", "")
    if not isinstance(node, str) or type(seq) is not int or not isinstance(words, str):
        return None
    if not isinstance(at, int | float) or not math.isfinite(at):
        return None
    return SiteAnswer(node, SiteWord(item["state"]), float(at), seq, words[:_LONGEST], item.get("drained") is True)
