"""A message to people who do not look at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SCHEMA = "sovctl.alert/1"


class AlertKind(StrEnum):
    """What it is about; `alerts.kinds` chooses."""

    INCIDENT = "incident"
    """A node was taken out of service, or a failure stopped a run."""
    RUN_HELD = "run-held"
    """A run waits for a person."""
    LIMIT = "limit"
    """A budget is spent: sovctl does no more by itself."""
    SPARES_SHORT = "spares-short"
    RUN_ENDED = "run-ended"
    """A run is over, finished or not."""
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Alert:
    """One message; `key` is the same whenever the same thing is seen again."""

    key: str
    kind: AlertKind
    at: float
    """Seconds since the epoch."""
    what: str
    """One line."""
    where: str
    """Nodes, or the job."""
    cluster: str
    next: str
    """What to type."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"schema": SCHEMA, **asdict(self), "kind": self.kind.value}


def alert_from_record(record: Mapping[str, Any]) -> Alert | None:
    """None: it is not one."""
    try:
        if record["schema"] != SCHEMA:
            return None
        words = {name: str(record[name]) for name in ("key", "what", "where", "cluster", "next")}
        return Alert(kind=AlertKind(record["kind"]), at=float(record["at"]), **words)
    except (KeyError, TypeError, ValueError):
        return None
