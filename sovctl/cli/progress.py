"""A line that says what a person waits for, once that takes longer than they would sit still."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sovctl.cli.tables import colours
from sovctl.cli.words import age, printable, terminal_width

QUIET_S = 2.0
"""What is faster needs no words."""
_EVERY_S = 0.5


@contextmanager
def progress(words: str, *, quiet_s: float = QUIET_S) -> Iterator[None]:
    """While the body runs for longer than `quiet_s`: one line on stderr with the time so far, gone at the end.

    Only on a terminal: a log is not filled with it, and stdout is never touched.
    """
    if not colours(sys.stderr, plain=True):
        yield
        return
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(printable(words), quiet_s, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _tell(words: str, quiet_s: float, over: threading.Event) -> None:
    began, wait_s = time.monotonic(), quiet_s
    shown = False
    while not over.wait(wait_s):
        line = f"{words}, {age(time.monotonic() - began)} ..."[: terminal_width() - 1]
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()
        shown, wait_s = True, _EVERY_S
    if shown:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
