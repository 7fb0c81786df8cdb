"""How large a tree of files is that others write to meanwhile."""

from __future__ import annotations

import os
from pathlib import Path


def tree_bytes(top: Path) -> int:
    """Bytes of all files below; what vanishes meanwhile, or cannot be looked at, is not counted."""
    total = 0
    for folder, _, names in os.walk(top):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - names of an image are bytes
            except OSError:
                continue
    return total
