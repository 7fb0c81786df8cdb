"""Which signals to the batch script of a job can be handed on to the user's script, and what Slurm calls them. Pure."""

from __future__ import annotations

import re
import signal

_OWN_DOING = (
    *(signal.SIGILL, signal.SIGTRAP, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS),
    *(signal.SIGPIPE, signal.SIGCHLD, signal.SIGXCPU, signal.SIGXFSZ),
)
"""The kernel sends them to a process for what it did itself, which does not concern the script."""
_OF_SUSPENSION = (signal.SIGTSTP, signal.SIGCONT)
"""slurmstepd sends them to every process of a job that is suspended, goes on or ends (22.05 to 26.05): the script has
them already, and one that came to the batch script alone looks the same."""
_UNTRAPPABLE = (signal.SIGKILL, signal.SIGSTOP)
PASSED_ON: tuple[int, ...] = tuple(
    sorted(int(number) for number in signal.valid_signals() - {*_OWN_DOING, *_OF_SUSPENSION, *_UNTRAPPABLE})
)
"""Every other one, those without a name (SIGRTMIN to SIGRTMAX) included."""
_OPTION = re.compile(r"(?P<flags>[RB]*):?\s*(?:(?P<number>[0-9]{1,5})|(?:SIG)?(?P<name>[A-Z0-9]+))\s*(?:@.*)?", re.I)


def signal_name(number: int) -> str:
    """SIGUSR1; for one without a name of its own as `kill -l` has it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number in PASSED_ON else f"signal {number}"


def batch_signal(option: str | None) -> int | None:
    """The signal that `--signal` has Slurm send to the batch script; None: it goes to the steps alone, or sbatch is
    going to refuse the value (get_signal_opts, 22.05 to 26.05: the letters in any order and case)."""
    found = _OPTION.fullmatch(option.strip()) if option else None
    if found is None or "B" not in found["flags"].upper():
        return None
    if found["number"]:
        return int(found["number"])
    known = signal.Signals.__members__.get(f"SIG{found['name'].upper()}")
    return None if known is None else int(known)
