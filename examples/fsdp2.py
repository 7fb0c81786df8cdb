"""FSDP2: every rank holds a part of the model. Checkpoints are written in the background while training goes on.

srun python fsdp2.py                      # under sovctl: sovctl submit
torchrun --nproc-per-node 4 fsdp2.py      # without Slurm
"""

import sys

import torch
import torch.nn.functional as F
from ddp import BATCH, SEQ, STEPS, batch_of
from torch.distributed.fsdp import fully_shard
from train_lm import LanguageModel, read_text

from sovctl.train import Checkpointer, DataPosition, RunContext, full_mesh


def train(ctx: RunContext) -> int:
    torch.manual_seed(0)
    text = read_text([])
    model = LanguageModel(dim=64, layers=2, seq=SEQ)
    mesh = full_mesh()
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    position = DataPosition(BATCH, ctx.rank, ctx.world_size)
    everything = {
        "model": model,
        "optimizer": optimizer,
        "state": {"scheduler": scheduler, "position": position},
    }
    checkpointer = Checkpointer(ctx, keep=3)
    step = checkpointer.load(**everything)  # 0 on a fresh start
    while step < STEPS:
        with ctx.loading_data():
            tokens = batch_of(text, position)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        step += 1
        ctx.step_done(step, loss)
        if ctx.rank == 0:
            print(f"step {step} loss {loss.item().hex()}", flush=True)
        stop = ctx.stop_requested()
        if stop or step % 20 == 0 or step == STEPS:
            report = checkpointer.save(step, **everything)  # waits for the disk only when a stop was requested
            for lost in report.failed:
                print(f"rank {ctx.rank} knows: no checkpoint of step {lost.step}, {lost.problem}", file=sys.stderr)
        if stop and step < STEPS:
            return ctx.stopped_status
    ctx.finished()
    return 0


if __name__ == "__main__":
    ctx = RunContext.from_env()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    ctx.init_process_group("gloo")
    status = train(ctx)
    ctx.destroy_process_group()
    sys.exit(status)
