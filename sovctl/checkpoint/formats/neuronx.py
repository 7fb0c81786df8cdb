"""neuronx-distributed: `step_<N>/` with `model/`, `optim/` and more, a file of each rank; `done` is written last.

File names and order as in neuronx_distributed/trainer/checkpoint.py: `checkpoint` first, `done` after a rendezvous;
before a deletion `done` goes first.
"""

from __future__ import annotations

import re
from collections import defaultdict

from sovctl.checkpoint.formats.layout import Beside, Layout, missing, plausible
from sovctl.checkpoint.tree import Tree

NAME = "neuronx"
TRACKERS: tuple[str, ...] = ()
_DONE = "done"
_SHARD = re.compile(r"(model|optim)/dp_rank_(\d+)_tp_rank_(\d+)_pp_rank_(\d+)\.pt", re.ASCII)


def owns(name: str, top: frozenset[str]) -> bool:
    return bool({_DONE, "checkpoint"} & top) and bool({"model", "optim", "user_content.pt"} & top)


def look(tree: Tree, beside: Beside) -> Layout:
    if _DONE not in tree.files:
        return Layout(f"the file {_DONE} is missing, which is written last")
    kinds: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for name in tree.files:
        if found := _SHARD.fullmatch(name):
            kinds[found[1]].add(tuple(int(number) for number in found.groups()[1:]))
    if not kinds:
        return Layout("there is no file of a rank in it")
    lost: list[str] = []
    for kind, ranks in kinds.items():
        sizes = [max(rank[axis] for rank in ranks) + 1 for axis in range(3)]
        plausible(sizes[0] * sizes[1] * sizes[2])
        grid = {(d, t, p) for d in range(sizes[0]) for t in range(sizes[1]) for p in range(sizes[2])}
        lost += [f"{kind}/dp_rank_{d:02d}_tp_rank_{t:02d}_pp_rank_{p:02d}.pt" for d, t, p in grid - ranks]
    closed = frozenset(name for name in tree.files if name.endswith(".pt"))
    return Layout(missing(lost), mark=_DONE, closed=closed)
