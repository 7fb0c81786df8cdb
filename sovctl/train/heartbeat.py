"""One small file a rank, so that the supervisor sees who is up, where each rank is, and who stopped moving."""

from __future__ import annotations

import atexit
import os
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsFloat

from sovctl.model.progress import LONGEST_PROBLEM, Phase, Progress
from sovctl.train.context import RunContext
from sovctl.train.own_time import OwnClock
from sovctl.train.run_directory import PATIENCE_S

_WRITE_INTERVAL_S = 1.0
_SMOOTHING = 0.2
"""Weight of the newest step in `step_seconds`."""


class Heartbeat:
    """Writes `<run_dir>/progress/<rank>`; without a run directory it does nothing.

    A step costs under 20 microseconds; at most once a second another thread writes (temp file + rename), and at each
    change of phase and at exit, for which at most 2 s are waited. A disk that is full, a directory that is gone and a
    file system that hangs are reported once on stderr and never stop the training loop. One thread calls it, but for
    `save_started` and `save_ended`.
    """

    def __init__(self, ctx: RunContext) -> None:
        self._directory = ctx.run_directory
        self._progress = Progress(
            rank=ctx.rank,
            node=ctx.node,
            pid=os.getpid(),
            attempt=ctx.attempt,
            phase=Phase.STARTING,
            started_at=process_started_at(),
        )
        self._loss: SupportsFloat | None = None
        self._saves: dict[str, Any] = {}
        self._compute = OwnClock()
        self._data = OwnClock()
        self._phase_after_saving = Phase.RUNNING
        self._next_write = 0.0
        self._pending = False
        ctx.adopt(self)
        self._write(wait_s=PATIENCE_S)
        atexit.register(self._flush)

    @property
    def progress(self) -> Progress:
        """What the next write says."""
        compute, data = self._compute.own_time(), self._data.own_time()
        return replace(
            self._progress,
            loss=_number(self._loss),
            busy_seconds=compute.seconds if compute else None,
            busy_steps=compute.steps if compute else None,
            busy_spread=compute.spread if compute else None,
            data_seconds=data.seconds if data else None,
            **self._saves,
        )

    @property
    def phase(self) -> Phase:
        """What this rank is doing."""
        return self._progress.phase

    def compute(self) -> AbstractContextManager[object]:
        """`with heartbeat.compute():` around what this rank does by itself in a step: the forward pass, preparing a
        batch; not a collective, and not DDP's `backward`, in which each rank waits for the slowest. A step may have
        several such blocks, not one in another. It is how a slow rank is told from those that wait for it."""
        return self._compute

    def loading_data(self) -> AbstractContextManager[object]:
        """`with heartbeat.loading_data():` around fetching a batch: tells a slow data source from a slow rank."""
        return self._data

    def beat(self, step: int, loss: SupportsFloat | None = None, phase: Phase | str = Phase.RUNNING) -> None:
        """Step `step` is done. `loss` may be a tensor: it is read only when a line is written."""
        now = time.time()
        before = self._progress
        self._loss = _detached(loss)
        first = before.first_step is None
        done = step - before.step if before.step is not None and step > before.step else 1
        self._compute.step_done(done)
        self._data.step_done(done)
        self._progress = replace(
            before,
            phase=Phase(phase),
            step=step,
            step_at=now,
            first_step=step if first else before.first_step,
            first_step_at=now if first else before.first_step_at,
            step_seconds=_smoothed(before, step, now),
        )
        self._changed(at_once=first or before.phase is not self._progress.phase, wait_s=PATIENCE_S)

    def loading(self) -> None:
        """A checkpoint is being read."""
        self._enter(Phase.LOADING)

    def loaded(self, step: int) -> None:
        """The checkpoint of `step` is loaded; 0: there was none, training begins from nothing."""
        self._progress = replace(self._progress, loaded_step=step, loaded_at=time.time())
        self._enter(Phase.RUNNING)

    def saving(self) -> None:
        """Training stands still for a checkpoint."""
        self._phase_after_saving = Phase.STOPPING if self._progress.phase is Phase.STOPPING else Phase.RUNNING
        self._enter(Phase.SAVING, wait_s=0.0)

    def training_again(self) -> None:
        """The training loop goes on, whatever became of the checkpoint."""
        self._enter(self._phase_after_saving, wait_s=0.0)

    def save_started(self, step: int) -> None:
        """The checkpoint of `step` is being written in the background. Any thread may call it."""
        self._saves = {**self._saves, "saving_step": step}
        self._pending = True

    def save_ended(self, step: int, problem: str, *, save_seconds: float, stall_seconds: float) -> None:
        """It is complete on disk, or why not; written at once. Any thread may call it."""
        saves: dict[str, Any] = {
            **self._saves,
            "saving_step": None,
            "save_problem": problem[:LONGEST_PROBLEM] or None,
        }
        if not problem:
            saves.update(saved_step=step, saved_at=time.time(), save_seconds=save_seconds, stall_seconds=stall_seconds)
        self._saves = saves
        self._write(wait_s=0.0)

    def stopping(self) -> None:
        """Leaving because somebody asked."""
        self._enter(Phase.STOPPING)

    def finished(self) -> None:
        """Every step is done."""
        self._enter(Phase.FINISHED)

    def flush(self, timeout_s: float = PATIENCE_S) -> bool:
        """Have the newest line written; returns whether it is after at most so long."""
        return self._write(wait_s=timeout_s)

    def _enter(self, phase: Phase, *, wait_s: float = PATIENCE_S) -> None:
        self._progress = replace(self._progress, phase=phase)
        self._changed(at_once=True, wait_s=wait_s)

    def _changed(self, *, at_once: bool, wait_s: float = 0.0) -> None:
        self._pending = True
        if at_once:
            self._write(wait_s=wait_s)
        elif time.monotonic() >= self._next_write:
            self._write(wait_s=0.0)

    def _flush(self) -> None:
        if self._pending:
            self._write(wait_s=PATIENCE_S)
        elif self._directory:
            self._directory.flush()

    def _write(self, *, wait_s: float) -> bool:
        if self._directory is None:
            return True
        self._next_write = time.monotonic() + _WRITE_INTERVAL_S
        self._pending = False
        return self._directory.post(self._line, wait_s=wait_s)

    def _line(self) -> bytes:
        return self.progress.to_json()


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
