"""Messages on their way: one small file each, so that none is lost while the receiver is away."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sovctl.adapters.journal import lock
from sovctl.errors import SovctlError
from sovctl.model.alert import Alert, alert_from_record
from sovctl.ports.alerts import SpooledAlert

_LIMIT = 64 << 10
_MOST = 5000
"""Messages that wait at most: a receiver that is away for a week must not fill the disk."""


class AlertSpoolFiles:
    """Implements ports.AlertSpool."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One sender at a time. Raises TryLaterError, SovctlError."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._directory / "lock", flags, 0o600)
        except OSError as error:
            raise _unusable(self._directory, error) from error
        try:
            with lock(descriptor, self._directory / "lock", 0.0):
                yield
        finally:
            os.close(descriptor)

    def add(self, alert: Alert, channels: tuple[str, ...]) -> None:
        """The same alert twice is one. Raises SovctlError."""
        path = self._path(alert.key)
        if not path.exists() and sum(1 for _ in self._directory.glob("a-*.json")) < _MOST:
            self._write(path, {"alert": alert.record(), "channels": list(channels)})

    def waiting(self) -> tuple[SpooledAlert, ...]:
        """Oldest first; a file that is no message is passed over."""
        found = []
        for path in self._directory.glob("a-*.json"):
            record = _read(path)
            alert = alert_from_record(record.get("alert") or {}) if isinstance(record.get("alert"), dict) else None
            channels = record.get("channels")
            if alert is not None and isinstance(channels, list):
                found.append(SpooledAlert(alert, tuple(name for name in channels if isinstance(name, str))))
        return tuple(sorted(found, key=lambda item: (item.alert.at, item.alert.key)))

    def keep(self, item: SpooledAlert) -> None:
        """With the channels that are still to get it; none left: it is done. Raises SovctlError."""
        path = self._path(item.alert.key)
        if item.channels:
            self._write(path, {"alert": item.alert.record(), "channels": list(item.channels)})
            return
        with suppress(FileNotFoundError):
            path.unlink()

    def state(self) -> dict[str, Any]:
        """What the sender remembers."""
        return _read(self._directory / "state.json")

    def save_state(self, state: dict[str, Any]) -> None:
        """Raises SovctlError."""
        self._write(self._directory / "state.json", state)

    def _path(self, key: str) -> Path:
        return self._directory / f"a-{hashlib.sha256(key.encode('utf-8', 'backslashreplace')).hexdigest()[:24]}.json"

    def _write(self, path: Path, record: dict[str, Any]) -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with fresh.open("w", encoding="utf-8") as file:
                file.write(json.dumps(record))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise _unusable(self._directory, error) from error


def _unusable(directory: Path, error: OSError) -> SovctlError:
    words = f"cannot keep alerts in {directory}: {error.strerror or error}"
    return SovctlError(words, hint=f"Check free space and the owner: df -h {directory}; ls -ld {directory}")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(_LIMIT * 16))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
