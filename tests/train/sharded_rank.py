"""Run as one rank: an FSDP2 model saved and loaded, and a save that fails on rank 1 only."""

from __future__ import annotations

import resource

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from sovctl.train import Checkpointer, RunContext


def trained(seed: int, steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss = model(torch.randn(2, 8)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main() -> None:
    ctx = RunContext.from_env()
    ctx.init_process_group("gloo")
    save_and_load(ctx)
    ctx.destroy_process_group()


def save_and_load(ctx: RunContext) -> None:
    model, optimizer = trained(seed=ctx.rank, steps=2)
    saver = Checkpointer(ctx)
    assert saver.save(1, model=model, optimizer=optimizer, rank_state={"own": {"rank": ctx.rank}})
    expected = [step(model, optimizer) for _ in range(2)]

    own = {"rank": -1}
    model, optimizer = trained(seed=50 + ctx.rank, steps=1)
    path = ctx.checkpoint_dir / "step-1"
    assert saver.load(model=model, optimizer=optimizer, rank_state={"own": own}, path=path) == 1
    assert own == {"rank": ctx.rank}
    assert [step(model, optimizer) for _ in range(2)] == expected

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ctx.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    assert not saver.save(2, model=model)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saver.save(3, model=model)


if __name__ == "__main__":
    main()
