"""A loop of one's own made recoverable in one line, for scripts without a framework."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat

from sovctl.train.checkpointer import Checkpointer, SaveReport
from sovctl.train.context import RunContext

if TYPE_CHECKING:
    from torch import nn, optim


class Loop:
    """Loads when made; `step_done` after each step does the rest: heartbeat, saving when due, leaving when asked.

    The process group, where there is one, must be there before.
    """

    def __init__(
        self,
        *,
        save_every: int,
        model: nn.Module | None = None,
        optimizer: optim.Optimizer | None = None,
        state: Mapping[str, Any] | None = None,
        rank_state: Mapping[str, Any] | None = None,
        checkpointer: Checkpointer | None = None,
        ctx: RunContext | None = None,
    ) -> None:
        """`save_every`: steps between checkpoints (>= 1). What is saved is as in `Checkpointer.save`. Collective.
        Raises ValueError, CheckpointIncomplete, CheckpointUnloadable.
        """
        if save_every < 1:
            raise ValueError(f"save_every must be at least 1, not {save_every}")
        self.ctx = ctx or RunContext.from_env()
        self.checkpointer = checkpointer or Checkpointer(self.ctx)
        self._save_every = save_every
        self._parts: dict[str, Any] = {
            "model": model, "optimizer": optimizer, "state": state, "rank_state": rank_state
        }  # fmt: skip
        self.step = self.checkpointer.load(**self._parts)
        """Steps that are done, those of earlier attempts included."""
        self._saved = self.step

    def step_done(self, loss: SupportsFloat | None = None) -> SaveReport | None:
        """One more step is done; returns what a save said, when one was due.

        When a stop was requested, saves, waits for it, and ends the process with status 75 ("run me again").
        Every rank calls it equally often.
        """
        self.step += 1
        self.ctx.step_done(self.step, loss)
        stop = self.ctx.stop_requested()
        report = self.save() if stop or self.step % self._save_every == 0 else None
        if stop:
            self.ctx.heartbeat.stopping()
            self.checkpointer.close()
            sys.exit(self.ctx.stopped_status)
        return report

    def save(self) -> SaveReport:
        """Save now."""
        self._saved = self.step
        return self.checkpointer.save(self.step, **self._parts)

    def finish(self) -> None:
        """Every step is done: save the last one if it is not saved, and wait for it."""
        if self.step > self._saved:
            self.save()
        self.ctx.finished()
        self.checkpointer.close()


def recoverable(
    steps: int,
    *,
    save_every: int,
    model: nn.Module | None = None,
    optimizer: optim.Optimizer | None = None,
    state: Mapping[str, Any] | None = None,
    rank_state: Mapping[str, Any] | None = None,
    checkpointer: Checkpointer | None = None,
    ctx: RunContext | None = None,
) -> Iterator[int]:
    """`range(steps)` that survives: begins after the last checkpoint, saves every `save_every` steps and at the end.

        for step in recoverable(steps, save_every=500, model=model, optimizer=optimizer):

    The body of the loop is one training step; do not leave it with `break`. When a stop was requested, the process
    ends after the step with status 75, its checkpoint complete. See `Loop` for the rest.
    """
    loop = Loop(
        save_every=save_every,
        model=model,
        optimizer=optimizer,
        state=state,
        rank_state=rank_state,
        checkpointer=checkpointer,
        ctx=ctx,
    )
    while loop.step < steps:
        yield loop.step
        loop.step_done()
    loop.finish()
