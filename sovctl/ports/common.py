"""Time, journals, work beside a loop: what every operation may need."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar


class Clock(Protocol):
    """Seconds since the epoch, and a wait that tests can skip."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class ChangeMark(Protocol):
    """Tells cheaply whether anything changed in Slurm."""

    def mark(self) -> tuple[int, ...] | None:
        """Differs from the last one when something changed; None when that cannot be told."""
        ...


Answer = TypeVar("Answer", covariant=True)


class Pending(Protocol[Answer]):
    """Work that goes on beside a loop."""

    @property
    def done(self) -> bool: ...
    def result(self) -> Answer:
        """Waits until it is done. Raises SovctlError."""
        ...


class Beside(Protocol):
    """Starts work beside a loop that must not stand still."""

    def __call__(self, work: Callable[[], Any]) -> Pending[Any]: ...


class Turn(Protocol):
    """One actor of the whole cluster at a time, as far as the shared file system allows."""

    def take(self) -> AbstractContextManager[None]: ...


class Journal(Protocol):
    """Append-only record with one writer; what is returned from `append` is on disk."""

    def append(self, kind: str, **fields: Any) -> dict[str, Any]: ...
    def events(self) -> list[dict[str, Any]]: ...


class AskStorage(Protocol):
    """Has something done that touches a storage which may hang."""

    def __call__(
        self,
        work: Callable[[], Any],
        *,
        patience_s: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        """What `work` returns. Raises StorageSilent after `patience_s`, None: a few seconds. `meanwhile`: done once a
        second until then; what it raises ends the waiting."""
        ...
