"""The `sovctl` command: finds the command group asked for, imports only that, and turns errors into words.

Start-up time is part of the product: `sovctl --help` imports no group, and node-side commands (`health`,
`supervise`) import neither typer nor rich.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from sovctl.cli.words import fitted, flush_output, printable, say, say_next, terminal_width
from sovctl.errors import EXIT_FAILED, EXIT_USAGE, DirectoryGone, SovctlError

# The Debian package brings the libraries along that its release has too old; a training script never sees them.
_BROUGHT_ALONG = f"{os.path.abspath(__file__).removesuffix('cli/main.py')}_vendor"  # noqa: PTH100 - pathlib takes 3 ms
if os.path.isdir(_BROUGHT_ALONG):  # noqa: PTH112
    sys.path.insert(0, _BROUGHT_ALONG)


@dataclass(frozen=True, slots=True)
class Group:
    """One word after `sovctl`; `module` has `run(argv) -> int`."""

    module: str
    help: str
    listed: bool = True
    quick: str = ""
    """Module whose `run(argv)` answers a plain `ls` without typer, or gives None for the full one to answer."""


GROUPS = {
    "submit": Group("sovctl.cli.submit", "Submit a training run; takes any sbatch option."),
    "run": Group("sovctl.cli.run", "Your runs: ls, show, why, events, stop, resume.", quick="sovctl.cli.run_ls"),
    "report": Group("sovctl.cli.report", "What failed, how long it took, what was lost: a table, JSON or a page."),
    "ckpt": Group("sovctl.cli.ckpt", "Checkpoints: ls, verify, latest, quarantine, prune, advise."),
    "doctor": Group("sovctl.cli.doctor", "What of this site fits, and what to type where it does not."),
    "exec": Group("sovctl.cli.exec", "Run a command in an image, or isolated on the host's own root."),
    "image": Group("sovctl.cli.image", "Images: ls, resolve, prefetch, gc, env."),
    "node": Group(
        "sovctl.cli.node",
        "Nodes of the cluster: ls, show, check, drain, resume, history.",
        quick="sovctl.cli.node_ls",
    ),
    "health": Group("sovctl.cli.health", "On a node: check, watch, prolog, epilog, probes, burn-in, explain."),
    "spare": Group("sovctl.cli.spare", "Spares in the pool by preemption: set, status, advise, test."),
    "sweep": Group("sovctl.cli.sweep", "One pass over the cluster: ask, compare, drain and give back nodes."),
    "watch": Group("sovctl.cli.watch", "On the controller: declare dead nodes down, take over their runs."),
    "site": Group("sovctl.cli.site", "Set up nodes, controller and login nodes: install, uninstall, status, lines."),
    "alert": Group("sovctl.cli.alert", "Messages to people: test, ls, send."),
    "lab": Group(
        "sovctl.cli.lab", "A real Slurm cluster on this machine: up, down, status, inject, heal, shell, demo."
    ),
    "config": Group("sovctl.cli.config", "The settings that count here, and where each came from."),
    "completion": Group("sovctl.cli.completion", "Print the completion script of bash, zsh or fish."),
    "complete": Group("sovctl.cli.complete", "Internal: names for the completion scripts.", listed=False),
    "look": Group("sovctl.cli.look", "Internal: a look at the ranks of a job on this node.", listed=False),
    "step": Group("sovctl.cli.step", "Internal: srun in the script of a run that has an image.", listed=False),
    "supervise": Group("sovctl.cli.supervise", "Internal: runs inside the batch script.", listed=False),
}


def main() -> None:
    """Entry point of the console script; never returns, never shows a traceback for an expected error."""
    _ready_streams()
    argv = sys.argv[1:]
    status = run(argv)
    if argv[:1] == ["supervise"] or _quick(argv):
        # Slurm waits for the very end of a supervisor to count a requeued job out; Python takes 20 ms to tidy up, on a
        # busy machine ten times that, and the job's begin time must still be ahead then (docs/decisions.md, 1). Nor
        # does a person wait until the thousands of records behind a listing are put away.
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _ready_streams() -> None:
    """Whoever calls may have closed a standard stream, whose number no other file must get then; and not every terminal
    has the characters of every name."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in ((1, "stdout"), (_STDERR, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w"))
        getattr(sys, name).reconfigure(errors="backslashreplace")


_STDERR = 2


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    try:
        return _written(list(argv))
    except SovctlError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader (`| head`) went away; nothing is wrong, and Python must not complain at exit either. Nobody knows
        # which of the two it read (`2>&1 | head`): nothing more is said on either.
        _write_nowhere(sys.stdout, sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
            _write_nowhere(sys.stdout)
            hint = "Make room where the output goes, or send it elsewhere: df -h ."
            print_error(SovctlError(f"cannot write the output: {error.strerror}", hint=hint))
            return EXIT_FAILED
        if isinstance(error, FileNotFoundError) and error.filename is None and _nowhere():
            print_error(DirectoryGone())
            return EXIT_FAILED
        if os.environ.get("SOVCTL_DEBUG"):
            raise
        if isinstance(error, OSError) and error.errno and isinstance(error.filename, str | bytes):
            print_error(_unusable(os.fsdecode(error.filename), error))
            return EXIT_FAILED
        words = f"unexpected {type(error).__name__}: {error}"
        print_error(SovctlError(words, hint="This is a bug in sovctl; SOVCTL_DEBUG=1 shows where."))
        return EXIT_FAILED


def _written(argv: list[str]) -> int:
    """The status, once all of the output is written: what fails is said here, and not by Python at its end."""
    try:
        status = _dispatch(argv)
    except SystemExit:  # argparse, behind a --help
        flush_output()
        raise
    try:
        flush_output()
    except OSError:
        if not status and argv[:1] != ["supervise"]:
            raise
        _write_nowhere(sys.stdout)  # the status says more, such as that a node is not fit, or how a run ended
    return status


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a write into a file says where a disk is full or broken."""


def _write_nowhere(*streams: TextIO) -> None:
    """What is left in Python's buffers must not fail again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())


def _unusable(name: str, error: OSError) -> SovctlError:
    """A file or directory that nobody reckoned with, such as a name that is too long for any."""
    shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    return SovctlError(f"cannot use {shown}: {error.strerror}", hint=f"See what is there: ls -ld {shown}")


_LONGEST_NAME = 200


def _nowhere() -> bool:
    """Whether the directory this was typed in is gone."""
    try:
        os.getcwd()  # noqa: PTH109 - pathlib takes 3 ms
    except FileNotFoundError:
        return True
    return False


def print_error(error: SovctlError) -> None:
    """One sentence on what failed, then what to type next."""
    try:
        flush_output()
    except OSError:
        _write_nowhere(sys.stdout)
    try:
        say(f"sovctl: {error.message}")
        say_next(error.hint)
    except BrokenPipeError:
        _write_nowhere(sys.stderr)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(fitted(usage(), terminal_width()))
        return 0 if argv else EXIT_USAGE
    if argv[0] in ("-V", "--version"):
        from sovctl import __version__

        print(f"sovctl {__version__}")
        return 0
    group = GROUPS.get(argv[0])
    if group is None:
        say(f"sovctl: there is no command {printable(argv[0])!r}{_nearest(argv[0])}")
        say_next("See what there is: sovctl --help")
        return EXIT_USAGE
    status = None
    if _quick(argv):
        status = importlib.import_module(group.quick).run(argv[2:])
    if status is None:
        status = importlib.import_module(group.module).run(argv[1:])
    return int(status or 0)


def _quick(argv: Sequence[str]) -> bool:
    """Whether this is a listing that is waited for."""
    return argv[1:2] == ["ls"] and argv[0] in GROUPS and bool(GROUPS[argv[0]].quick)


def usage() -> str:
    """The text of `sovctl --help`."""
    lines = [
        "Usage: sovctl COMMAND [OPTIONS] [ARGS]...",
        "",
        "Keeps large-model training running on Slurm.",
        "",
        "Commands:",
    ]
    lines += [f"  {name:<10} {group.help}" for name, group in GROUPS.items() if group.listed]
    lines += ["", "Options:", "  -V, --version  Show the version.", "  -h, --help     Show this text.", ""]
    lines += ["More on one: sovctl COMMAND --help", "Try it on this machine: sovctl lab demo"]
    return "\n".join(lines)


def _nearest(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, [key for key, group in GROUPS.items() if group.listed], n=1)
    return f"; did you mean {close[0]}?" if close else ""
