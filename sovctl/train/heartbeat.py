"""One small file a rank, so that the supervisor sees who is up, where each rank is, and who stopped moving."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import SupportsFloat

from sovctl.model.progress import Phase, Progress
from sovctl.train.context import RunContext

_WRITE_INTERVAL_S = 1.0
_SMOOTHING = 0.2
"""Weight of the newest step in `step_seconds`."""


class Heartbeat:
    """Writes `<run_dir>/progress/<rank>`; without a run directory it does nothing.

    A call costs under 10 microseconds; at most one a second writes (temp file + rename, 0.3 ms on a local disk),
    plus one at each change of phase and one at exit. A disk that is full or a directory that cannot be written is
    reported once on stderr and never reaches the training loop.
    """

    def __init__(self, ctx: RunContext) -> None:
        self._path = ctx.run_dir / "progress" / str(ctx.rank) if ctx.run_dir else None
        self._progress = Progress(
            rank=ctx.rank,
            node=ctx.node,
            pid=os.getpid(),
            attempt=ctx.attempt,
            phase=Phase.STARTING,
            started_at=process_started_at(),
        )
        self._loss: SupportsFloat | None = None
        self._phase_after_saving = Phase.RUNNING
        self._next_write = 0.0
        self._warned = False
        self._pending = False
        self._write()
        atexit.register(self._flush)

    @property
    def progress(self) -> Progress:
        """What the next write says."""
        return replace(self._progress, loss=_number(self._loss))

    def beat(self, step: int, loss: SupportsFloat | None = None, phase: Phase | str = Phase.RUNNING) -> None:
        """Step `step` is done. `loss` may be a tensor: it is read only when a line is written."""
        now = time.time()
        before = self._progress
        self._loss = _detached(loss)
        first = before.first_step is None
        self._progress = replace(
            before,
            phase=Phase(phase),
            step=step,
            step_at=now,
            first_step=step if first else before.first_step,
            first_step_at=now if first else before.first_step_at,
            step_seconds=_smoothed(before, step, now),
        )
        self._changed(at_once=first or before.phase is not self._progress.phase)

    def loading(self) -> None:
        """A checkpoint is being read."""
        self._enter(Phase.LOADING)

    def loaded(self, step: int) -> None:
        """The checkpoint of `step` is loaded; 0: there was none, training begins from nothing."""
        self._progress = replace(self._progress, loaded_step=step, loaded_at=time.time())
        self._enter(Phase.RUNNING)

    def saving(self) -> None:
        """A checkpoint is being written."""
        self._phase_after_saving = Phase.STOPPING if self._progress.phase is Phase.STOPPING else Phase.RUNNING
        self._enter(Phase.SAVING)

    def saved(self, step: int | None) -> None:
        """The checkpoint of `step` is complete on disk; `None`: it could not be written."""
        if step is not None:
            self._progress = replace(self._progress, saved_step=step, saved_at=time.time())
        self._enter(self._phase_after_saving)

    def stopping(self) -> None:
        """Leaving because somebody asked."""
        self._enter(Phase.STOPPING)

    def finished(self) -> None:
        """Every step is done."""
        self._enter(Phase.FINISHED)

    def _enter(self, phase: Phase) -> None:
        self._progress = replace(self._progress, phase=phase)
        self._changed(at_once=True)

    def _changed(self, *, at_once: bool) -> None:
        self._pending = True
        if at_once or time.monotonic() >= self._next_write:
            self._write()

    def _flush(self) -> None:
        if self._pending:
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        self._next_write = time.monotonic() + _WRITE_INTERVAL_S
        self._pending = False
        try:
            _replace_file(self._path, self.progress.to_json(), self._progress.attempt)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            with contextlib.suppress(OSError):
                text = f"sovctl: cannot write {self._path}: {error.strerror or error}; training goes on unobserved\n"
                sys.stderr.write(text)


def process_started_at() -> float:
    """Seconds since the epoch when this process began, to about 10 ms; now, where the kernel does not tell."""
    now = time.time()
    try:
        ticks = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_bytes().split()[0])
    except (OSError, ValueError, IndexError):
        return now
    age_s = uptime_s - ticks / os.sysconf("SC_CLK_TCK")
    return now - max(age_s, 0.0)


def _replace_file(path: Path, data: bytes, attempt: int) -> None:
    """Temp file + rename: a reader sees the old line or the new one. Not synced: it is worthless after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{attempt}.tmp")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def _smoothed(before: Progress, step: int, now: float) -> float | None:
    """The step time after one more step; steps between two beats share the time between them."""
    if before.step is None or before.step_at is None or step <= before.step:
        return before.step_seconds
    newest = (now - before.step_at) / (step - before.step)
    if before.step_seconds is None:
        return newest
    return before.step_seconds + _SMOOTHING * (newest - before.step_seconds)


def _detached(loss: SupportsFloat | None) -> SupportsFloat | None:
    """Keep the value of a tensor, not the graph behind it."""
    value: SupportsFloat | None = loss.detach() if loss is not None and hasattr(loss, "detach") else loss
    return value


def _number(loss: SupportsFloat | None) -> float | None:
    """The loss as a number; whatever is none must not stop a training run at a random later step."""
    try:
        return None if loss is None else float(loss)
    except (TypeError, ValueError, RuntimeError):
        return None
