"""Which signals go on to the script, and what --signal says."""

from __future__ import annotations

import signal

import pytest

from sovctl.model.signals import PASSED_ON, batch_signal, signal_name

OF_SLURM = ("HUP", "INT", "QUIT", "ABRT", "ALRM", "TERM", "USR1", "USR2", "URG", "TTIN", "TTOU")


@pytest.mark.parametrize("name", OF_SLURM)
def test_what_slurm_has_a_name_for_goes_on(name: str) -> None:
    assert signal.Signals[f"SIG{name}"] in PASSED_ON


@pytest.mark.parametrize("name", ["KILL", "STOP", "CHLD", "SEGV", "PIPE", "XCPU", "TSTP", "CONT"])
def test_what_cannot_be_trapped_or_told_from_what_others_get_does_not(name: str) -> None:
    assert signal.Signals[f"SIG{name}"] not in PASSED_ON


@pytest.mark.parametrize(
    ("option", "number"),
    [
        ("B:USR1@120", signal.SIGUSR1),
        ("b:sigquit", signal.SIGQUIT),
        ("RB:3@60", 3),
        ("BR:ALRM", signal.SIGALRM),
        ("B:40@60", 40),
        ("BKILL@60", signal.SIGKILL),
        ("B: KILL @60", signal.SIGKILL),
        ("USR1@120", None),
        ("R:KILL@60", None),
        ("KILL@60", None),
        ("B:NONSENSE@60", None),
        ("B:", None),
        ("", None),
        (None, None),
    ],
)
def test_what_goes_to_the_batch_script(option: str | None, number: int | None) -> None:
    assert batch_signal(option) == number


def test_names() -> None:
    assert signal_name(10) == "SIGUSR1"
    assert signal_name(40) == "SIGRTMIN+6"
    assert signal_name(4000) == "signal 4000"
