"""What a training script imports.

    from sovctl.train import Checkpointer, Heartbeat, RunContext

    ctx = RunContext.from_env()                 # who am I, where to resume, was I asked to stop
    heartbeat = Heartbeat(ctx)                  # tells the supervisor that this rank is alive, and where it is
    checkpointer = Checkpointer(ctx, heartbeat=heartbeat)
    ctx.init_process_group("nccl")
    step = checkpointer.load(model=model, optimizer=optimizer)
    while step < steps:
        ...
        step += 1
        heartbeat.beat(step, loss)
        stop = ctx.stop_requested()
        if stop or step % 500 == 0:
            checkpointer.save(step, model=model, optimizer=optimizer)
        if stop:
            sys.exit(ctx.stopped_status)        # "run me again"
    heartbeat.finished()
    ctx.destroy_process_group()                 # after model and optimizer are out of scope: see train_lm.py

All of it works without sovctl too: then there is no run directory, nothing to resume, and nobody asks to stop but
a signal. Importing this package does not import torch.
"""

from sovctl.model.progress import FINISHED, STOPPED, Phase
from sovctl.train.checkpointer import Checkpointer, SaveReport
from sovctl.train.context import RunContext
from sovctl.train.heartbeat import Heartbeat

__all__ = ["FINISHED", "STOPPED", "Checkpointer", "Heartbeat", "Phase", "RunContext"]
