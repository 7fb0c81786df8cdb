"""Puts a command in front of the one that srun is told to start: `srun -N2 python x` -> `srun -N2 PREFIX python x`.

Source of the table: src/common/slurm_opt.c of Slurm 22.05, 23.02, 23.11, 24.05, 24.11, 25.05, 25.11 and 26.05, all
taken together: every option with a setter for srun. It is only needed to find where the options end; all of them are
handed on as typed.
"""

from __future__ import annotations

from collections.abc import Sequence

from sovctl.errors import UsageError
from sovctl.submit.sbatch_options import PLUGIN, Value

_TAKE_A_VALUE = """
    accel-bind account:A acctg-freq autocomplete bb bbf bcast-exclude begin:b chdir:D cluster
    cluster-constraint clusters:M comment constraint:C container container-id context core-spec:S
    cores-per-socket cpu-bind cpu-freq cpu_bind cpus-per-gpu cpus-per-task:c deadline delay-boot dependency:d
    distribution:m epilog error:e exclude:x export extra extra-node-info:B gid gpu-bind gpu-freq gpus:G
    gpus-per-node gpus-per-socket gpus-per-task gres gres-flags het-group hint ignore-signals input:i
    job-name:J jobid licenses:L mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mem-update
    mincpus mpi msg-timeout network nodefile:F nodelist:w nodes:N ntasks:n ntasks-per-core ntasks-per-gpu
    ntasks-per-node ntasks-per-socket ntasks-per-tres open-mode output:o pack-group partition:p power prefer
    priority profile prolog qos:q relative:r reservation resources runtime segment signal slurmd-debug
    sockets-per-node switches task-epilog task-prolog tasks-per-node thread-spec threads:T threads-per-core
    time:t time-min tmp treewidth tres-bind tres-per-task uid wait:W wckey sov-image sov-mount sov-home
    sov-env-name
"""
_MAY_TAKE_A_VALUE = """
    bcast compress exclusive external-launcher immediate:I kill-on-bad-exit:K nice no-kill:k oom-kill-step
    overlap propagate pty resv-ports send-libs x11
"""
_TAKE_NONE = """
    async consolidate-segments contiguous debugger-test disable-status:X exact help:h hold:H interactive
    label:l multi-prog no-allocate:Z overcommit:O oversubscribe:s parsable preserve-env:E quiet:Q
    quit-on-interrupt reboot spread-job spread-segments stepmgr test-only unbuffered:u usage use-min-nodes
    verbose:v version:V wait-for-children whole sov-isolate sov-clean-env sov-writable sov-private-network
    sov-slurm-client
"""


def _listed() -> list[tuple[str, str, Value]]:
    kinds = ((_TAKE_A_VALUE, Value.REQUIRED), (_MAY_TAKE_A_VALUE, Value.OPTIONAL), (_TAKE_NONE, Value.NONE))
    return [(*item.partition(":")[::2], kind) for names, kind in kinds for item in names.split()]


LONG: dict[str, Value] = {**{name: kind for name, _, kind in _listed()}, **PLUGIN}
"""Every long option of srun, and of common plugins, without dashes."""
SHORT: dict[str, Value] = {letter: kind for _, letter, kind in _listed() if letter}


def around_command(argv: Sequence[str], prefix: Sequence[str]) -> tuple[str, ...]:
    """srun's words with `prefix` before each command; of a heterogeneous step (` : `) before every part's.

    Without a command (`srun --help`) nothing is added. Raises UsageError for --multi-prog: its commands are in a file.
    """
    words: list[str] = []
    rest = list(argv)
    while rest:
        at = _command_at(rest)
        end = next((number for number, word in enumerate(rest) if number > at and word == ":"), len(rest))
        words += rest[:at]
        if at < end:
            words += [*prefix, *rest[at:end]]
        words += rest[end : end + 1]
        rest = rest[end + 1 :]
    return tuple(words)


def _command_at(argv: Sequence[str]) -> int:
    """Where the first word is that is no option and no option's value, as getopt_long reads with a leading `+`."""
    at = 0
    while at < len(argv):
        word = argv[at]
        if word == "--":
            return at + 1
        if not word.startswith("-") or word == "-":
            return at
        at += 2 if (_long if word.startswith("--") else _letters)(word) else 1
    return at


def _long(word: str) -> bool:
    """Whether the next word is this option's value."""
    typed, equals, _ = word[2:].partition("=")
    name = typed if typed in LONG else _abbreviated(typed)
    if name == "multi-prog":
        raise _in_a_file()
    return not equals and LONG.get(name) is Value.REQUIRED


def _abbreviated(typed: str) -> str:
    """getopt_long takes a beginning that only one option has."""
    meant = [name for name in LONG if name.startswith(typed)]
    kinds = {LONG[name] for name in meant}
    # Which of them an srun knows differs from release to release; where all split the line alike, it does not matter.
    return meant[0] if len(kinds) == 1 else typed


def _letters(word: str) -> bool:
    for at, letter in enumerate(word[1:], start=1):
        kind = SHORT.get(letter, Value.NONE)
        if kind is Value.REQUIRED:
            return at == len(word) - 1
        if kind is Value.OPTIONAL:
            return False
    return False


def _in_a_file() -> UsageError:
    return UsageError(
        "srun --multi-prog takes its commands from a file, where they cannot be put into the image from here",
        hint="Write `sovctl exec --image IMAGE -- COMMAND` in that file, and call srun by its full path.",
    )
