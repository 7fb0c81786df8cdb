"""`sovctl watch --act` that lives for so many effects: SIGKILL comes before the next one. Its own process; run by
test_watch_killed.py with the number of effects."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sovctl.adapters.journal import FileJournal
from sovctl.adapters.site.site_answers import SiteAnswerFiles
from sovctl.adapters.site.watch_memory import WatchMemoryFile
from sovctl.adapters.slurm import step_daemons
from sovctl.adapters.slurm.cli import SlurmCli
from sovctl.adapters.slurm.pool import SlurmPool
from sovctl.cli import watch

_COMMANDS = ("set_down", "drain", "resume", "drop_nodes", "update_pending", "requeue", "put_first", "release")


def main(left: int) -> int:
    """Watch until killed, or told to stop."""

    def mortal(effect: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return effect(*args, **named)

        return act

    for name in _COMMANDS:
        setattr(SlurmCli, name, mortal(getattr(SlurmCli, name)))
    FileJournal.append = mortal(FileJournal.append)  # type: ignore[method-assign]
    SiteAnswerFiles.save = mortal(SiteAnswerFiles.save)  # type: ignore[method-assign]
    WatchMemoryFile.save = mortal(WatchMemoryFile.save)  # type: ignore[method-assign]
    SlurmPool.apply = mortal(SlurmPool.apply)  # type: ignore[method-assign]
    step_daemons.ask_to_free = mortal(step_daemons.ask_to_free)
    step_daemons.ask_to_end = mortal(step_daemons.ask_to_end)
    return watch.run(["--act"])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
