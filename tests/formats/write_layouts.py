"""Has a real library save checkpoints of a tiny model, the way its users do, and prints nothing.

usage: write_layouts.py LAYOUT DIRECTORY [LAYOUT DIRECTORY]... Two ranks with gloo where a format spreads over ranks,
which meet at MASTER_PORT; they are forked after the library is imported, because importing it is what takes the time.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORLD = 2


def ranks(body: Callable[[int], None]) -> None:
    """Run `body(rank)` in forked processes with the environment of torchrun, whose MASTER_PORT is set already."""
    children = []
    for rank in range(WORLD):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD}
                os.environ.update({name: str(value) for name, value in numbers.items()})
                os.environ.update(MASTER_ADDR="127.0.0.1")
                body(rank)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    if any(ended):
        sys.exit(1)


def _sharded_linear() -> Any:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    model = torch.nn.Linear(8, 8)
    fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
    return model


def dcp(root: Path) -> None:
    """torch.distributed.checkpoint.save of a model under fully_shard, with its optimizer."""
    import torch
    import torch.distributed.checkpoint as saver
    from torch.distributed.checkpoint.state_dict import get_state_dict

    def body(rank: int) -> None:
        model = _sharded_linear()
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 8)).sum().backward()
        optimizer.step()
        for step in (10, 20):
            weights, moments = get_state_dict(model, optimizer)
            saver.save({"model": weights, "optimizer": moments}, checkpoint_id=root / f"step-{step}")

    ranks(body)


def torchtitan(root: Path) -> None:
    """torchtitan's own CheckpointManager."""
    import torch
    from torchtitan.components.checkpointer.dcp import CheckpointManager

    class State:
        def state_dict(self) -> dict[str, Any]:
            return {"number": torch.tensor(1)}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

        def init_cache_state_dict(self) -> None: ...

    def body(rank: int) -> None:
        model = _sharded_linear()
        config = CheckpointManager.Config(enable=True, folder=".", interval=10, last_save_model_only=False)
        manager = CheckpointManager(
            config,
            dataloader=None,
            model_parts=[model],
            optimizers=State(),
            lr_schedulers=State(),
            states={"train_state": State()},
            sd_adapter=None,
            base_folder=str(root),
        )
        manager.states.pop("dataloader")
        manager.save(10)
        manager.save(20)

    ranks(body)


def _megatron_save(place: Path, step: int, rank: int) -> None:
    import torch
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing import ShardedTensor

    # Both are called without asking whether there is a GPU.
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.current_device = lambda: "cpu"
    place.mkdir(parents=True, exist_ok=True)
    weights = ShardedTensor.from_rank_offsets("weights", torch.ones(4, 4), (0, rank, WORLD))
    dist_checkpointing.save({"weights": weights, "iteration": step}, str(place))


def megatron(root: Path) -> None:
    """megatron.core.dist_checkpointing; the tracker as Megatron-LM's training loop writes it."""
    import torch

    def body(rank: int) -> None:
        torch.distributed.init_process_group("gloo")
        for step in (10, 20):
            _megatron_save(root / f"iter_{step:07d}", step, rank)
            (root / "latest_checkpointed_iteration.txt").write_text(str(step))

    import megatron.core.dist_checkpointing  # noqa: F401 before the fork

    ranks(body)


def nemo(root: Path) -> None:
    """The weights by megatron.core, as NeMo 2 saves them; the folders around them by hand: its release that has
    `nemo.lightning` needs packages that cannot be installed without a GPU."""
    import megatron.core.dist_checkpointing  # noqa: F401 before the fork
    import torch

    def body(rank: int) -> None:
        torch.distributed.init_process_group("gloo")
        for step in (10, 20):
            place = root / f"model--val_loss=1.23-step={step}-consumed_samples={step * 8}.0"
            _megatron_save(place / "weights", step, rank)
            (place / "context").mkdir(exist_ok=True)
            (place / "context" / "model.yaml").write_text("model: tiny\n")

    ranks(body)


def megatron_legacy(root: Path) -> None:
    """torch.save into the folders of Megatron-LM's `--ckpt-format torch`: megatron-core has no code that writes it."""
    import argparse

    import torch

    for step in (10, 20):
        for rank in range(WORLD):
            place = root / f"iter_{step:07d}" / f"mp_rank_{rank:02d}"
            place.mkdir(parents=True)
            arguments = argparse.Namespace(tensor_model_parallel_size=WORLD, pipeline_model_parallel_size=1)
            torch.save({"args": arguments, "iteration": step, "model": torch.ones(4)}, place / "model_optim_rng.pt")
    (root / "latest_checkpointed_iteration.txt").write_text("20")


def _deepspeed(root: Path, stage: int) -> None:
    import deepspeed
    import torch

    # Compiles C++ for a minute to speed up what two ranks here hardly use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    def body(rank: int) -> None:
        deepspeed.init_distributed("gloo")
        model = torch.nn.Linear(8, 8)
        config = {
            "train_batch_size": WORLD,
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
            "zero_optimization": {"stage": stage},
            "bf16": {"enabled": True},
        }
        engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
        for _ in range(2):
            engine.backward(engine(torch.ones(1, 8, dtype=torch.bfloat16)).sum())
            engine.step()
            engine.save_checkpoint(str(root))

    os.environ["DS_ACCELERATOR"] = "cpu"
    ranks(body)


def deepspeed_1(root: Path) -> None:
    """ZeRO 1: the optimizer split over the ranks."""
    _deepspeed(root, 1)


def deepspeed_3(root: Path) -> None:
    """ZeRO 3: the model split too."""
    _deepspeed(root, 3)


def lightning(root: Path) -> None:
    """Trainer.fit with ModelCheckpoint in one process: files."""
    import lightning as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.demos.boring_classes import BoringModel

    saver = ModelCheckpoint(dirpath=root, every_n_train_steps=2, save_top_k=-1, save_last=True)
    _lightning_trainer(pl, root, saver).fit(BoringModel())


def lightning_sharded(root: Path) -> None:
    """The same with ModelParallelStrategy on two ranks: folders."""
    import lightning as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.demos.boring_classes import BoringModel
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    class Sharded(BoringModel):  # type: ignore[misc]
        def configure_model(self) -> None:
            fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])

    def body(rank: int) -> None:
        saver = ModelCheckpoint(dirpath=root, every_n_train_steps=2, save_top_k=-1)
        strategy = ModelParallelStrategy(data_parallel_size=WORLD, tensor_parallel_size=1, process_group_backend="gloo")
        _lightning_trainer(pl, root, saver, devices=WORLD, strategy=strategy).fit(Sharded())

    ranks(body)


def _lightning_trainer(pl: Any, root: Path, saver: Any, **more: Any) -> Any:
    return pl.Trainer(
        max_steps=4,
        default_root_dir=root,
        accelerator="cpu",
        callbacks=[saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **more,
    )


def hf_trainer(root: Path) -> None:
    """transformers.Trainer on two ranks."""
    import torch
    from transformers import LlamaForCausalLM, Trainer, TrainingArguments

    def body(rank: int) -> None:
        rows = [{"input_ids": torch.arange(4), "labels": torch.arange(4)} for _ in range(16)]
        arguments = TrainingArguments(
            str(root),
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=1,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        Trainer(model=LlamaForCausalLM(_tiny_llama()), args=arguments, train_dataset=rows).train()

    ranks(body)


def _tiny_llama() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )


def accelerate(root: Path) -> None:
    """Accelerator.save_state on two ranks, with automatic names; it makes `checkpoints/` itself."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    def body(rank: int) -> None:
        naming = ProjectConfiguration(str(root.parent), automatic_checkpoint_naming=True)
        accelerator = Accelerator(cpu=True, project_config=naming)
        model = torch.nn.Linear(4, 4)
        optimizer = torch.optim.AdamW(model.parameters())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        accelerator.prepare(model, optimizer, scheduler)
        for _ in range(2):
            accelerator.save_state()

    ranks(body)


def safetensors(root: Path) -> None:
    """save_pretrained in several files with an index."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(_tiny_llama())
    for step in (10, 20):
        model.save_pretrained(root / f"step_{step}", max_shard_size="2KB")


def safetensors_single(root: Path) -> None:
    """safetensors.torch.save_file: one file a step."""
    import torch
    from safetensors.torch import save_file

    for step in (10, 20):
        save_file({"w": torch.ones(64)}, root / f"model-step-{step}.safetensors")


def nvrx(root: Path) -> None:
    """LocalCheckpointManager of nvidia-resiliency-ext on two ranks; its cleanup of older ones is left out."""
    import torch
    from nvidia_resiliency_ext.checkpointing.local.ckpt_managers.local_manager import LocalCheckpointManager

    def body(rank: int) -> None:
        torch.distributed.init_process_group("gloo")
        manager = LocalCheckpointManager(root.parent, session_id=root.name)
        manager._cleanup = lambda iteration: None
        for step in (10, 20):
            manager.save(_OnCpu(), step)

    ranks(body)


class _OnCpu:
    """What the manager asks of a state; its own class insists on tensors of a GPU."""

    def __init__(self) -> None:
        import torch

        self.tensors = {"weights": torch.ones(4)}

    def copy_tensors_to_cpu(self, non_blocking: bool = False) -> None: ...


def neuronx(root: Path) -> None:
    """torch.save under the names and in the order of neuronx_distributed/trainer/checkpoint.py: the package on PyPI
    is an empty one, the real one needs torch-xla for Neuron."""
    import torch

    for step in (10, 20):
        place = root / f"step_{step}"
        for kind in ("model", "optim"):
            (place / kind).mkdir(parents=True)
        (place / "checkpoint").write_text("1")
        for rank in range(WORLD):
            torch.save({"w": torch.ones(4)}, place / "model" / f"dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt")
            for data in range(WORLD):
                torch.save(
                    {"m": torch.ones(4)}, place / "optim" / f"dp_rank_{data:02d}_tp_rank_{rank:02d}_pp_rank_00.pt"
                )
        torch.save({"step": step}, place / "user_content.pt")
        (place / "done").write_text("1")


if __name__ == "__main__":
    for layout, directory in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        globals()[layout](Path(directory))
