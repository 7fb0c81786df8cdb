"""torchtitan: `step-<N>/` of torch DCP, or of safetensors with an index; either `.metadata` or the index is the mark.

What it saves with DCP differs from a plain one only in a key: the state of its trainer is `train_state`.
"""

from __future__ import annotations

import re

from sovctl.checkpoint.dcp import METADATA
from sovctl.checkpoint.formats import dcp, safetensors
from sovctl.checkpoint.formats.layout import Beside, Layout
from sovctl.checkpoint.opcodes import LONGEST_BYTES
from sovctl.checkpoint.tree import Tree

NAME = "torchtitan"
TRACKERS: tuple[str, ...] = ()
_NAME = re.compile(r"step-\d{1,18}", re.ASCII)


def owns(name: str, top: frozenset[str]) -> bool:
    """Only with an index: a `step-<N>` of DCP has the same names whoever wrote it; see `wrote`."""
    return bool(_NAME.fullmatch(name)) and safetensors.INDEX in top and METADATA not in top


def wrote(name: str, tree: Tree) -> bool:
    """Whether a DCP checkpoint is torchtitan's. Raises OSError."""
    if not _NAME.fullmatch(name) or METADATA not in tree.files:
        return False
    return b"train_state" in tree.read(METADATA, LONGEST_BYTES)


def look(tree: Tree, beside: Beside) -> Layout:
    if safetensors.INDEX in tree.files and METADATA not in tree.files:
        return safetensors.look(tree, beside)
    return dcp.look(tree, beside)
