"""HSDP: fully sharded inside a node, data parallel across nodes, with a first tier of checkpoints on each node.

    srun --nodes 2 --ntasks-per-node 2 python hsdp.py       # under sovctl: sovctl submit
    torchrun --nproc-per-node 4 hsdp.py 100 2               # one machine that stands for 2 nodes of 2 ranks

With SOVCTL_LOCAL_CHECKPOINT_DIR=/dev/shm/sovctl a checkpoint is in the memory of the nodes first and on shared
storage a little later; a restart on the same nodes takes the newer one.
"""

import sys

import torch
import torch.nn.functional as F
from ddp import BATCH, SEQ, STEPS, batch_of
from torch.distributed.fsdp import fully_shard
from train_lm import LanguageModel, read_text

from sovctl.train import DataPosition, Loop, RunContext, hybrid_mesh

SHARD = int(sys.argv[2]) if len(sys.argv) > 2 else None  # ranks that share one copy; None: all of a node


def train(ctx: RunContext) -> None:
    torch.manual_seed(0)
    text = read_text([])
    model = LanguageModel(dim=64, layers=2, seq=SEQ)
    mesh = hybrid_mesh(ctx, shard=SHARD)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    position = DataPosition(BATCH, ctx.rank, ctx.world_size)
    loop = Loop(save_every=20, model=model, optimizer=optimizer, state={"position": position}, ctx=ctx)
    while loop.step < STEPS:
        tokens = batch_of(text, position)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if ctx.rank == 0:
            print(f"step {loop.step + 1} loss {loss.item().hex()}", flush=True)
        loop.step_done(loss)
    loop.finish()


if __name__ == "__main__":
    ctx = RunContext.from_env()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    ctx.init_process_group("gloo")
    train(ctx)
    ctx.destroy_process_group()
