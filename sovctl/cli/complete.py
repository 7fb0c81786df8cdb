"""`sovctl complete KIND [--] WORD`: what the completion scripts ask for. Not typed by people.

A person waits for this with a finger on TAB: it imports little, answers within a second or not at all, and never
prints an error.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

_LIMIT_S = 0.85
"""The shell waits for the start of Python too: a second with it."""


def run(argv: Sequence[str]) -> int:
    """Print the names that fit, one a line; nothing when anything goes wrong."""
    words = [word for word in argv if word != "--"]
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT_S)
    try:
        from sovctl.cli import wiring

        found = wiring.known_names(words[0]).fitting(words[1] if len(words) > 1 else "")
    except Exception:
        # Whatever it is: the person wants to go on typing, and learns of it from the command itself.
        return 0
    signal.setitimer(signal.ITIMER_REAL, 0)
    print("\n".join(found))
    return 0


def _too_late(*_: object) -> NoReturn:
    sys.stdout.flush()
    os._exit(0)
