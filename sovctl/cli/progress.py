"""A line that says what a person waits for, once that takes longer than they would sit still."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sovctl.cli.tables import colours
from sovctl.cli.words import age, printable, terminal_width

QUIET_S = 2.0
"""What is faster needs no words."""
_EVERY_S = 0.5


class Waiting:
    """The line that is shown now, if any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown = False

    def beside(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say`, for words that come while the line stands there: they get a line of their own."""

        def told(words: str) -> None:
            with self._lock:
                self._clear()
                say(words)

        return told

    def show(self, line: str) -> None:
        """In the place of the one before."""
        with self._lock:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            self._shown = True

    def end(self) -> None:
        """Leave nothing behind."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


@contextmanager
def progress(words: str, *, quiet_s: float = QUIET_S) -> Iterator[Waiting]:
    """While the body runs for longer than `quiet_s`: one line on stderr with the time so far, gone at the end.

    Only on a terminal: a log is not filled with it, and stdout is never touched. What the body says meanwhile goes
    through `beside`.
    """
    waiting = Waiting()
    if not colours(sys.stderr, plain=True):
        yield waiting
        return
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(printable(words), quiet_s, over, waiting), daemon=True)
    teller.start()
    try:
        yield waiting
    finally:
        over.set()
        teller.join()
        waiting.end()


def _tell(words: str, quiet_s: float, over: threading.Event, waiting: Waiting) -> None:
    began, wait_s = time.monotonic(), quiet_s
    while not over.wait(wait_s):
        waiting.show(f"{words}, {age(time.monotonic() - began)} ..."[: terminal_width() - 1])
        wait_s = _EVERY_S
