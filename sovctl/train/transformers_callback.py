"""For the Trainer of Hugging Face transformers: two lines make a script recoverable.

    callback = transformers_callback()
    trainer = Trainer(..., callbacks=[callback])
    trainer.train(resume_from_checkpoint=callback.resume_from)

Checkpoints are the Trainer's own, in its `output_dir`: name `callback.ctx.checkpoint_dir` there, so that sovctl finds
them. transformers is imported when the callback is made, not before.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from sovctl.train.context import RunContext


def transformers_callback(ctx: RunContext | None = None) -> Any:
    """A `TrainerCallback`.

    It tells the supervisor where each rank is and what was saved; when a stop was requested it has the Trainer save,
    ends the training, and leaves with status 75. `callback.resume_from` is the path for `resume_from_checkpoint`, or
    `None`. Raises ImportError without transformers.
    """
    import transformers

    made = type("SovctlCallback", (TransformersHooks, transformers.TrainerCallback), {})
    return made(ctx or RunContext.from_env())


class TransformersHooks:
    """Between one Trainer and the run it is part of; becomes a callback beside the Trainer's own base class."""

    def __init__(self, ctx: RunContext) -> None:
        self.ctx = ctx
        self.resume_from = str(ctx.resume_from) if ctx.resume_from else None
        self._stopped = False
        self._save_began = 0.0

    def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """The checkpoint is loaded."""
        self.ctx.heartbeat.loaded(state.global_step)

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> Any:
        """One step is done."""
        self.ctx.step_done(state.global_step, _last_loss(state))
        if self.ctx.stop_requested():
            self._stopped = True
            self.ctx.heartbeat.stopping()
            control.should_save = True
            control.should_training_stop = True
        if control.should_save:
            self._save_began = time.monotonic()
            self.ctx.heartbeat.saving()
        return control

    def on_save(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """The Trainer has saved."""
        took = time.monotonic() - self._save_began if self._save_began else 0.0
        self.ctx.heartbeat.training_again()
        self.ctx.heartbeat.save_ended(state.global_step, "", save_seconds=took, stall_seconds=took)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """The loop is over; a run that was stopped says so by its status."""
        if self._stopped:
            sys.exit(self.ctx.stopped_status)
        self.ctx.finished()


def _last_loss(state: Any) -> float | None:
    """The last loss the Trainer logged; it logs every `logging_steps`."""
    for line in reversed(state.log_history[-5:]):
        if "loss" in line:
            return float(line["loss"])
    return None
