"""For Lightning: two lines make a script recoverable.

    callback = lightning_callback()
    trainer = Trainer(callbacks=[callback], ...)
    trainer.fit(model, ckpt_path=callback.resume_from)

Checkpoints are Lightning's own files. Lightning is imported when the callback is made, not before.
"""

from __future__ import annotations

import sys
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
    base = _callback_class()

    class SovctlCallback(base):  # type: ignore[misc, valid-type]
        """Between one Trainer and the run it is part of."""

        def __init__(self) -> None:
            self.ctx = ctx or RunContext.from_env()
            self.resume_from = str(self.ctx.resume_from) if self.ctx.resume_from else None
            self._step = -1
            self._computing: Any = None
            self._fetching: Any = None
            self._stopped = False

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            environment = getattr(getattr(trainer, "strategy", None), "cluster_environment", None)
            if getattr(environment, "auto_requeue", False):
                environment.auto_requeue = False

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            take_stop_signals()  # Lightning's own handler would end the loop before anything is saved
            self._step = trainer.global_step
            self.ctx.heartbeat.loaded(trainer.global_step)

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self._fetching = _left(self._fetching)
            self._computing = _entered(self.ctx.compute())

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
            self._computing = _left(self._computing)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self._computing = _left(self._computing)
            if trainer.global_step != self._step:  # not in the middle of accumulated gradients
                self._step = trainer.global_step
                self.ctx.step_done(self._step, _loss_of(outputs))
                due = save_every is not None and self._step % save_every == 0
                if self.ctx.stop_requested():
                    self._stop(trainer)
                elif due:
                    self._save(trainer)
            self._fetching = _entered(self.ctx.loading_data())

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self._fetching = _left(self._fetching)

        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
            self.ctx.heartbeat.saving()

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            if self._stopped:
                sys.exit(self.ctx.stopped_status)
            self.ctx.finished()

        def _stop(self, trainer: Any) -> None:
            self._stopped = True
            self.ctx.heartbeat.stopping()
            self._save(trainer)
            trainer.should_stop = True

        def _save(self, trainer: Any) -> None:
            """Collective under sharded strategies; Lightning writes aside and renames. OSError costs this one only."""
            name = f"epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt"
            problem = ""
            try:
                trainer.save_checkpoint(self.ctx.checkpoint_dir / name)
            except OSError as error:
                problem = error.strerror or str(error)
                sys.stderr.write(f"sovctl: {name} was not saved: {problem}; training goes on\n")
            self.ctx.heartbeat.training_again()
            self.ctx.heartbeat.save_ended(trainer.global_step, problem, save_seconds=0.0, stall_seconds=0.0)

    return SovctlCallback()


def _callback_class() -> Any:
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning import Callback
    else:
        from lightning.pytorch import Callback
    return Callback


def _entered(block: Any) -> Any:
    block.__enter__()
    return block


def _left(block: Any) -> None:
    if block is not None:
        block.__exit__(None, None, None)


def _loss_of(outputs: Any) -> Any:
    return outputs.get("loss") if isinstance(outputs, dict) else outputs
