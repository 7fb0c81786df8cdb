"""Errors that say nothing of what lies on a file system: the server is away, a mount is stale, a path to it is lost."""

from __future__ import annotations

import errno

_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN})


def is_passing(error: Exception) -> bool:
    """Whether the same question may have another answer in a minute, so that this one must not count as one."""
    return isinstance(error, OSError) and error.errno in _PASSING
