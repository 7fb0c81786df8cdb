"""A journal that a full disk and a storage that hangs do not stop.

Losing a line of the record is bad; losing the run because a line could not be written is worse. What could not be
written is kept in memory, so that this process decides as if it had been.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sovctl.errors import SovctlError
from sovctl.ports.common import Clock, Journal

_TRY_AGAIN_S = 1.0


class TolerantJournal:
    """ports.Journal over another one; says once what is wrong, and again when it works again and fails anew."""

    def __init__(self, journal: Journal, clock: Clock, complain: Callable[[str], None]) -> None:
        self._journal = journal
        self._clock = clock
        self._complain = complain
        self._kept: list[dict[str, Any]] = []
        self._known: list[dict[str, Any]] = []
        self._failing = False

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Write it, or remember it."""
        try:
            record = self._journal.append(kind, **fields)
        except (SovctlError, ValueError) as error:
            self._failed(str(error))
            record = {"seq": 0, "at": self._clock.now(), "kind": kind, **fields}
            self._kept.append(record)
            return record
        self._failing = False
        self._known = [*self._known, record]
        return record

    def events(self) -> list[dict[str, Any]]:
        """What is on disk, and what should be."""
        try:
            self._known = self._journal.events()
            self._drop_written()
        except SovctlError as error:
            self._failed(str(error))
        return [*self._known, *self._kept]

    def read_first(self, patience_s: float) -> list[dict[str, Any]]:
        """What earlier supervisors wrote. An empty record in its place would be another run: its script started a
        second time, its blamed nodes forgotten. Raises SovctlError when it cannot be read for so long."""
        deadline = self._clock.now() + patience_s
        while True:
            try:
                self._known = self._journal.events()
                self._failing = False
                return [*self._known, *self._kept]
            except SovctlError as error:
                if self._clock.now() >= deadline:
                    raise
                self._tell(f"{error}; nothing is done until it can be read")
                self._clock.sleep(_TRY_AGAIN_S)

    def _drop_written(self) -> None:
        """What was late is on disk by now, once the storage is back: it must not count twice."""
        if self._kept:
            written = [_gist(record) for record in self._known if record.get("at", 0.0) >= self._kept[0]["at"] - 60.0]
            self._kept = [record for record in self._kept if _gist(record) not in written]

    def _failed(self, words: str) -> None:
        self._tell(f"{words}; the run goes on without that part of its record")

    def _tell(self, words: str) -> None:
        if not self._failing:
            with suppress(OSError):  # the output is on the same full disk as a rule
                self._complain(words)
        self._failing = True


def _gist(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what the file adds to it, as JSON gives it back."""
    own = {key: value for key, value in record.items() if key not in ("seq", "at")}
    gist: dict[str, Any] = json.loads(json.dumps(own))
    return gist
