"""How long training stands still for a checkpoint, and how long it takes: ours, synchronous, and torch's async_save.

Two ranks share an FSDP2 model with AdamW, 300 MB of state in all, and take turns at saving it in each way.

make bench NAME=checkpoint
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from report import figure, publish

RANKS, ROUNDS = 2, 7
WIDTH, LAYERS = 1448, 12
"""12 matrices of 1448 x 1448, each with two moments, in float32: 302 MB."""
STEPS = 20_000
Samples = dict[str, list[float]]


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        directory = Path(name)
        local = Path("/dev/shm") / f"sovbench-{os.getpid()}"
        try:
            samples = measured(directory, local)
        finally:
            shutil.rmtree(local, ignore_errors=True)
    ours, sync, plain = samples["background"], samples["sync"], samples["async_save"]
    share = [100 * a / b for a, b in zip(ours, sync, strict=True)]
    against = [a / b for a, b in zip(ours, plain, strict=True)]
    publish(
        "checkpoint",
        [
            figure("training stands still, background save", ours, "s", versus="sync save", versus_samples=sync),
            figure("the same, as a share of a sync save of the same round", share, "%", target=10),
            figure("the same, against torch's async_save of the same round", against, "x", target=1),
            figure("the same, in seconds", ours, "s", versus="torch async_save", versus_samples=plain),
            figure(
                "training stands still, DDP instead of FSDP", samples["ddp"], "s",
                versus="torch async_save", versus_samples=samples["ddp async_save"],
            ),
            figure("background save until it is complete on disk", samples["complete"], "s",
                   versus="torch async_save, no fsync of the rename, no checksums",
                   versus_samples=samples["async_save complete"]),
            figure("two tiers: until the nodes' own (memory) has it", samples["local"], "s",
                   versus="until shared storage has it", versus_samples=samples["shared"]),
            figure("restore from shared storage", samples["restore"], "s"),
            figure("restore from the nodes' own tier", samples["restore local"], "s"),
            figure("RunContext: step_done, compute and stop_requested", samples["step"], "us", target=50),
        ],
        {"cores": os.cpu_count(), "ranks": RANKS, "state_mb": round(12e-6 * LAYERS * WIDTH**2), "disk": "/var/tmp"},
    )  # fmt: skip


def measured(directory: Path, local: Path) -> Samples:
    """The slower rank of each sample, in seconds; steps in microseconds."""
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=rank_main, args=(rank, directory, local)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        raise SystemExit(f"a rank failed: {[process.exitcode for process in ranks]}")
    each = [json.loads((directory / f"{rank}.json").read_text()) for rank in range(RANKS)]
    return {name: [max(pair) for pair in zip(*(one[name] for one in each), strict=True)] for name in each[0]}


def rank_main(rank: int, directory: Path, local: Path) -> None:
    """One rank: every way of saving in turn, so that all meet the same disk and the same neighbours."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT="29577",
        SOVCTL_RUN_DIR=str(directory / "run"), SOVCTL_RUN_ID="bench",
    )  # fmt: skip
    import torch
    import torch.distributed as dist

    from sovctl.train import RunContext

    torch.set_num_threads(1)
    ctx = RunContext.from_env()
    ctx.init_process_group("gloo")
    samples: Samples = {}
    everything(ctx, samples, directory, local)
    (directory / f"{rank}.json").write_text(json.dumps(samples))
    dist.barrier()
    ctx.destroy_process_group()


def everything(ctx: Any, samples: Samples, directory: Path, local: Path) -> None:
    model, optimizer = trained("fsdp")
    saving(ctx, samples, directory, model, optimizer)
    two_tiers(ctx, samples, directory, local, model, optimizer)
    del model, optimizer
    model, optimizer = trained("ddp")
    replicated(ctx, samples, directory, model, optimizer)
    samples["step"] = [steps(ctx) for _ in range(ROUNDS)]


def saving(ctx: Any, samples: Samples, directory: Path, model: Any, optimizer: Any) -> None:
    """Sync, background and torch's own, round after round; the first round warms up and does not count."""
    from sovctl.train import Checkpointer

    sync = Checkpointer(at(ctx, directory / "sync"), keep=1, background=False)
    ours = Checkpointer(at(ctx, directory / "ours"), keep=1)
    theirs = AsyncSave(directory / "theirs")
    taken: Samples = {name: [] for name in ("sync", "background", "complete", "async_save", "async_save complete")}
    for step in range(1, ROUNDS + 2):
        taken["sync"].append(timed(lambda step=step: sync.save(step, model=model, optimizer=optimizer)))
        began = time.perf_counter()
        taken["background"].append(timed(lambda step=step: ours.save(step, model=model, optimizer=optimizer)))
        ours.wait()
        taken["complete"].append(time.perf_counter() - began)
        began = time.perf_counter()
        taken["async_save"].append(timed(lambda: theirs.save(model, optimizer)))
        theirs.wait()
        taken["async_save complete"].append(time.perf_counter() - began)
        theirs.clear()
    samples.update({name: values[1:] for name, values in taken.items()})
    newest = directory / "ours" / f"step-{ROUNDS + 1}"
    samples["restore"] = [
        timed(lambda: ours.load(model=model, optimizer=optimizer, path=newest)) for _ in range(ROUNDS)
    ]


def two_tiers(ctx: Any, samples: Samples, directory: Path, local: Path, model: Any, optimizer: Any) -> None:
    """The nodes' own tier in memory, shared storage on the disk."""
    from sovctl.train import Checkpointer

    samples.update({"local": [], "shared": [], "restore local": []})
    saver = Checkpointer(at(ctx, directory / "tiers"), keep=1, local_dir=local)
    for step in range(1, ROUNDS + 1):
        saver.save(step, model=model, optimizer=optimizer)
        saver._writer.wait_until(0)
        (outcome,) = saver._writer.take(1)
        samples["local"].append(outcome.local_seconds or float("nan"))
        samples["shared"].append(outcome.seconds)
    for path in (directory / "tiers").glob("step-*"):
        if ctx.rank == 0:
            shutil.rmtree(path)
    for _ in range(ROUNDS):
        samples["restore local"].append(timed(lambda: saver.load(model=model, optimizer=optimizer)))


def replicated(ctx: Any, samples: Samples, directory: Path, model: Any, optimizer: Any) -> None:
    """Under DDP all ranks hold everything, and each copies only what it will write."""
    from sovctl.train import Checkpointer

    ours, theirs = Checkpointer(at(ctx, directory / "ddp"), keep=1), AsyncSave(directory / "ddp-theirs")
    taken: Samples = {"ddp": [], "ddp async_save": []}
    for step in range(1, ROUNDS + 2):
        taken["ddp"].append(timed(lambda step=step: ours.save(step, model=model, optimizer=optimizer)))
        ours.wait()
        taken["ddp async_save"].append(timed(lambda: theirs.save(model, optimizer)))
        theirs.wait()
        theirs.clear()
    samples.update({name: values[1:] for name, values in taken.items()})


class AsyncSave:
    """torch.distributed.checkpoint.async_save as its documentation shows it."""

    def __init__(self, directory: Path) -> None:
        import torch.distributed as dist

        self._directory = directory
        self._group = dist.new_group(backend="gloo")
        self._future: Any = None

    def save(self, model: Any, optimizer: Any) -> None:
        from torch.distributed.checkpoint import async_save
        from torch.distributed.checkpoint.state_dict import get_state_dict

        weights, moments = get_state_dict(model, optimizer)
        tree = {"model": weights, "optimizer": moments}
        self._future = async_save(tree, checkpoint_id=self._directory, process_group=self._group)

    def wait(self) -> None:
        getattr(self._future, "upload_completion", self._future).result()

    def clear(self) -> None:
        import torch.distributed as dist

        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(self._directory)
        dist.barrier()


def steps(ctx: Any) -> float:
    """Microseconds a step of everything a loop calls, without any training in between."""
    began = time.perf_counter()
    for step in range(1, STEPS + 1):
        with ctx.compute():
            pass
        ctx.step_done(step, 1.0)
        ctx.stop_requested()
    return (time.perf_counter() - began) / STEPS * 1e6


def trained(kind: str) -> tuple[Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model: Any = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        for layer in model:
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, WIDTH)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def at(ctx: Any, directory: Path) -> Any:
    """The same run with its checkpoints somewhere else."""
    from dataclasses import replace

    return replace(ctx, checkpoint_dir=directory)


def timed(action: Callable[[], object]) -> float:
    """Seconds, begun on all ranks at once."""
    import torch.distributed as dist

    dist.barrier()
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
