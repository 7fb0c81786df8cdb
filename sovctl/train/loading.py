"""Loads a checkpoint into live tensors, on whatever shape the ranks have now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.checkpoint.complete import judge
from sovctl.checkpoint.find import candidates, step_of
from sovctl.errors import CheckpointUnanswered
from sovctl.model.checkpoint import CheckpointState
from sovctl.train import whole
from sovctl.train.tree import random_key, rank_key

if TYPE_CHECKING:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata

MetadataOf = Callable[[Path, Any], Any]
"""(path, torch's reader) -> torch's metadata."""


class NotLoadable(Exception):
    """This rank cannot load it; the text is a clause that says why. Becomes CheckpointUnloadable when all know."""

    def __init__(self, why: str, *, touched: bool) -> None:
        """`touched`: some live tensors may have been overwritten already, so that nothing is as it was made."""
        super().__init__(why)
        self.touched = touched


def read_into(path: Path, tree: dict[str, Any], rank: int, metadata_of: MetadataOf | None = None) -> None:
    """Fill the tree in place from a checkpoint that is proven complete. What this rank did not save stays as it is.

    Each rank reads what it needs by itself; nothing is collective. This unpickles: only what the run itself saved and
    marked gets here. Raises NotLoadable.
    """
    fill = None
    try:
        fill = _plan(path, tree, rank, metadata_of or (lambda _, reader: reader.read_metadata()))
        fill()
    except Exception as error:
        raise NotLoadable(f"{type(error).__name__}: {error}", touched=fill is not None) from error


def proven_step(path: Path) -> tuple[int, str]:
    """(step, why it must not be loaded)."""
    step = step_of(path.name)
    if step is None:
        return 0, "its name is not step-<N>"
    checkpoint = judge(path, step)
    return step, "" if checkpoint.state is CheckpointState.COMPLETE else checkpoint.why


def content_problem(path: Path, step: int) -> str:
    """Why its content cannot be what was saved, by its checksums; empty when it is, has none, or nobody can tell."""
    checkpoint = judge(path, step, deep=True)
    return "" if checkpoint.state is CheckpointState.COMPLETE or checkpoint.unanswered else checkpoint.why


def older_complete(directory: Path, step: int) -> Path | None:
    """The newest complete checkpoint below `step`. Raises CheckpointDirUnreadable."""
    for candidate, path in candidates(directory):
        if candidate >= step:
            continue
        checkpoint = judge(path, candidate)
        if checkpoint.unanswered:
            raise CheckpointUnanswered(str(path), checkpoint.why)
        if checkpoint.state is CheckpointState.COMPLETE:
            return path
    return None


def _plan(path: Path, tree: dict[str, Any], rank: int, metadata_of: MetadataOf) -> Callable[[], None]:
    """What is to be read from where; nothing is overwritten before the result is called."""
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    reader = FileSystemReader(path)
    metadata = metadata_of(path, reader)
    saved = metadata.state_dict_metadata
    if random_key(rank) in saved:
        tree[random_key(rank)] = torch.empty(saved[random_key(rank)].size, dtype=torch.uint8)
    else:  # this rank is new: it was not there when the checkpoint was saved
        for name in [name for name in tree if name.startswith(rank_key(rank, ""))]:
            del tree[name]
    in_one_piece = [key for key in tree if whole.is_whole(key, saved)]
    for key in in_one_piece:
        del tree[key]
        tree.update(whole.room_for(key, saved))
    read = _plan_entries(tree, rank, reader, metadata)

    def fill() -> None:
        read()
        tree.update({key: whole.put_together(key, tree) for key in in_one_piece})

    return fill


def _plan_entries(
    tree: dict[str, Any], rank: int, reader: FileSystemReader, metadata: Metadata
) -> Callable[[], object]:
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    planner = DefaultLoadPlanner()
    planner.set_up_planner(tree, metadata, is_coordinator=rank == 0)
    reader.set_up_storage_reader(metadata, is_coordinator=rank == 0)
    plan = planner.finish_plan(reader.prepare_local_plan(planner.create_local_plan()))
    missing = next((item for item in plan.items if item.storage_index not in metadata.storage_data), None)
    if missing is not None:
        raise KeyError(f"{missing.storage_index.fqn} at {missing.storage_index.offset} is not in it")
    return lambda: reader.read_data(plan, planner).wait()
