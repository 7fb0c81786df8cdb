"""torch.distributed.checkpoint: `__<rank>_<number>.distcp`, and `.metadata`, renamed into place last by rank 0.

`.metadata` is a pickle. Its opcodes are walked for the names of the shards and for how long each must be; it is
never unpickled. A save into a directory that was used before leaves the old `.metadata` until its end.
"""

from __future__ import annotations

from sovctl.checkpoint.dcp import METADATA, shard_rank
from sovctl.checkpoint.formats.layout import Beside, Layout, missing
from sovctl.checkpoint.opcodes import NotAPickle, shard_lengths, shard_names
from sovctl.checkpoint.tree import Tree

NAME = "dcp"
TRACKERS: tuple[str, ...] = ()
_LONGEST_METADATA = 1024 * 1024 * 1024
_BLOCK = 16 * 1024 * 1024
_SEAM = 512
"""More than a name and what stands before it, which may lie across the end of a block."""
WALKED_BYTES = 16 * 1024 * 1024
"""A longer table of contents is not walked, at about 10 MB a second: then each shard must end like its like."""
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22


def owns(name: str, top: frozenset[str]) -> bool:
    return METADATA in top or any(entry.endswith(".distcp") for entry in top)


def look(tree: Tree, beside: Beside) -> Layout:
    return part(tree)


def part(tree: Tree, prefix: str = "") -> Layout:
    """The same for a DCP checkpoint in a subdirectory; `prefix` ends with `/`. Raises OSError."""
    mark = prefix + METADATA
    shards = {name for name in tree.files if name.startswith(prefix) and name.endswith(".distcp")}
    if f"{mark}.tmp" in tree.files:
        return Layout(f"a save into it was not finished: {mark}.tmp is there")
    if mark not in tree.files:
        return Layout(f"{mark} is missing, which is written when all shards are" if shards else f"{mark} is missing")
    lengths = _lengths(tree, mark)
    if lengths is None:
        return Layout(f"{mark} is not the table of contents of a checkpoint", corrupt=True, mark=mark)
    lost = missing(prefix + name for name in lengths if prefix + name not in shards)
    if lost:
        return Layout(lost, mark=mark)
    cut = (
        _without_end(tree, [prefix + name for name in sorted(lengths)]) if tree.files[mark].size > WALKED_BYTES else ""
    )
    if cut:
        return Layout(f"{cut} is truncated: it does not end as the others do", corrupt=True, mark=mark)
    for name, length in sorted(lengths.items()):
        size = tree.files[prefix + name].size
        if size < max(length, 1):
            why = f"{prefix}{name} is empty" if size == 0 else f"{prefix}{name} has {size} of {length} bytes"
            return Layout(why, corrupt=True, mark=mark)
    closed = frozenset(prefix + name for name in lengths)
    ranks = {rank for rank in map(shard_rank, lengths) if rank is not None}
    return Layout(mark=mark, closed=closed, world_size=max(ranks) + 1 if ranks else None)


def _without_end(tree: Tree, shards: list[str]) -> str:
    """The first shard that ends otherwise than most. Each piece is a file of torch.save, and so ends with a zip's end
    record without a comment; a shard of other pieces (safetensors) is left to its size."""
    cut = [name for name in shards if not tree.read(name, _ZIP_END_BYTES, -_ZIP_END_BYTES).startswith(_ZIP_END)]
    return cut[0] if cut and 2 * len(cut) < len(shards) else ""


def _lengths(tree: Tree, mark: str) -> dict[str, int] | None:
    """Shard -> bytes it needs, as far as the table tells within bounded work; `None`: it names no shard at all."""
    size = tree.files[mark].size
    if size <= WALKED_BYTES:
        try:
            found = shard_lengths(tree.read(mark, WALKED_BYTES))
        except NotAPickle:
            return None
        return found or None
    names: set[str] = set()
    for at in range(0, min(size, _LONGEST_METADATA), _BLOCK):
        names |= shard_names(tree.read(mark, _BLOCK + _SEAM, at))
    if tree.read(mark, 1, -1) != b".":
        return None
    return dict.fromkeys(names, 1) or None
