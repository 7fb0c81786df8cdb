"""safetensors: one file, or several with an index (`*.safetensors.index.json`) that names every one of them."""

from __future__ import annotations

from sovctl.checkpoint.content import read_json
from sovctl.checkpoint.formats.layout import Beside, Layout, missing
from sovctl.checkpoint.tree import Tree

NAME = "safetensors"
TRACKERS: tuple[str, ...] = ()
INDEX = "model.safetensors.index.json"
_SUFFIX = ".safetensors"


def owns(name: str, top: frozenset[str]) -> bool:
    return name.endswith(_SUFFIX) or any(entry.endswith((_SUFFIX, f"{_SUFFIX}.index.json")) for entry in top)


def look(tree: Tree, beside: Beside) -> Layout:
    indexes = [name for name in tree.files if name.endswith(f"{_SUFFIX}.index.json")]
    for index in indexes:
        lost = index_problem(tree, index)
        if lost:
            return lost
    if indexes:
        return Layout(mark=indexes[0])
    weights = [name for name in tree.files if name.endswith(_SUFFIX)]
    if not weights:
        return Layout("there is no .safetensors file in it")
    return _unindexed(weights) or Layout()


def index_problem(tree: Tree, index: str) -> Layout | None:
    """What an index (of safetensors or of `pytorch_model.bin`) names and is not there. Raises OSError."""
    record = read_json(tree, index)
    named = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(named, dict) or not named:
        return Layout(f"{index} is not readable as an index", corrupt=True)
    parent = index.rpartition("/")[0]
    files = {f"{parent}/{name}" if parent else str(name) for name in named.values()}
    lost = missing(name for name in files if name not in tree.files)
    return Layout(lost) if lost else None


def _unindexed(weights: list[str]) -> Layout | None:
    """`model-00001-of-00004.safetensors` says by its name how many there are."""
    for name in sorted(weights):
        head, of, count = name.removesuffix(_SUFFIX).rpartition("-of-")
        stem, dash, number = head.rpartition("-")
        if of and dash and number.isdigit() and count.isdigit():
            return Layout(f"the index of its {int(count)} files is missing ({stem}{_SUFFIX}.index.json)")
    return None
