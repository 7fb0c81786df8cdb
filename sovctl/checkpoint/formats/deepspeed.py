"""DeepSpeed ZeRO 0 to 3: `<tag>/` with model states and, of every data-parallel rank, optimizer states.

`latest` names the newest tag; the engine overwrites it after its commit. How many ranks there were stands in the
model states.
"""

from __future__ import annotations

import re

from sovctl.checkpoint.content import torch_pickle
from sovctl.checkpoint.formats.layout import Beside, Layout, missing, not_newest, plausible
from sovctl.checkpoint.opcodes import number_after
from sovctl.checkpoint.tree import Tree

NAME = "deepspeed"
TRACKER = "latest"
TRACKERS = (TRACKER, "latest_universal")
_MODEL = re.compile(r"(?:.*/)?(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt", re.ASCII)
_OPTIMIZER = re.compile(r"(?:.*/)?(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt", re.ASCII)
_LAYER = re.compile(r"(?:.*/)?layer_(\d+)_expert_(\d+)_mp_rank_(\d+)_model_states\.pt", re.ASCII)


def owns(name: str, top: frozenset[str]) -> bool:
    return any(entry.endswith(("_model_states.pt", "_optim_states.pt")) for entry in top)


def look(tree: Tree, beside: Beside) -> Layout:
    found = part(tree)
    why = not_newest(beside.tracked.get(TRACKER), beside.step, TRACKER)
    return Layout(why) if why and not found.problem else found


def part(tree: Tree) -> Layout:
    """The same wherever in another format's folder it lies. Raises OSError."""
    models = {_pair(found): name for name in tree.files if (found := _MODEL.fullmatch(name))}
    shards = {_pair(found): name for name in tree.files if (found := _OPTIMIZER.fullmatch(name))}
    if not models:
        return Layout("its model states are missing")
    prefix = next(iter(models.values())).rpartition("/")[0]
    data_size, model_size = _sizes(tree, models[min(models)])
    ranks = {rank for rank in (*models, *shards) if rank[0] >= 0}
    data_size = max([data_size, *(rank[0] + 1 for rank in ranks)])
    model_size = max([model_size, *(rank[1] + 1 for rank in (*models, *shards))])
    plausible(data_size * model_size)
    everyone = [(data, model) for data in range(data_size) for model in range(model_size)]
    by_rank = any(rank[0] >= 0 for rank in models)  # ZeRO 3 splits the model states too
    lost = (
        []
        if by_rank
        else [f"mp_rank_{model:02d}_model_states.pt" for model in range(model_size) if (-1, model) not in models]
    )
    if by_rank:
        lost += [
            f"zero_pp_rank_{data}_mp_rank_{model:02d}_model_states.pt"
            for data, model in everyone
            if (data, model) not in models
        ]
    if shards:
        stem = _OPTIMIZER_STEM.sub("", next(iter(shards.values())).rpartition("/")[2])
        lost += [
            f"{stem}zero_pp_rank_{data}_mp_rank_{model:02d}_optim_states.pt"
            for data, model in everyone
            if (data, model) not in shards
        ]
    elif by_rank:
        lost += ["the optimizer states"]
    return Layout(
        missing(f"{prefix}/{name}" if prefix else name for name in lost), world_size=data_size * model_size or None
    )


_OPTIMIZER_STEM = re.compile(r"zero_pp_rank_.*", re.ASCII)


def _pair(found: re.Match[str]) -> tuple[int, int]:
    """Data-parallel rank (-1: not split by it) and model-parallel rank."""
    return int(found[1]) if found[1] is not None else -1, int(found[2])


def _sizes(tree: Tree, name: str) -> tuple[int, int]:
    data = torch_pickle(tree, name)
    return number_after(data, "dp_world_size") or 0, number_after(data, "mp_world_size") or 0
