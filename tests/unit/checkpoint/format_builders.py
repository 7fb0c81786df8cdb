"""Small checkpoints in the shape of other formats, for what needs no library; tests/formats has the real ones."""

from __future__ import annotations

import io
import json
import os
import pickle
import time
import zipfile
from pathlib import Path


class StorageInfo:
    """Pickles like the entries of DCP's table of contents."""

    def __init__(self, relative_path: str, offset: int, length: int) -> None:
        self.relative_path, self.offset, self.length = relative_path, offset, length


def table_of_contents(shards: dict[str, int], pieces: int = 3, protocol: int = 4) -> bytes:
    """Shard -> bytes, in `pieces` pieces each."""
    entries = {}
    for name, size in shards.items():
        part = size // pieces
        for piece in range(pieces):
            length = part if piece < pieces - 1 else size - part * piece
            entries[f"layers.{piece}.{name}.weight"] = StorageInfo(name, part * piece, length)
    return pickle.dumps({"state_dict_metadata": {}, "storage_data": entries}, protocol=protocol)


def torch_file(content: bytes = b"\x80\x02}q\x00.") -> bytes:
    """What torch.save writes: a zip, not compressed, the pickle first."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", b"\0" * 64)
    return held.getvalue()


def dcp(path: Path, ranks: int = 2, shard_bytes: int = 300, prefix: str = "") -> Path:
    path.mkdir(parents=True)
    shards = {f"{prefix}__{rank}_0.distcp": shard_bytes + rank for rank in range(ranks)}
    for name, size in shards.items():
        (path / name).write_bytes(b"s" * size)
    (path / ".metadata").write_bytes(table_of_contents(shards))
    return path


def hf_trainer(root: Path, step: int, ranks: int = 2, optimizer_pieces: int = 1) -> Path:
    path = root / f"checkpoint-{step}"
    path.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    for name in ("optimizer.pt", "scheduler.pt", *(f"rng_state_{rank}.pth" for rank in range(ranks))):
        (path / name).write_bytes(torch_file(b"\x80\x02}q\x00." + b"0" * 1000 * optimizer_pieces))
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def megatron(root: Path, step: int) -> Path:
    path = dcp(root / f"iter_{step:07d}")
    (path / "common.pt").write_bytes(torch_file())
    (path / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}))
    return path


def deepspeed(root: Path, step: int) -> Path:
    path = root / f"global_step{step}"
    path.mkdir(parents=True)
    (path / "mp_rank_00_model_states.pt").write_bytes(
        torch_file(pickle.dumps({"dp_world_size": 2, "mp_world_size": 1}))
    )
    for rank in range(2):
        (path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(torch_file())
    return path


def age(root: Path, seconds: float = 3600) -> None:
    """So that no writer is suspected."""
    old = time.time() - seconds
    for path in [*root.rglob("*"), root]:
        os.utime(path, (old, old), follow_symlinks=False)
