"""`sovctl step FRONT EXEC OPTIONS -- SRUN OPTIONS COMMAND`: what `srun` is in the script of a run that has an image.

Not typed by people. Every step of such a script starts through this, so it imports neither typer nor rich.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sovctl.cli import wiring
from sovctl.errors import UsageError
from sovctl.submit.srun_line import around_command


def run(argv: Sequence[str]) -> int:
    """Become srun, with `sovctl exec` before the command."""
    words = list(argv)
    if "--" not in words[1:]:
        raise UsageError("sovctl step is started by the srun of a script with an image", hint="Use: sovctl exec")
    split = words.index("--")
    prefix = (sys.executable, "-P", "-m", "sovctl", "exec", *words[1:split], "--")
    # Our own srun stays in the PATH of the task: what a task starts is inside too.
    wiring.become_behind(words[0], ["srun", *around_command(words[split + 1 :], prefix)], os.environ)
    return 0
