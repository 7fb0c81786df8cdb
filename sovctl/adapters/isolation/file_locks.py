"""Locks on files that others may remove while they are waited for."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def try_exclusive(descriptor: int) -> bool:
    """Whether the lock is had now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def has_its_name(descriptor: int, path: Path) -> bool:
    """Whether what is locked still has this name: the one before may have removed it when it was done."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
