"""Lets one process of a kind run at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from sovctl.errors import RefusedError, SovctlError


def claim(path: Path, what: str, say: Callable[[str], None]) -> int:
    """Hold the lock until this process ends; returns the descriptor. Raises RefusedError when another holds it. Where
    the file system has no locks, that is said and nothing more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise SovctlError(
            f"cannot use {path}: {error.strerror}",
            hint=f"Run it as root or SlurmUser; see whose it is: ls -ld {path.parent}",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RefusedError(
            f"{what} runs already (it holds {path})", hint=f"Stop that one first; see which it is: fuser -v {path}"
        ) from None
    except OSError as error:
        # Then it is the administrator who runs one only.
        say(f"{path} cannot be locked ({error.strerror}): nothing keeps a second {what} from running; run only one")
    return descriptor
