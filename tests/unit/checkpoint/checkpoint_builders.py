"""Checkpoints on disk without torch: the rule for "complete" looks at names, sizes and the mark only."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sovctl.checkpoint.mark import MARK, Mark, encode_mark

SAVED_AT = 1_700_000_000.0


def shards(world_size: int = 2) -> dict[str, bytes]:
    return {".metadata": b"m" * 40, **{f"__{rank}_0.distcp": b"s" * (100 + rank) for rank in range(world_size)}}


def mark_of(step: int, content: dict[str, bytes], world_size: int = 2, *, checksums: bool = True) -> Mark:
    return Mark(
        step=step,
        world_size=world_size,
        files={name: len(data) for name, data in content.items()},
        saved_at=SAVED_AT,
        attempt=1,
        run_id="lab-7-1",
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in content.items()} if checksums else {},
    )


def write_files(directory: Path, content: dict[str, bytes]) -> Path:
    directory.mkdir(parents=True)
    for name, data in content.items():
        (directory / name).write_bytes(data)
    return directory


def write_checkpoint(root: Path, step: int, world_size: int = 2, *, checksums: bool = True) -> Path:
    content = shards(world_size)
    directory = write_files(root / f"step-{step}", content)
    (directory / MARK).write_bytes(encode_mark(mark_of(step, content, world_size, checksums=checksums)))
    return directory
