"""The files beside slurm.conf, and the lines of plugstack.conf."""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from pathlib import Path

_BYTES = 1 << 20


def beside_slurm_conf(name: str) -> tuple[Path, ...]:
    """Beside slurm.conf; of a node without configuration of its own, where slurmd keeps what it was sent."""
    named = os.environ.get("SLURM_CONF")
    return ((Path(named).with_name(name),) if named else ()) + (Path("/etc/slurm", name), Path("/run/slurm/conf", name))


def plugin_lines() -> tuple[str, ...]:
    """Of the first plugstack.conf there is, with what it includes in place; none where it cannot be read."""
    for path in beside_slurm_conf("plugstack.conf"):
        if lines := _lines(path):
            return tuple(inner for line in lines for inner in _included(line, path))
    return ()


def _included(line: str, path: Path) -> list[str]:
    words = line.split()
    if len(words) != 2 or words[0] != "include":
        return [line]
    found = sorted(glob.glob(words[1], root_dir=path.parent))  # noqa: PTH207 - a pattern, which may be absolute
    return [inner for name in found for inner in _lines(path.parent / name)]


def _lines(path: Path) -> list[str]:
    with suppress(OSError), path.open("rb") as file:
        return file.read(_BYTES).decode("utf-8", "replace").splitlines()
    return []
