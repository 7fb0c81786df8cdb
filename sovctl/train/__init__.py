"""What a training script imports.

    from sovctl.train import Checkpointer, RunContext

    ctx = RunContext.from_env()                 # who am I, where to resume, was I asked to stop
    ctx.init_process_group("nccl")
    checkpointer = Checkpointer(ctx)
    step = checkpointer.load(model=model, optimizer=optimizer)
    while step < steps:
        ...
        step += 1
        ctx.step_done(step, loss)               # tells the supervisor that this rank is alive, and where it is
        stop = ctx.stop_requested()
        if stop or step % 500 == 0:
            checkpointer.save(step, model=model, optimizer=optimizer)
        if stop:
            sys.exit(ctx.stopped_status)        # "run me again"
    ctx.finished()
    ctx.destroy_process_group()                 # after model and optimizer are out of scope: see train_lm.py

All of it works without sovctl too: then there is no run directory, nothing to resume, and nobody asks to stop but
a signal. Importing this package does not import torch. `docs/training.md` is the user's page.
"""

from sovctl.model.progress import FINISHED, STOPPED, Phase
from sovctl.train.background import SaveOutcome
from sovctl.train.checkpointer import Checkpointer, SaveReport
from sovctl.train.context import RunContext
from sovctl.train.data_position import DataPosition
from sovctl.train.heartbeat import Heartbeat
from sovctl.train.lightning_callback import lightning_callback
from sovctl.train.loop import Loop, recoverable
from sovctl.train.mesh import data_rank, full_mesh, hybrid_mesh
from sovctl.train.transformers_callback import transformers_callback

__all__ = [
    "FINISHED",
    "STOPPED",
    "Checkpointer",
    "DataPosition",
    "Heartbeat",
    "Loop",
    "Phase",
    "RunContext",
    "SaveOutcome",
    "SaveReport",
    "data_rank",
    "full_mesh",
    "hybrid_mesh",
    "lightning_callback",
    "recoverable",
    "transformers_callback",
]
