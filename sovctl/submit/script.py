"""Writes the batch script that is handed to sbatch: the user's script inside, the supervisor around it.

The comment lines at the top of the user's script stand at the top of the generated one, at the same line numbers, so
that sbatch itself reads the #SBATCH lines and its messages name the right line. The script itself follows byte for
byte in a here-document, which the supervisor reads from file descriptor 3.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from sovctl.submit.directives import leading_block
from sovctl.submit.nodes import NodePlan
from sovctl.submit.options import OwnOptions

SCRIPT_FD = 3
_LONGEST_LINE = 32 * 1024
STDIN_NAME = "sbatch"
"""sbatch names a job so when its script comes on stdin."""
WRAP_NAME = "wrap"


@dataclass(frozen=True, slots=True)
class UserScript:
    """What the user wants run."""

    name: str
    """Base name; sbatch makes the job name of it."""
    text: bytes

    @property
    def has_interpreter(self) -> bool:
        """Whether it starts with #!; sbatch takes no script without."""
        return self.text.startswith(b"#!")


@dataclass(frozen=True, slots=True)
class Launch:
    """How the supervisor is started on the batch host."""

    python: str
    version: str
    submitted: int
    """Seconds since the epoch; with the job id it names the run."""


def wrapped(command: str) -> UserScript:
    """The script for --wrap, as sbatch makes it."""
    return UserScript(WRAP_NAME, b"#!/bin/sh\n# From --wrap.\n\n" + _bytes(command) + b"\n")


def command_script(program: str) -> UserScript:
    """The script for `-- COMMAND...`; the command is its arguments."""
    return UserScript(program.rpartition("/")[2] or program, b'#!/bin/sh\nexec "$@"\n')


def batch_script(
    script: UserScript,
    own: OwnOptions,
    launch: Launch,
    arguments: Sequence[str] = (),
    nodes: NodePlan | None = None,
    *,
    expedite: bool = False,
    inside: str = "",
) -> bytes:
    """The text for sbatch. `inside`: in which image the run is, for the supervisor; empty: in none.

    A script that sbatch is going to refuse for its missing first line is returned as it is, so that sbatch says so in
    its own words; NUL bytes and DOS line ends are refused by sbatch inside the here-document too.
    """
    if not script.has_interpreter:
        return script.text
    body = embedded(script.text)
    mark = delimiter(body)
    lines = [
        b"#!/bin/bash",
        *leading_block(script.text)[1:],
        b"# Written by sovctl %s around %s; the script itself is at the end."
        % (_bytes(launch.version), _line(script.name)),
        # Slurm sends it once. What comes before the supervisor can hear it, its first look at the job finds out.
        b"trap '' TERM",
        *_interpreter_check(launch.python, expedite=expedite),
        *_lost_arguments(arguments),
        _supervise(script, own, launch, nodes or NodePlan(), inside) + b" %d<<'%s'" % (SCRIPT_FD, mark),
    ]
    return b"\n".join(lines) + b"\n" + body + mark + b"\n"


def embedded(text: bytes) -> bytes:
    """The script as it stands in the here-document: a missing line end at its very end is added."""
    return text if text.endswith(b"\n") else text + b"\n"


def delimiter(body: bytes) -> bytes:
    """A word that is no line of the body; the same body always gets the same word."""
    lines = set(body.split(b"\n"))
    digest = hashlib.sha256(body).hexdigest()
    mark = b"SOVCTL_SCRIPT_" + digest[:16].encode()
    while mark in lines:
        digest = hashlib.sha256(digest.encode()).hexdigest()
        mark = b"SOVCTL_SCRIPT_" + digest[:16].encode()
    return mark


def quoted(word: str) -> bytes:
    """One word for bash, whatever is in it."""
    return _bytes(shlex.quote(word))


def _interpreter_check(python: str, *, expedite: bool) -> list[bytes]:
    # An expedited job that ends so would be held by Slurm, not failed.
    stay_ended = [b'  scontrol update "JobId=$SLURM_JOB_ID" Requeue=0'] if expedite else []
    return [
        b"if ! [ -x %s ]; then" % quoted(python),
        b"  printf 'sovctl: %%s is not on this node; install sovctl where every node sees it\\n' %s >&2"
        % quoted(python),
        *stay_ended,
        b"  exit 127",
        b"fi",
    ]


def _lost_arguments(arguments: Sequence[str]) -> list[bytes]:
    """sbatch drops arguments that are a lone colon; then the script brings its arguments itself."""
    return [b"set -- " + b" ".join(map(quoted, arguments))] if ":" in arguments else []


def _supervise(script: UserScript, own: OwnOptions, launch: Launch, nodes: NodePlan, inside: str) -> bytes:
    words = ["--submitted", str(launch.submitted), "--name", script.name]
    for option, value in (
        ("--run-dir", own.run_dir),
        ("--checkpoint-dir", own.checkpoint_dir),
        ("--max-hardware-faults", own.max_hardware_faults),
        ("--same-crash-limit", own.same_crash_limit),
        ("--nodes", nodes.size or None),
        ("--spare-nodes", nodes.spares or None),
        ("--min-nodes", nodes.least or None),
        ("--lowest-nodes", nodes.lowest or None),
        ("--hang-timeout", own.hang_timeout),
        ("--progress-regex", own.progress_regex),
        ("--restart-stragglers", 1 if own.restart_stragglers else None),
        ("--checkpoint-format", own.checkpoint_format),
        ("--fresh", "yes" if own.fresh else None),
        ("--inside", inside or None),
    ):
        if value is not None:
            words += [option, str(value)]
    command = b"exec " + quoted(launch.python) + b" -P -m sovctl supervise "
    return command + b" ".join(map(quoted, words)) + b' -- "$@"'


@dataclass(frozen=True, slots=True)
class Supervised:
    """What the batch script of a run says of itself. Whoever submitted it may have written anything."""

    submitted: int
    """Seconds since the epoch."""
    run_dir: str = ""
    """--run-dir; empty: none."""
    has_spares: bool = False
    """It can go on without a node."""
    size: int = 0
    """Nodes its script runs on, where the job may ask for spares beyond them; 0: every node it asks for."""


def supervised(text: str) -> Supervised | None:
    """Read a batch script back; None when it is none of ours."""
    mark = " -m sovctl supervise "
    line = next((line for line in text.splitlines() if mark in line and line.startswith("exec ")), "")
    try:
        words = shlex.split(line[:_LONGEST_LINE].partition(mark)[2])
    except ValueError:
        return None
    own = dict(zip(words[: words.index("--")][::2], words[1::2], strict=False)) if "--" in words else {}
    submitted = own.get("--submitted", "")
    if not re.fullmatch(r"[0-9]{1,12}", submitted):
        return None
    size = own.get("--nodes", "")
    return Supervised(
        int(submitted),
        own.get("--run-dir", ""),
        bool({"--spare-nodes", "--min-nodes"} & set(own)),
        int(size) if re.fullmatch(r"[0-9]{1,6}", size) else 0,
    )


def _line(text: str) -> bytes:
    """A name inside a comment must not start a new line."""
    return _bytes(text).replace(b"\n", b"?").replace(b"\r", b"?")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
