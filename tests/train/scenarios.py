"""What the ranks of a test do. Each function runs in its own processes, see rank_server.py."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from sovctl.train import Checkpointer, DataPosition, RunContext, data_rank, full_mesh, hybrid_mesh, save_job
from sovctl.train.side_groups import BACKGROUND, CONTROL, SideGroup

WIDTH, BATCH = 16, 8


def started() -> RunContext:
    torch.set_num_threads(1)
    ctx = RunContext.from_env()
    ctx.init_process_group("gloo")
    return ctx


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.Linear(WIDTH, 3))


def parallel(kind: str, shard: int, seed: int = 0) -> nn.Module:
    """`ddp`, `fsdp` over all ranks, or `hsdp` with groups of `shard` ranks."""
    model = network(seed)
    if kind == "plain":
        return model
    if kind == "ddp":
        return DistributedDataParallel(model, find_unused_parameters=True)
    mesh = hybrid_mesh(shard=shard) if kind == "hsdp" else None
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def batch(position: DataPosition) -> tuple[torch.Tensor, torch.Tensor]:
    """A function of the numbers of the samples alone: the same data on any number of ranks."""
    rows = [torch.randn(WIDTH, generator=torch.Generator().manual_seed(number)) for number in position.next_batch()]
    inputs = torch.stack(rows)
    return inputs, inputs[:, :3].sin()


def train(kind: str, steps: int, out: str, save_at: int = 0, load: bool = False, noisy: bool = True) -> None:
    """Train to `steps`, save once, and write the losses of all steps as hex. `noisy`: with each rank's own noise."""
    ctx = started()
    losses = _train(ctx, kind, steps, save_at, load, noisy)
    if ctx.rank == 0:
        Path(out).write_text(json.dumps(losses))
    ctx.destroy_process_group()


def _train(ctx: RunContext, kind: str, steps: int, save_at: int, load: bool, noisy: bool) -> dict[int, str]:
    model = parallel(kind, 2, seed=77 if load else 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    position = DataPosition(BATCH, ctx.rank, ctx.world_size)
    own = {"rank": ctx.rank}
    saver = Checkpointer(ctx)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
    parts["state"] = {"scheduler": scheduler, "position": position}
    parts["rank_state"] = {"own": own}
    step = saver.load(**parts)
    assert bool(step) == load
    assert own == {"rank": ctx.rank}
    losses = {}
    while step < steps:
        inputs, wanted = batch(position)
        if noisy:  # the random numbers of every rank are part of the loss
            inputs = inputs + 0.01 * torch.rand(1)
        loss = F.mse_loss(model(inputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        step += 1
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        losses[step] = (mean / ctx.world_size).item().hex()
        ctx.step_done(step, loss)
        if step == save_at:
            assert saver.save(step, **parts)
    return losses


def a_failure_is_told_on_every_rank() -> None:
    ctx = started()
    saver = Checkpointer(ctx)
    model = parallel("fsdp", 2)
    assert saver.save(1, model=model)
    assert saver.wait() == ()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ctx.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    assert saver.save(2, model=model), "nobody knows yet"
    saver._writer.wait_until(0)
    now = saver.save(20, model=model, wait=True)
    assert not now
    assert (now.complete, "File too large" in now.problem) == (False, True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(one.step, "File too large" in one.problem) for one in now.failed] == [(2, True)]
    report = saver.save(3, model=model)
    assert report.failed == ()
    assert saver.wait() == ()
    assert saver.save(4, model=model).failed == ()
    progress = ctx.heartbeat.progress
    assert progress.saved_step == 3 or progress.saving_step == 4
    ctx.destroy_process_group()
    assert ctx.heartbeat.progress.saved_step == 4


def a_lost_connection_costs_one_checkpoint() -> None:
    """A link that flaps, or a firewall that forgets, closes what the background's ranks talk over."""
    ctx = started()
    SideGroup(CONTROL).everyone(None)
    before = _sockets()
    SideGroup(BACKGROUND).everyone(None)
    its_own = [number for what, number in _sockets().items() if what not in before]
    saver = Checkpointer(ctx)
    model = parallel("ddp", 2)
    assert saver.save(1, model=model, wait=True).complete
    if ctx.rank == 1:
        for number in its_own:
            with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
                connection.getpeername()  # not the one that listens, which is of all groups
                connection.shutdown(socket.SHUT_RDWR)
    lost = saver.save(2, model=model, wait=True)
    assert "the ranks lost each other" in lost.problem
    assert not (ctx.checkpoint_dir / "step-2").exists()
    assert saver.save(3, model=model, wait=True).complete
    assert saver.save(4, model=model)
    assert saver.wait() == ()
    ctx.destroy_process_group()


def _sockets() -> dict[str, int]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[os.readlink(f"/proc/self/fd/{name}")] = int(name)
    return {what: number for what, number in found.items() if what.startswith("socket:")}


def what_one_rank_cannot_copy_stops_all() -> None:
    ctx = started()
    saver = Checkpointer(ctx)
    bad = {"bad": {"lambda": (lambda: None) if ctx.rank == 1 else 1}}
    try:
        saver.save(1, rank_state=bad)
    except BaseException as error:
        words = str(error)
    assert ("lambda" in words) if ctx.rank == 1 else ("another rank" in words), words
    assert saver.save(2, wait=True)
    ctx.destroy_process_group()


def fail_while_saving() -> None:
    ctx = started()
    Checkpointer(ctx).save(1, state={"value": torch.ones(3_000_000)})
    raise ValueError("a bug")


def back_pressure(in_flight: int) -> None:
    """Storage that takes as long as the test wants."""
    ctx = started()
    gate, began = threading.Event(), threading.Event()
    write = save_job.RankWriter.write

    def slow(self: Any, plan: Any, staged: Any) -> Any:
        began.set()
        gate.wait()
        return write(self, plan, staged)

    save_job.RankWriter.write = slow  # type: ignore[method-assign]
    saver = Checkpointer(ctx, keep=None, in_flight=in_flight)
    value = torch.zeros(4)
    for step in range(1, in_flight + 1):
        value.fill_(step)
        assert saver.save(step, state={"value": value}).waited_seconds < 0.1
    assert began.wait(60)
    threading.Timer(0.5, gate.set).start()
    value.fill_(99)
    report = saver.save(99, state={"value": value})
    assert 0.3 < report.waited_seconds <= report.stall_seconds
    assert len(saver._buffers) + saver._writer.in_flight <= in_flight
    saver.wait()
    for step in [*range(1, in_flight + 1), 99]:
        assert saver.load(state={"value": value}, path=ctx.checkpoint_dir / f"step-{step}") == step
        assert value.tolist() == [step] * 4, "a copy was overwritten by a later one"
    ctx.destroy_process_group()


def two_tiers(local: str, steps: list[int], kind: str = "hsdp") -> None:
    ctx = started()
    saver = Checkpointer(ctx, keep=None, keep_local=2, local_dir=Path(local))
    model = parallel(kind, 2)
    own = {"rank": ctx.rank, "step": 0}
    for step in steps:
        _fill(model, step)
        own["step"] = step
        assert saver.save(step, model=model, rank_state={"own": own})
    assert saver.wait() == ()
    ctx.destroy_process_group()


def load_expecting(local: str, expected: int, kind: str = "hsdp") -> None:
    ctx = started()
    saver = Checkpointer(ctx, local_dir=Path(local))
    model = parallel(kind, 2, seed=5)
    own = {"rank": -1, "step": -1}
    assert saver.load(model=model, rank_state={"own": own}) == expected
    for parameter in model.parameters():
        assert (_own(parameter) == expected).all()
    assert own in ({"rank": ctx.rank, "step": expected}, {"rank": -1, "step": -1})
    ctx.destroy_process_group()


def save_until_killed(background: bool) -> None:
    """Resume from what is there, prove it, and save as fast as it goes."""
    ctx = started()
    value, mine = torch.zeros(400), torch.zeros(100)
    saver = Checkpointer(ctx, keep=2, background=background)
    step = saver.load(state={"value": value}, rank_state={"mine": mine})
    assert (value == step).all()
    assert (mine == step * 1000 + ctx.rank if step else mine == 0).all()
    while True:
        step += 1
        value.fill_(step)
        mine.fill_(step * 1000 + ctx.rank)
        saver.save(step, state={"value": value}, rank_state={"mine": mine})


def _fill(model: nn.Module, number: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(number)


def _own(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def compiled() -> None:
    """One step of the same model, compiled and not, on the mesh of the allocation."""
    ctx = started()
    inputs = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(ctx.rank))
    losses = []
    for compile_it in (False, True):
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
        fully_shard(model, mesh=hybrid_mesh(ctx))
        forward = torch.compile(model) if compile_it else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(2):
            loss = forward(inputs).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-5, losses
    saver = Checkpointer(ctx)
    assert saver.save(1, model=forward, optimizer=optimizer, wait=True).complete
    plain: Any = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
    assert saver.load(model=plain, path=ctx.checkpoint_dir / "step-1") == 1, "saved compiled, loaded plain"
    ctx.destroy_process_group()


def mesh_of_the_allocation(shapes: dict[str, list[list[int]]]) -> None:
    ctx = started()
    for shard, expected in shapes.items():
        mesh = hybrid_mesh(ctx, shard=int(shard) or None)
        assert mesh.mesh.tolist() == expected
        assert mesh.mesh_dim_names == ("replicate", "shard")
        row = next(row for row in expected if ctx.rank in row)
        assert mesh["shard"].mesh.tolist() == row
        assert data_rank(mesh) == ([rank for row in expected for rank in row].index(ctx.rank), 4)
    assert full_mesh().mesh.tolist() == [0, 1, 2, 3]
    ctx.destroy_process_group()


def all_stop_at_the_same_call(asker: int) -> None:
    """Ranks that step at their own speed; one of them is asked."""
    ctx = started()
    calls = 0
    while not ctx.stop_requested():
        calls += 1
        if calls == 300 and ctx.rank == asker:
            signal.raise_signal(signal.SIGUSR1)
        time.sleep(0.0001 * (1 + ctx.rank))
    assert ctx.stopping
    counts: list[Any] = [None] * ctx.world_size
    torch.distributed.all_gather_object(counts, calls)
    assert len(set(counts)) == 1, counts
    assert calls >= 300
    assert ctx.stop_requested()
    saver = Checkpointer(ctx)
    assert saver.save(calls).complete, "a save after a stop request waits for the disk"
    ctx.destroy_process_group()


def an_average_of_the_weights(kind: str, load: bool = False) -> None:
    """Kept by name in a dict, and by an object, as scripts do; sharded as the model is."""
    ctx = started()
    model = parallel(kind, 2)
    average = {name.removeprefix("module."): value.detach().clone() for name, value in model.named_parameters()}
    kept = {name: value.clone() for name, value in average.items()}
    keeper = _Keeper(kept)
    parts: dict[str, Any] = {"model": model, "state": {"average": average, "keeper": keeper}}
    if not load:
        for number, value in enumerate([*average.values(), *kept.values()]):
            value.fill_(number)
        assert Checkpointer(ctx).save(1, wait=True, **parts)
    else:
        assert Checkpointer(ctx).load(**parts) == 1
        for number, value in enumerate([*average.values(), *kept.values()]):
            assert (_own(value) == number).all()
    ctx.destroy_process_group()


class _Keeper:
    def __init__(self, kept: dict[str, torch.Tensor]) -> None:
        self.kept = kept

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(self.kept)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, value in self.kept.items():
            value.copy_(state[name])
