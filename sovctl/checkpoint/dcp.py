"""The layout of torch.distributed.checkpoint (DCP), judged by names alone: nothing is unpickled, torch is not needed.

A checkpoint of N ranks holds `.metadata` and at least one `__<rank>_<number>.distcp` of every rank: each rank writes
its own random number state, so a rank without a file is a rank that did not finish.
"""

from __future__ import annotations

import re

from sovctl.checkpoint.mark import Mark

FORMAT = "dcp"
METADATA = ".metadata"
_SHARD = re.compile(r".*__(0|[1-9]\d{0,9})_(0|[1-9]\d{0,9})\.distcp", re.ASCII)
"""Megatron puts a word before it, as in `optimizer__0_0.distcp`."""


def shard_rank(name: str) -> int | None:
    """The rank that wrote this file; `None` when it is not a shard."""
    match = _SHARD.fullmatch(name)
    return int(match[1]) if match else None


def structure_problem(mark: Mark) -> str:
    """Why the files a mark lists cannot be a whole DCP checkpoint; empty when they can."""
    if METADATA not in mark.files:
        return f"{METADATA} is missing from its mark"
    ranks = {rank for rank in map(shard_rank, mark.files) if rank is not None}
    if len(ranks) != mark.world_size or max(ranks, default=-1) != mark.world_size - 1:
        return f"its mark has files of {len(ranks)} ranks, saved by {mark.world_size}"
    return ""
