"""DDP with a loop of one's own: recoverable by two lines, marked (1) and (2).

srun python ddp.py                        # under sovctl: sovctl submit
torchrun --nproc-per-node 4 ddp.py        # without Slurm
"""

import sys

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from train_lm import LanguageModel, read_text

from sovctl.train import DataPosition, RunContext, recoverable  # (1)

STEPS, BATCH, SEQ = int(sys.argv[1]) if len(sys.argv) > 1 else 100, 16, 64


def batch_of(text: torch.Tensor, position: DataPosition) -> torch.Tensor:
    """(batch of this rank, SEQ + 1) bytes; sample number n is the same piece of text on any number of ranks."""
    starts = [n * 7919 * SEQ % (len(text) - SEQ - 1) for n in position.next_batch()]
    return torch.stack([text[start : start + SEQ + 1] for start in starts])


def train(ctx: RunContext) -> None:
    torch.manual_seed(0)
    text = read_text([])
    model = DistributedDataParallel(LanguageModel(dim=64, layers=2, seq=SEQ), find_unused_parameters=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    position = DataPosition(BATCH, ctx.rank, ctx.world_size)
    for step in recoverable(  # (2)
        STEPS, save_every=20, model=model, optimizer=optimizer, state={"position": position}, ctx=ctx
    ):
        tokens = batch_of(text, position)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if ctx.rank == 0:
            print(f"step {step + 1} loss {loss.item().hex()}", flush=True)


if __name__ == "__main__":
    ctx = RunContext.from_env()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    ctx.init_process_group("gloo")
    train(ctx)
    ctx.destroy_process_group()
