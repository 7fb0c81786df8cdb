"""Makes a run's supervisor mortal: each life of it ends, by SIGKILL, before the effect that would be one too many.

Run at the start of every Python of a job (as sitecustomize); only `sovctl supervise` is changed. Effects count from the
moment when there is something to recover from. MORTAL_LIVES: how many effects each life has, the first life's first;
who comes after them is immortal. MORTAL_DEATHS: a file that gets a line for each death, with the effect not done.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_COMMANDS = ("requeue", "update_pending", "drop_nodes", "kill_steps")
_BEGINS = frozenset({"detected", "script_ended", "attempt_ended", "taken_over"})


class Mortal:
    """One life; the process that waits for it, and starts the next one, does nothing of this."""

    def __init__(self, lives: list[int], deaths: Path) -> None:
        self._lives = lives
        self._deaths = deaths
        self._left: int | None = None

    def begin(self) -> None:
        """From now on effects count."""
        if self._left is None:
            died = len(self._deaths.read_text("utf-8").splitlines()) if self._deaths.exists() else 0
            self._left = self._lives[died] if died < len(self._lives) else sys.maxsize

    def before(self, effect: str) -> None:
        """Die of this one?"""
        if self._left is None:
            return
        if self._left == 0:
            with self._deaths.open("a", encoding="utf-8") as file:
                file.write(f"{effect}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def make_mortal(mortal: Mortal) -> None:
    """Let every effect of a recovery ask first."""
    from sovctl.adapters.journal import FileJournal
    from sovctl.adapters.slurm.cli import SlurmCli

    def asked(name: str, effect: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **named: Any) -> Any:
            mortal.before(name)
            return effect(*args, **named)

        return act

    for name in _COMMANDS:
        setattr(SlurmCli, name, asked(name, getattr(SlurmCli, name)))
    append = FileJournal.append

    def mortal_append(self: FileJournal, kind: str, **fields: Any) -> dict[str, Any]:
        if kind in _BEGINS:
            mortal.begin()
        mortal.before(f"append {kind}")
        return append(self, kind, **fields)

    FileJournal.append = mortal_append  # type: ignore[method-assign]


if "supervise" in sys.orig_argv[:6] and "MORTAL_LIVES" in os.environ:
    make_mortal(
        Mortal([int(word) for word in os.environ["MORTAL_LIVES"].split(",")], Path(os.environ["MORTAL_DEATHS"]))
    )
