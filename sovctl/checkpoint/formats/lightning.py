"""PyTorch Lightning: a `*.ckpt` file, written beside and moved into place, or a `*.ckpt` folder of a sharded strategy.

A folder is a DCP with `meta.pt` written after it, or holds `checkpoint/` of DeepSpeed; it is not moved into place.
"""

from __future__ import annotations

import re

from sovctl.checkpoint.content import torch_pickle
from sovctl.checkpoint.formats import dcp, deepspeed
from sovctl.checkpoint.formats.layout import Beside, Layout
from sovctl.checkpoint.opcodes import number_after
from sovctl.checkpoint.tree import Tree

NAME = "lightning"
TRACKERS: tuple[str, ...] = ()
SUFFIX = ".ckpt"
_STEP = re.compile(r"(?:^|[^a-z])step=(\d{1,18})", re.ASCII)
_META = "meta.pt"


def owns(name: str, top: frozenset[str]) -> bool:
    return name.endswith(SUFFIX)


def look(tree: Tree, beside: Beside) -> Layout:
    if set(tree.files) == {beside.name}:
        return Layout(mark=beside.name)
    if any(deepspeed.owns("", frozenset({name.rpartition("/")[2]})) for name in tree.files):
        return deepspeed.part(tree)
    inner = dcp.part(tree)
    if not inner.problem and _META not in tree.files:
        return Layout(f"{_META} is missing, which is written last")
    return inner


def step_of_name(name: str) -> int | None:
    """`epoch=0-step=20.ckpt` says its step; `last.ckpt` and `hpc_ckpt_3.ckpt` do not."""
    found = _STEP.search(name)
    return int(found[1]) if found else None


def step_inside(tree: Tree, name: str) -> int | None:
    """`global_step` of a file whose name does not tell. Raises OSError."""
    for file in (name, _META):
        if file in tree.files:
            return number_after(torch_pickle(tree, file), "global_step")
    return None
