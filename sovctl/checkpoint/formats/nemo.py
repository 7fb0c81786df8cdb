"""NeMo 2: `<name>/` with `weights/` (Megatron torch_dist) and `context/`; `<name>-unfinished` beside it means "not".

That file is set before a save or a deletion begins and removed at the end of it.
"""

from __future__ import annotations

import re

from sovctl.checkpoint.formats import megatron
from sovctl.checkpoint.formats.layout import Beside, Layout
from sovctl.checkpoint.tree import Tree

NAME = "nemo"
TRACKERS: tuple[str, ...] = ()
UNFINISHED = "-unfinished"
_STEP = re.compile(r"(?:^|[^a-z])step=(\d{1,18})", re.ASCII)


def owns(name: str, top: frozenset[str]) -> bool:
    return "weights" in top and ("context" in top or bool(_STEP.search(name)))


def look(tree: Tree, beside: Beside) -> Layout:
    # NeMo makes the marker's name so (nemo/utils/callbacks/nemo_model_checkpoint.py).
    marker = beside.name.removesuffix(".ckpt").removesuffix("-EMA") + UNFINISHED
    if marker in beside.names:
        return Layout(f"{marker} is beside it: its save or its deletion was not finished")
    return megatron.part(tree, "weights/")
