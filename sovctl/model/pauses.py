"""When something that is done every few seconds is due."""

from __future__ import annotations


def due(now: float, last: float, every_s: float) -> bool:
    """Whether it is time again; `now` and `last` in seconds of one clock.

    A clock that was set back makes it due: otherwise nobody would look until it is as late again as it was.
    """
    return not 0.0 <= now - last < every_s
