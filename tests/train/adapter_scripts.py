"""Small scripts with other people's loops, as a user would write them. See test_adapters.py."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from sovctl.train import lightning_callback, recoverable, transformers_callback

STEPS = 12


class Points(Dataset[dict[str, torch.Tensor]]):
    """48 samples of 4 numbers each."""

    def __init__(self) -> None:
        self.inputs = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"inputs": self.inputs[place], "labels": self.inputs[place].sum()}


class Batches:
    """A stateful loader, which Lightning saves: with another one it begins the epoch anew after a resume."""

    def __init__(self) -> None:
        self.position = 0

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[Any]:
        data = Points()
        while self.position < 12:
            self.position += 1
            yield torch.utils.data.default_collate(
                [data[row] for row in range(self.position * 4 - 4, self.position * 4)]
            )
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        output = self.body(inputs).squeeze(-1)
        return {"logits": output} if labels is None else {"loss": F.mse_loss(output, labels), "logits": output}


def ask_to_stop(at: int, step: int) -> None:
    """As Slurm does it before a preemption and at the time limit."""
    if at and step == at:
        os.kill(os.getpid(), signal.SIGTERM)


def write(out: str, losses: dict[int, float]) -> None:
    Path(out).write_text(json.dumps({step: loss.hex() for step, loss in losses.items()}))


def own_loop(out: str, stop_at: int = 0) -> None:
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    data, losses = Points(), {}
    for step in recoverable(STEPS, save_every=5, model=model, optimizer=optimizer):
        batch = torch.utils.data.default_collate([data[(step * 4 + row) % 48] for row in range(4)])
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step + 1] = loss.item()
        write(out, losses)
        ask_to_stop(stop_at, step + 1)


def lightning_loop(out: str, stop_at: int = 0, **least: int) -> None:
    import lightning.pytorch as pl

    losses: dict[int, float] = {}

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            loss: torch.Tensor = self.network(**batch)["loss"]
            losses[self.global_step + 1] = loss.item()
            write(out, losses)
            ask_to_stop(stop_at, self.global_step)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    callback = lightning_callback(save_every=5)
    trainer = pl.Trainer(
        callbacks=[callback], max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **least,
    )  # fmt: skip
    trainer.fit(Module(), Batches(), ckpt_path=callback.resume_from)


def lightning_on_a_full_disk(out: str, strategy: str, steps: int = 8) -> None:
    """The checkpoint of step 2 cannot be written by rank 0."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            loss: torch.Tensor = self.network(**batch)["loss"]
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    class Sharded(pl.strategies.SingleDeviceStrategy):
        save_checkpoint = _save_without_room

    trainer = pl.Trainer(
        callbacks=[lightning_callback(save_every=2)], max_steps=steps, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        strategy=Sharded() if strategy == "sharded" else strategy, devices=int(os.environ["WORLD_SIZE"]),
        use_distributed_sampler=False,
    )  # fmt: skip
    save = trainer.strategy.checkpoint_io.save_checkpoint

    def save_without_room(checkpoint: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if "step=2." in str(path):
            _save_without_room()
        save(checkpoint, path, *args, **kwargs)

    trainer.strategy.checkpoint_io.save_checkpoint = save_without_room  # type: ignore[method-assign]
    trainer.fit(Module(), Batches())
    Path(f"{out}-{trainer.global_rank}").write_text(str(trainer.global_step))


def _save_without_room(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def lightning_requeues_nothing() -> None:
    from types import SimpleNamespace

    from lightning.pytorch.plugins.environments import SLURMEnvironment

    environment = SLURMEnvironment(auto_requeue=True)
    lightning_callback().setup(SimpleNamespace(strategy=SimpleNamespace(cluster_environment=environment)), None, "fit")
    assert environment.auto_requeue is False


def transformers_loop(out: str, stop_at: int = 0) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    losses: dict[int, float] = {}

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                losses[state.global_step] = logs["loss"]
                write(out, losses)
            ask_to_stop(stop_at, state.global_step)

    callback = transformers_callback()
    arguments = TrainingArguments(
        output_dir=str(callback.ctx.checkpoint_dir), max_steps=STEPS, per_device_train_batch_size=4, save_steps=5,
        logging_steps=1, learning_rate=0.1, report_to=[], use_cpu=True, disable_tqdm=True, seed=3,
    )  # fmt: skip
    trainer = Trainer(model=Network(), args=arguments, train_dataset=Points(), callbacks=[callback, Watch()])
    trainer.train(resume_from_checkpoint=callback.resume_from)
