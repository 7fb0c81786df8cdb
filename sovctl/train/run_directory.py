"""Everything that touches the run directory, on a thread of its own.

The run directory lies on a shared file system, and one that hangs takes whoever touches it with it, for minutes or
for ever. Training must not be that one: it hands over what is to be written, and looks at what was seen last.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

LOOK_INTERVAL_S = 1.0
PATIENCE_S = 2.0
"""How long a change of phase waits for its line to be written before training goes on without it."""


class RunDirectory:
    """Writes the newest line of one progress file, and looks for one stop file, about once a second.

    Only the newest line counts: one that could not be written yet is replaced by the next. The thread begins with
    the first use and ends with the process. Nothing here raises; what goes wrong is said once on stderr.
    """

    def __init__(self, progress: Path, stop: Path, *, temporary: str = "0") -> None:
        """`temporary` tells the unfinished files of several attempts apart."""
        self._progress = progress
        self._unfinished = progress.with_name(f".{progress.name}.{temporary}.tmp")
        self._stop = stop
        self._changed = threading.Condition()
        self._line: Callable[[], bytes] | None = None
        self._posted = 0
        self._written = 0
        self._watching = False
        self._looked = False
        self._thread: threading.Thread | None = None
        self._warned = False
        self.stop_seen = False
        """Whether the stop file was there. Never taken back."""

    def post(self, line: Callable[[], bytes], *, wait_s: float = 0.0) -> bool:
        """Have a line written; `line` is called on the other thread. Returns whether it is written after `wait_s`."""
        with self._changed:
            self._line = line
            self._posted += 1
            number = self._posted
            self._start()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._written >= number, wait_s) if wait_s > 0 else False

    def watch_stop(self) -> None:
        """From now on look for the stop file. The first call waits for the first look, at most 2 s."""
        if self._watching:
            return
        with self._changed:
            self._watching = True
            self._start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._looked, PATIENCE_S)

    def flush(self, timeout_s: float = PATIENCE_S) -> bool:
        """Wait until what was posted is written; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._written >= self._posted, timeout_s)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sovctl-run-directory", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        next_look = 0.0
        while True:
            with self._changed:
                pause = next_look - time.monotonic() if self._watching and not self.stop_seen else None
                self._changed.wait_for(self._something_to_do, pause)
                line, number, self._line = self._line, self._posted, None
            if line is not None:
                self._write(line)
                with self._changed:
                    self._written = number
                    self._changed.notify_all()
            if self._watching and not self.stop_seen and time.monotonic() >= next_look:
                self._look()
                next_look = time.monotonic() + LOOK_INTERVAL_S

    def _something_to_do(self) -> bool:
        return self._line is not None or (self._watching and not self._looked)

    def _look(self) -> None:
        self.stop_seen = _exists(self._stop)
        if not self._looked:
            with self._changed:
                self._looked = True
                self._changed.notify_all()

    def _write(self, line: Callable[[], bytes]) -> None:
        """Temp file + rename: a reader sees the old line or the new one. Not synced: it is worthless after a crash."""
        try:
            self._progress.parent.mkdir(parents=True, exist_ok=True)
            self._unfinished.write_bytes(line())
            self._unfinished.replace(self._progress)
        except OSError as error:
            self._warn(error.strerror or str(error))

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            with contextlib.suppress(OSError):
                sys.stderr.write(f"sovctl: cannot write {self._progress}: {why}; training goes on unobserved\n")


def _exists(path: Path) -> bool:
    """Whether it is there; a run directory that cannot be read asks for nothing."""
    try:
        return path.exists()
    except OSError:
        return False
