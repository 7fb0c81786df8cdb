"""Slows a process down the way a slow GPU does: it computes only for a part of the time. Run by the fault `gpu-slow`.

python -m sovctl.lab.brake PID SHARE      SHARE: the part of the time in which it stands still, 0 to 1
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

_CYCLE_S = 0.04


def main(pid: int, share: float) -> None:
    """Until the process is gone or we are told to end; either way it is left running."""

    def leave(*_: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    try:
        while True:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(_CYCLE_S * share)
            os.kill(pid, signal.SIGCONT)
            time.sleep(_CYCLE_S * (1 - share))
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
