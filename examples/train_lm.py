"""Train a small byte-level transformer on real text, on any number of ranks, and survive being interrupted.

    srun python train_lm.py --steps 200          # under sovctl: sovctl submit train.sbatch
    torchrun --nproc-per-node 2 train_lm.py      # without Slurm
    python train_lm.py                           # one process

Four lines make a training script recoverable: they are marked (1) to (4). The rest is an ordinary DDP script, written
so that a run that was interrupted and resumed computes the same losses, bit for bit, as one that was not.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sovctl.train import Checkpointer, Heartbeat, RunContext

LICENSES = Path("/usr/share/common-licenses")  # a few hundred KB of English on every Debian machine
BYTES = 256


class Block(nn.Module):
    """Causal self-attention and a two-layer perceptron, both residual. (batch, seq, dim) -> (batch, seq, dim)"""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.norm2(x))


class LanguageModel(nn.Module):
    """Predicts the next byte. (batch, seq) of bytes -> (batch, seq, 256) of logits"""

    def __init__(self, dim: int, layers: int, seq: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(BYTES, dim), nn.Embedding(seq, dim)
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, BYTES))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.token(tokens) + self.position.weight[: tokens.shape[1]]))


def read_text(files: list[Path]) -> torch.Tensor:
    """All files as one tensor of bytes."""
    files = files or sorted(path for path in LICENSES.iterdir() if path.is_file() and not path.is_symlink())
    return torch.frombuffer(bytearray(b"\n".join(path.read_bytes() for path in files)), dtype=torch.uint8).long()


def batch_of(text: torch.Tensor, step: int, ctx: RunContext, args: argparse.Namespace) -> torch.Tensor:
    """(batch, seq + 1) bytes: a function of step and rank alone, so the position in the data needs no saving."""
    order = torch.Generator().manual_seed(step * ctx.world_size + ctx.rank)
    starts = torch.randint(len(text) - args.seq - 1, (args.batch, 1), generator=order)
    return text[starts + torch.arange(args.seq + 1)]


def main(args: argparse.Namespace) -> int:
    ctx = RunContext.from_env()  # (1) where to resume, whether to stop
    heartbeat = Heartbeat(ctx)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    ctx.init_process_group("gloo")
    status = train(ctx, heartbeat, args)
    ctx.destroy_process_group()
    return status


def train(ctx: RunContext, heartbeat: Heartbeat, args: argparse.Namespace) -> int:
    """Train to the last step or until asked to stop; returns the exit status."""
    text = read_text(args.data)
    # find_unused_parameters keeps the gradient buckets as they are in the first step. Otherwise DDP regroups them
    # after it, and a resumed run would add up the ranks' gradients in another order than one that kept going.
    model = DistributedDataParallel(LanguageModel(args.dim, args.layers, args.seq), find_unused_parameters=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    checkpointer = Checkpointer(ctx, keep=args.keep, heartbeat=heartbeat)
    step = checkpointer.load(model=model, optimizer=optimizer)  # (2) 0 on a fresh start
    while step < args.steps:
        began = time.monotonic()
        tokens = batch_of(text, step, ctx, args)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        heartbeat.beat(step, loss)  # (3) alive, and how far
        report(step, loss.item(), ctx, args)
        crash(step, ctx, args)
        stop = ctx.stop_requested()
        if stop:
            heartbeat.stopping()
        if stop or step % args.save_every == 0 or step == args.steps:
            checkpointer.save(step, model=model, optimizer=optimizer)  # (4)
        if stop and step < args.steps:
            return ctx.stopped_status
        time.sleep(max(0.0, began + args.step_seconds - time.monotonic()))
    heartbeat.finished()
    return 0


def report(step: int, loss: float, ctx: RunContext, args: argparse.Namespace) -> None:
    """Rank 0 prints its loss and appends it, exact to the last bit, to --loss-log."""
    if ctx.rank != 0:
        return
    if step % args.print_every == 0:
        print(f"step {step} loss {loss:.6f}", flush=True)
    if args.loss_log:
        line = {"step": step, "loss": loss, "hex": loss.hex(), "attempt": ctx.attempt}
        with args.loss_log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def crash(step: int, ctx: RunContext, args: argparse.Namespace) -> None:
    """A bug in the user's code, on the last rank."""
    if step == args.crash_at_step and ctx.rank == ctx.world_size - 1 and ctx.attempt < args.crash_attempts:
        raise RuntimeError(f"--crash-at-step {step}: this rank fails on purpose")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help=f"text (default: {LICENSES})")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--keep", type=int, default=3, help="complete checkpoints to keep")
    parser.add_argument("--batch", type=int, default=8, help="sequences a rank and step")
    parser.add_argument("--seq", type=int, default=64, help="bytes a sequence")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-seconds", type=float, default=0.0, help="a step takes at least so long")
    parser.add_argument("--print-every", type=int, default=10)
    parser.add_argument("--loss-log", type=Path, help="rank 0 appends one JSON line a step")
    parser.add_argument("--crash-at-step", type=int, default=0, help="one rank raises an error after this step")
    parser.add_argument("--crash-attempts", type=int, default=1000, help="only in the first K attempts")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(arguments()))
