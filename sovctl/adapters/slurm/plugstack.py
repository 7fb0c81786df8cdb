"""The files beside slurm.conf, and the lines of plugstack.conf."""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from pathlib import Path

_BYTES = 1 << 20
_DEEPEST = 3
"""Files that include files; one that includes itself ends there."""


def beside_slurm_conf(name: str) -> tuple[Path, ...]:
    """Beside slurm.conf; of a node without configuration of its own, where slurmd keeps what it was sent."""
    named = os.environ.get("SLURM_CONF")
    return ((Path(named).with_name(name),) if named else ()) + (Path("/etc/slurm", name), Path("/run/slurm/conf", name))


def plugin_lines() -> tuple[str, ...]:
    """Of the first plugstack.conf there is, with what it includes in place; none where it cannot be read."""
    return next(filter(None, map(lines_with_included, beside_slurm_conf("plugstack.conf"))), ())


def lines_with_included(path: Path, depth: int = 0) -> tuple[str, ...]:
    """Of this plugstack.conf, with what it includes in place; none where it cannot be read."""
    return tuple(inner for line in _lines(path) for inner in _included(line, path, depth))


def _included(line: str, path: Path, depth: int) -> tuple[str, ...]:
    words = line.partition("#")[0].split()
    if len(words) != 2 or words[0] != "include":
        return (line,)
    if depth >= _DEEPEST:
        return ()
    found = sorted(glob.glob(words[1], root_dir=path.parent))  # noqa: PTH207 - a pattern, which may be absolute
    return tuple(inner for name in found for inner in lines_with_included(path.parent / name, depth + 1))


def _lines(path: Path) -> list[str]:
    with suppress(OSError), path.open("rb") as file:
        return file.read(_BYTES).decode("utf-8", "replace").splitlines()
    return []
