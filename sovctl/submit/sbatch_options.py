"""Which options sbatch knows and which of them take a value: the one table of it.

Source: the sbatch(1) man pages of Slurm 22.05, 23.02, 23.11, 24.05, 24.11, 25.05, 25.11 and 26.05, all taken
together. Where versions disagree (`--get-user-env`, `--requeue`) the value was or became optional, which splits a
command line the same way. The pyxis options come from its README; a login node with that plugin knows them too.

It is only needed to find where the options end and the script begins: every option is handed to sbatch as typed, also
one that is not in this table.
"""

from __future__ import annotations

from enum import Enum


class Value(Enum):
    """How an option takes its value."""

    NONE = "none"
    OPTIONAL = "optional"
    """Only as `--name=value` or glued to the letter, never as the next word."""
    REQUIRED = "required"


_TAKE_A_VALUE = """
    account:A acctg-freq array:a batch bb bbf begin:b chdir:D cluster cluster-constraint clusters:M comment constraint:C
    container container-id container-type context core-spec:S cores-per-socket cpu-freq cpus-per-gpu cpus-per-task:c
    deadline delay-boot dependency:d distribution:m error:e exclude:x export export-file extra extra-node-info:B gid
    gpu-bind gpu-freq gpus:G gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint input:i job-name:J
    kill-on-invalid-dep licenses:L mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mem-update mincpus
    network nodefile:F nodelist:w nodes:N ntasks:n ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
    ntasks-per-tres open-mode output:o partition:p power prefer priority profile qos:q reservation resources segment
    signal sockets-per-node switches tasks-per-node thread-spec threads-per-core time:t time-min tmp tres-bind
    tres-per-task uid wait-all-nodes wckey wrap autocomplete
"""
_MAY_TAKE_A_VALUE = "exclusive get-user-env nice no-kill:k oom-kill-step propagate requeue resv-ports"
_TAKE_NONE = """
    consolidate-segments contiguous external help:h hold:H ignore-pbs no-requeue overcommit:O oversubscribe:s parsable
    quiet:Q reboot spread-job spread-segments stepmgr test-only usage use-min-nodes verbose:v version:V wait:W
"""
_NEWER_OR_GONE = """
    autocomplete consolidate-segments container-id container-type external extra mem-update oom-kill-step power
    resources resv-ports segment spread-segments stepmgr tres-bind tres-per-task
"""
_PYXIS = {
    Value.REQUIRED: """container-image container-mounts container-workdir container-name container-save
    container-env""",
    Value.NONE: """container-mount-home no-container-mount-home container-remap-root no-container-remap-root
    container-entrypoint no-container-entrypoint container-entrypoint-log container-writable container-readonly""",
}


def _listed() -> list[tuple[str, str, Value]]:
    kinds = ((_TAKE_A_VALUE, Value.REQUIRED), (_MAY_TAKE_A_VALUE, Value.OPTIONAL), (_TAKE_NONE, Value.NONE))
    return [(*item.partition(":")[::2], kind) for names, kind in kinds for item in names.split()]


LONG: dict[str, Value] = {name: kind for name, _, kind in _listed()}
"""Long name (without dashes) of every sbatch option."""

SHORT: dict[str, str] = {letter: name for name, letter, _ in _listed() if letter}
"""Letter to long name."""

_NOT_IN_EVERY_VERSION = frozenset(_NEWER_OR_GONE.split())

PLUGIN: dict[str, Value] = {name: kind for kind, names in _PYXIS.items() for name in names.split()}
"""Options that sbatch knows only where a common plugin is installed."""


def resolve(typed: str) -> tuple[str, Value] | None:
    """The option meant by a long name as getopt_long reads it: exact, or an abbreviation of only one.

    None when it is not known or ambiguous.
    """
    exact = LONG.get(typed) or PLUGIN.get(typed)
    if exact is not None:
        return typed, exact
    meant = _abbreviated(typed)
    return (meant[0], LONG[meant[0]]) if len(meant) == 1 else None


def _abbreviated(typed: str) -> list[str]:
    meant = [name for name in LONG if typed and name.startswith(typed)]
    return [name for name in meant if name not in _NOT_IN_EVERY_VERSION] or meant
