"""Messages to people."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from sovctl.model.alert import Alert


class AlertChannel(Protocol):
    """One way out for messages."""

    @property
    def name(self) -> str: ...
    def send(self, subject: str, body: str, record: dict[str, Any]) -> None:
        """Raises SovctlError when it did not get through; returns only when somebody else is in charge of it."""
        ...


@dataclass(frozen=True, slots=True)
class SpooledAlert:
    """A message that waits, and the channels that still have to take it."""

    alert: Alert
    channels: tuple[str, ...]


class AlertSpool(Protocol):
    """Messages on their way, on disk."""

    def turn(self) -> AbstractContextManager[None]:
        """One sender at a time. Raises TryLaterError when another one is at work."""
        ...

    def add(self, alert: Alert, channels: tuple[str, ...]) -> None:
        """The same alert twice is one."""
        ...

    def waiting(self) -> tuple[SpooledAlert, ...]:
        """Oldest first."""
        ...

    def keep(self, item: SpooledAlert) -> None:
        """With its channels as they are now; none left: it is done and goes."""
        ...

    def state(self) -> dict[str, Any]:
        """What the sender saved; empty the first time."""
        ...

    def save_state(self, state: dict[str, Any]) -> None: ...
