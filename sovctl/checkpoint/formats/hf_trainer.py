"""Hugging Face Trainer: `checkpoint-<step>/`. It has no mark; `trainer_state.json` is written last by order.

The random states of the ranks and the optimizer are not fenced by a barrier before it, so they are counted.
"""

from __future__ import annotations

import re

from sovctl.checkpoint.content import read_json
from sovctl.checkpoint.formats import dcp, deepspeed, safetensors
from sovctl.checkpoint.formats.layout import Beside, Layout, gaps, missing, numbered
from sovctl.checkpoint.tree import Tree

NAME = "hf-trainer"
TRACKERS: tuple[str, ...] = ()
_NAME = re.compile(r"checkpoint-\d{1,18}", re.ASCII)
_STATE = "trainer_state.json"
_RANDOM = re.compile(r"rng_state_(\d+)\.pth", re.ASCII)


def owns(name: str, top: frozenset[str]) -> bool:
    return _STATE in top or bool(_NAME.fullmatch(name))


def look(tree: Tree, beside: Beside) -> Layout:
    if _STATE not in tree.files:
        return Layout(f"{_STATE} is missing, which is written last")
    state = read_json(tree, _STATE)
    if not isinstance(state, dict):
        return Layout(f"{_STATE} is not readable as JSON", corrupt=True)
    if state.get("global_step") != beside.step:
        return Layout(f"{_STATE} is of step {str(state.get('global_step'))[:20]}", corrupt=True)
    inner = weights(tree)
    if inner.problem:
        return inner
    ranks = numbered(tree, _RANDOM)
    lost = missing(f"rng_state_{rank}.pth" for rank in gaps(ranks, inner.world_size if ranks else None))
    return Layout(lost, world_size=len(ranks) or inner.world_size or 1)


def weights(tree: Tree) -> Layout:
    """The model of a Trainer or Accelerate checkpoint: whole files, an index, FSDP's DCP folders or DeepSpeed's.

    Raises OSError.
    """
    if any(deepspeed.owns("", frozenset({name.rpartition("/")[2]})) for name in tree.files):
        return deepspeed.part(tree)
    folders = sorted({name.rpartition("/")[0] for name in tree.files if name.endswith((".distcp", "/.metadata"))})
    for folder in folders:
        inner = dcp.part(tree, f"{folder}/" if folder else "")
        if inner.problem:
            return inner
    for name in tree.files:
        if name.endswith(".index.json"):
            found = safetensors.index_problem(tree, name)
            if found:
                return found
    if not folders and not any(
        name.endswith((".safetensors", ".bin", ".pt")) and _is_model(name) for name in tree.files
    ):
        return Layout("the weights of its model are missing")
    return Layout()


def _is_model(name: str) -> bool:
    return name.rpartition("/")[2].startswith(("model", "pytorch_model", "adapter_model"))
