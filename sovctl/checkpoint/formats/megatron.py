"""Megatron-LM: `iter_<7 digits>/`, torch_dist (`common.pt`, a DCP, and `metadata.json` last), torch_dcp and
fsdp_dtensor (a DCP and no more), or legacy (`mp_rank_...`).

`latest_checkpointed_iteration.txt` is a plain overwrite: a crash can leave it empty. Legacy has no other mark.
"""

from __future__ import annotations

import re

from sovctl.checkpoint.content import read_json, torch_pickle
from sovctl.checkpoint.formats import dcp
from sovctl.checkpoint.formats.layout import Beside, Layout, missing, not_newest, plausible
from sovctl.checkpoint.opcodes import number_after
from sovctl.checkpoint.tree import Tree

NAME = "megatron"
TRACKER = "latest_checkpointed_iteration.txt"
TRACKERS = (TRACKER,)
_NAME = re.compile(r"iter_\d{7,18}", re.ASCII)
_RANK = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?(?:_(\d{3,}))?", re.ASCII)
"""Tensor, pipeline and expert rank."""
_CONFIG = "metadata.json"
_COMMON = "common.pt"
"""The first that torch_dist writes."""


def owns(name: str, top: frozenset[str]) -> bool:
    return bool(_NAME.fullmatch(name)) or any(_RANK.fullmatch(entry) for entry in top) or {_CONFIG, _COMMON} <= top


def look(tree: Tree, beside: Beside) -> Layout:
    folders = {name.partition("/")[0] for name in tree.files}
    if any(_RANK.fullmatch(folder) for folder in folders):
        return _legacy(tree, beside)
    if not {_CONFIG, _COMMON} & tree.files.keys():
        return dcp.part(tree)
    return part(tree)


def part(tree: Tree, prefix: str = "") -> Layout:
    """A torch_dist checkpoint, also inside another format's folder. Raises OSError."""
    inner = dcp.part(tree, prefix)
    if inner.problem:
        return inner
    mark = prefix + _CONFIG
    if mark not in tree.files:
        return Layout(f"{mark} is missing, which is written last")
    config = read_json(tree, mark)
    if not isinstance(config, dict) or "sharded_backend" not in config:
        return Layout(f"{mark} does not say how it was saved", corrupt=True, mark=mark)
    common = frozenset({prefix + _COMMON} & tree.files.keys())
    return Layout(mark=mark, closed=inner.closed | common, world_size=inner.world_size)


def _legacy(tree: Tree, beside: Beside) -> Layout:
    ranks = {folder: found for name in tree.files if (found := _RANK.fullmatch(folder := name.partition("/")[0]))}
    lost = missing(f"{folder}/model_optim_rng.pt" for folder in ranks if not _has_model(tree, folder))
    if lost:
        return Layout(lost)
    tensor, pipeline = _sizes(tree, min(ranks))
    expected = _expected(tensor, pipeline, [found.groups() for found in ranks.values()])
    lost = missing(f"{folder}/" for folder in expected if not any(have.startswith(folder) for have in ranks))
    uncommitted = not_newest(beside.tracked.get(TRACKER), beside.step, TRACKER)
    return Layout(lost or uncommitted, world_size=None)


def _has_model(tree: Tree, folder: str) -> bool:
    return f"{folder}/model_optim_rng.pt" in tree.files or f"{folder}/model_rng.pt" in tree.files


def _sizes(tree: Tree, folder: str) -> tuple[int, int]:
    """Tensor and pipeline parallel size from the arguments that were saved; 0 where they do not tell."""
    for name in (f"{folder}/model_optim_rng.pt", f"{folder}/model_rng.pt"):
        if name in tree.files:
            data = torch_pickle(tree, name)
            tensor = number_after(data, "tensor_model_parallel_size")
            return tensor or 0, number_after(data, "pipeline_model_parallel_size") or 0
    return 0, 0


def _expected(tensor: int, pipeline: int, ranks: list[tuple[str | None, ...]]) -> set[str]:
    """Every folder there must be, without the expert's part."""
    tensor = max([tensor, *(int(rank[0] or 0) + 1 for rank in ranks)])
    plausible(tensor)
    if all(rank[1] is None for rank in ranks):
        return {f"mp_rank_{at:02d}" for at in range(tensor)}
    pipeline = max([pipeline, *(int(rank[1] or 0) + 1 for rank in ranks)])
    plausible(tensor * pipeline)
    return {f"mp_rank_{at:02d}_{stage:03d}" for at in range(tensor) for stage in range(pipeline)}
