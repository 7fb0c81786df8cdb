"""Whether slurmctld's jobs or nodes changed, told by the files it saves them in, without asking it.

slurmctld writes `job_state` and `node_state` at most every 5 s, and only after something changed
(slurmctld_state_save, SAVE_MAX_WAIT; 22.05 to 26.05).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from sovctl.errors import SovctlError

_FILES = ("job_state", "node_state", "part_state")
_ASK_AGAIN_S = 600.0


class StateSave:
    """ports.ChangeMark on StateSaveLocation; on the controller's own machine, or wherever that directory is seen."""

    def __init__(self, settings: Callable[[], Mapping[str, str]]) -> None:
        """`settings`: `scontrol show config`, which names the directory."""
        self._settings = settings
        self._directory = ""
        self._asked = -_ASK_AGAIN_S

    def mark(self) -> tuple[int, ...] | None:
        """Differs from the last one when something changed; None when that cannot be told."""
        self._find()
        if not self._directory:
            return None
        times = []
        for name in _FILES:
            try:
                status = os.stat(f"{self._directory}/{name}")
            except OSError:
                continue
            times += [status.st_ino, status.st_mtime_ns]
        return tuple(times) or None

    def _find(self) -> None:
        now = time.monotonic()
        if now - self._asked < _ASK_AGAIN_S:
            return
        self._asked = now
        try:
            found = self._settings().get("StateSaveLocation", "")
        except SovctlError:
            # Asked again soon: a controller that fails over is back within minutes.
            self._asked = now - _ASK_AGAIN_S + (120.0 if self._directory else 10.0)
            return
        self._directory = found if found.startswith("/") else ""
