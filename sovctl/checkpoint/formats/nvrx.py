"""NVIDIA Resiliency Extension, local: `<rank>/iter_<7 digits>_<rank>_local.pt` on the node that saved it.

`..._local.dirty.pt` is renamed into place per rank. An iteration counts only when every rank has it, so here: every
rank that has any. What the other nodes have cannot be seen from this one.
"""

from __future__ import annotations

import re
from pathlib import Path

from sovctl.checkpoint.formats.layout import Beside, Layout, missing
from sovctl.checkpoint.tree import Tree, top_names

NAME = "nvrx"
TRACKERS: tuple[str, ...] = ()
_FILE = re.compile(r"iter_(\d{7,18})_(\d+)_local\.pt", re.ASCII)
_DIRTY = re.compile(r"iter_(\d{7,18})_(\d+)_local\.dirty\.pt", re.ASCII)


def owns(name: str, top: frozenset[str]) -> bool:
    return False  # an iteration is not one entry of the directory


def iterations(directory: Path, names: list[str]) -> dict[int, list[str]]:
    """Step -> its files below the directory, with those that should be there of ranks that have other iterations.

    Raises OSError when the storage fails.
    """
    folders = ["", *(f"{name}/" for name in names if name.isascii() and name.isdigit())]
    found = {folder: sorted(top_names(directory / folder)) if folder else names for folder in folders}
    ranks = {(folder, match[2]) for folder in folders for name in found[folder] if (match := _any(name))}
    steps = {int(match[1]): match[1] for folder in folders for name in found[folder] if (match := _any(name))}
    return {
        step: [f"{folder}iter_{digits}_{rank}_local.pt" for folder, rank in sorted(ranks)]
        for step, digits in steps.items()
    }


def look(tree: Tree, beside: Beside) -> Layout:
    lost = missing(name for name in beside.names if name not in tree.files)
    return Layout(lost, world_size=len(beside.names))


def is_file(name: str) -> bool:
    """Whether a file is of a rank, finished or not."""
    return _any(name) is not None


def _any(name: str) -> re.Match[str] | None:
    return _FILE.fullmatch(name) or _DIRTY.fullmatch(name)
