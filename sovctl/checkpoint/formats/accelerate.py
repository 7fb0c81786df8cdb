"""Accelerate: `checkpoint_<number>/` of `save_state`. No mark at all: every rank's random states are written last."""

from __future__ import annotations

import re

from sovctl.checkpoint.formats import hf_trainer
from sovctl.checkpoint.formats.layout import Beside, Layout, gaps, missing, numbered
from sovctl.checkpoint.tree import Tree

NAME = "accelerate"
TRACKERS: tuple[str, ...] = ()
_NAME = re.compile(r"checkpoint_\d{1,18}", re.ASCII)
_RANDOM = re.compile(r"random_states_(\d+)\.pkl", re.ASCII)


def owns(name: str, top: frozenset[str]) -> bool:
    return bool(_NAME.fullmatch(name)) or any(_RANDOM.fullmatch(entry) for entry in top)


def look(tree: Tree, beside: Beside) -> Layout:
    inner = hf_trainer.weights(tree)
    if inner.problem:
        return inner
    ranks = numbered(tree, _RANDOM)
    if not ranks:
        return Layout("the random states of its ranks are missing, which are written last")
    lost = missing(f"random_states_{rank}.pkl" for rank in gaps(ranks, inner.world_size))
    return Layout(lost, world_size=len(ranks))
