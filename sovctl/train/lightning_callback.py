"""For Lightning: two lines make a script recoverable.

    callback = lightning_callback()
    trainer = Trainer(callbacks=[callback], ...)
    trainer.fit(model, ckpt_path=callback.resume_from)

Checkpoints are Lightning's own files. Lightning is imported when the callback is made, not before.
"""

from __future__ import annotations

import importlib
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from sovctl.train.context import RunContext, take_stop_signals


def lightning_callback(ctx: RunContext | None = None, *, save_every: int | None = None) -> Any:
    """A `Callback` for a Trainer of `lightning.pytorch`, or of `pytorch_lightning` where the script uses that.

    It tells the supervisor where each rank is, what the forward pass and the data cost it, saves and leaves with
    status 75 when a stop was requested, and turns Lightning's own requeueing under Slurm off: two owners of a job
    requeue it twice. `save_every`: also save every so many steps, into `ctx.checkpoint_dir`; `None`: leave that to
    your ModelCheckpoint. `callback.resume_from` is the path for `ckpt_path`, or `None`.
    Raises ImportError without Lightning.
    """
    made = type("SovctlCallback", (LightningHooks, _callback_class()), {})
    return made(ctx or RunContext.from_env(), save_every)


class LightningHooks:
    """Between one Trainer and the run it is part of; becomes a callback beside Lightning's own base class."""

    def __init__(self, ctx: RunContext, save_every: int | None) -> None:
        self.ctx = ctx
        self.resume_from = str(ctx.resume_from) if ctx.resume_from else None
        self._save_every = save_every
        self._step = -1
        self._open: AbstractContextManager[object] | None = None
        self._stopped = False

    def setup(self, trainer: Any, *_: Any, **__: Any) -> None:
        """Before Lightning looks whether to handle signals and to requeue."""
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if environment is not None and getattr(environment, "auto_requeue", False):
            environment.auto_requeue = False

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        """The checkpoint is loaded."""
        take_stop_signals()  # Lightning's own handler would end the loop before anything is saved
        self._step = trainer.global_step
        self.ctx.heartbeat.loaded(trainer.global_step)

    def on_train_batch_start(self, *_: Any) -> None:
        """The batch is there; the forward pass begins."""
        self._measure(self.ctx.compute())

    def on_before_backward(self, *_: Any) -> None:
        """The forward pass is over; from here on ranks wait for each other."""
        self._measure(None)

    def on_train_batch_end(self, trainer: Any, _: Any, outputs: Any, *__: Any) -> None:
        """One batch is done; one step too, but in the middle of accumulated gradients."""
        self._measure(None)
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._step_done(trainer, outputs)
        self._measure(self.ctx.loading_data())

    def on_train_epoch_end(self, *_: Any) -> None:
        """No more batches for now."""
        self._measure(None)

    def on_save_checkpoint(self, *_: Any) -> None:
        """Lightning saves, for us or for itself."""
        self.ctx.heartbeat.saving()

    def on_fit_end(self, *_: Any) -> None:
        """The loop is over; a run that was stopped says so by its status."""
        if self._stopped:
            sys.exit(self.ctx.stopped_status)
        self.ctx.finished()

    def _step_done(self, trainer: Any, outputs: Any) -> None:
        self.ctx.step_done(self._step, outputs.get("loss") if isinstance(outputs, dict) else outputs)
        if self.ctx.stop_requested():
            self._stopped = True
            self.ctx.heartbeat.stopping()
            self._save(trainer)
            # Lightning trains on until it has done so many, whatever asks it to stop.
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
            trainer.should_stop = True
        elif self._save_every is not None and self._step % self._save_every == 0:
            self._save(trainer)

    def _save(self, trainer: Any) -> None:
        """Lightning writes aside and renames. A full disk costs this one only where rank 0 alone writes; where all do,
        the others wait for what this rank was to send, so it is an error. Raises OSError."""
        name = f"epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt"
        problem, began = "", time.monotonic()
        try:
            trainer.save_checkpoint(self.ctx.checkpoint_dir / name)
        except OSError as error:
            if not _rank_0_writes(trainer.strategy):
                raise
            problem = error.strerror or str(error)
            sys.stderr.write(f"sovctl: {name} was not saved: {problem}; training goes on\n")
            trainer.strategy.barrier("Trainer.save_checkpoint")  # the others wait there, right after their part
        took = time.monotonic() - began
        self.ctx.heartbeat.training_again()
        self.ctx.heartbeat.save_ended(trainer.global_step, problem, save_seconds=took, stall_seconds=took)

    def _measure(self, block: AbstractContextManager[object] | None) -> None:
        """End what is being timed, and begin something else."""
        if self._open is not None:
            self._open.__exit__(None, None, None)
        self._open = block
        if block is not None:
            block.__enter__()


def _callback_class() -> Any:
    return _library().Callback


def _rank_0_writes(strategy: Any) -> bool:
    """Sharded strategies have a way of their own to save."""
    return type(strategy).save_checkpoint is _library().strategies.Strategy.save_checkpoint


def _library() -> Any:
    name = "lightning.pytorch"
    if "pytorch_lightning" in sys.modules and name not in sys.modules:
        name = "pytorch_lightning"
    return importlib.import_module(name)
