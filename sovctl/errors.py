"""What can go wrong, in words a person can act on.

Each error says in one sentence what failed on what (`message`) and what to type next (`hint`), and carries the
exit status of the command that meets it. This module imports nothing of ours.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_NODE_FAILED = 10
EXIT_TRY_LATER = 75
"""sysexits.h EX_TEMPFAIL: nothing is lost, the same command may work later."""


class SovctlError(Exception):
    """Base of every error a user may see; `exit_code` is the status of the process."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SovctlError):
    """The command line or a configuration file is wrong."""

    exit_code = EXIT_USAGE


class RefusedError(SovctlError):
    """A rule forbids it: somebody else's drain, an exhausted budget, a job of another user."""

    exit_code = EXIT_REFUSED


class TryLaterError(SovctlError):
    """Something outside is not answering now."""

    exit_code = EXIT_TRY_LATER


def disk_error(message: str, cause: OSError, *, hint: str = "") -> SovctlError:
    """What to raise where a file could not be made or written: of a full disk or a used-up quota one that says to try
    later, like every other place that meets one."""
    kind = TryLaterError if cause.errno in _NO_ROOM else SovctlError
    return kind(f"{message}: {cause.strerror}", hint=hint)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class ConfigError(UsageError):
    """A configuration file or a SOVCTL_ variable cannot be used."""

    def __init__(self, source: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{source}: {problem}", hint=hint or _of_setting(source))


class CommandMissing(SovctlError):
    """A program that has to be there is not on PATH, or not where a setting says it is."""

    def __init__(self, program: str) -> None:
        where = "cannot be started" if "/" in program else "is not on PATH"
        super().__init__(f"{program} {where}", hint=_of_missing(program))
        self.program = program


class CommandFailed(SovctlError):
    """A program ended with a non-zero status; its own words are kept."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        said = " ".join(stderr.split()) or f"exit status {status}"
        super().__init__(f"{argv[0]} failed: {said}", hint=f"Try it by hand: {_typed(argv)}")
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr


class CommandTimeout(TryLaterError):
    """A program did not end within its deadline and was killed."""

    def __init__(self, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__(f"{' '.join(argv[:3])} gave no answer within {timeout_s:g} s", hint=_of_silence(argv))
        self.argv = tuple(argv)


class CommandUnstartable(TryLaterError):
    """A program cannot be started at present."""

    def __init__(self, program: str, problem: str) -> None:
        super().__init__(f"{program} cannot be started: {problem}", hint="Look: ulimit -u; ulimit -n; free -m")


class AlertGivenUp(SovctlError):
    """A message that must not be sent again: some have it, or its receiver never takes it."""


class SlurmConfMissing(SovctlError):
    """The Slurm commands find no slurm.conf."""

    def __init__(self) -> None:
        super().__init__(
            "Slurm finds no slurm.conf", hint="Set SLURM_CONF, or start a cluster on this machine: sovctl lab up"
        )


class SlurmUnreachable(TryLaterError):
    """slurmctld does not answer."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "slurmctld does not answer" + (f" ({detail})" if detail else ""),
            hint=_ASK_SLURMCTLD,
        )


class JobNotFound(SovctlError):
    """Slurm does not know this job (any more)."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"Slurm knows no job {job_id}", hint="List your runs with `sovctl run ls`, your jobs with `squeue --me`."
        )
        self.job_id = job_id


class DirectoryGone(SovctlError):
    """The current directory was removed under the shell that stands in it."""

    def __init__(self) -> None:
        super().__init__("the current directory is not there any more", hint="Go to one that is: cd ~")


class NodeNotFound(SovctlError):
    """Slurm knows no node of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Slurm knows no node {name}", hint="List the nodes with `sovctl node ls`.")
        self.name = name


class NotPermitted(RefusedError):
    """Slurm refused because the job or node is not the caller's to change."""

    def __init__(self, what: str) -> None:
        kind, _, name = what.partition(" ")
        see = f"squeue -j {name} -O JobID,UserName" if kind == "job" and name else "sacctmgr show user $USER"
        hint = f"It belongs to another user or to the site: {see}"
        if kind == "node":
            hint = "Only root, SlurmUser or an operator may; as root: sovctl node ..."
        super().__init__(f"Slurm does not let you change {what}", hint=hint)


class RunDirUnusable(SovctlError):
    """The directory that holds the record of a run cannot be written."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(
            f"cannot write the run directory {path}: {cause}",
            hint="Submit from a writable directory on the shared file system, or name one with --run-dir.",
        )


class SbatchRefusal(SovctlError):
    """What sbatch itself would refuse, said in its own words, which is what its users look for."""


class ScriptUnreadable(SbatchRefusal):
    """The batch script cannot be opened."""

    def __init__(self, name: str, *, hint: str = "") -> None:
        super().__init__(f"Unable to open file {name}", hint=hint or f"See what is there: ls -l {name}")
        self.name = name


class RunNotFound(SovctlError):
    """No record of a run with this id or job id."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no record of a run {name}", hint="List the known runs with `sovctl run ls`.")


class StacksMissing(SovctlError):
    """No stacks were kept: the run did not hang, or its ranks could not be looked at."""

    def __init__(self, job_id: str, attempt: int | None) -> None:
        of = f" in attempt {attempt}" if attempt is not None else ""
        super().__init__(
            f"run {job_id} has no stacks of its ranks{of}: they are taken when a run hangs",
            hint=f"See what happened: sovctl run events {job_id}",
        )


class RunGone(SovctlError):
    """The record of a run is there, but Slurm has no job of it any more that could go on."""

    def __init__(self, job_id: str, how: str, checkpoint_dir: str) -> None:
        again = f"sovctl submit --checkpoint-dir={checkpoint_dir} SCRIPT" if checkpoint_dir else "sovctl submit SCRIPT"
        super().__init__(
            f"job {job_id} cannot go on: {how}",
            hint=f"Submit it again; it goes on from its newest complete checkpoint: {again}",
        )


class CheckpointDirUnreadable(SovctlError):
    """The directory of checkpoints is there (or should be) and cannot be listed: not the same as empty."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(
            f"cannot list the checkpoint directory {path}: {cause}",
            hint=f"Check that its file system is mounted, and who may read it: ls -ld {path}",
        )


class CheckpointUnanswered(CheckpointDirUnreadable):
    """The storage failed while a checkpoint was looked at: whether it is complete, nobody knows."""

    def __init__(self, path: str, cause: str) -> None:
        SovctlError.__init__(
            self,
            f"the checkpoint {path} may be complete, but its storage fails: {cause}",
            hint=f"Look at the file server and the mount (findmnt); if only it is lost: sovctl ckpt quarantine {path}",
        )


class StorageSilent(SovctlError):
    """An access to the storage of a run has not come back; nobody knows whether it will."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the storage of the run has not answered for {seconds:.0f} s",
            hint="Look at the file server and the mount (findmnt); the run goes on as soon as it is back.",
        )


class CheckpointIncomplete(SovctlError):
    """Somebody asked to resume from a checkpoint that is not proven complete."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"checkpoint {path} is not complete: {why}",
            hint="See which ones are with `sovctl ckpt ls`, and take the path that `sovctl ckpt latest` prints.",
        )


class CheckpointUnloadable(SovctlError):
    """A complete checkpoint does not fit the model, optimizer or state it is loaded into."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(
            f"checkpoint {path} cannot be loaded: {cause}",
            hint="Load it into the same model, optimizer and names of state that were saved; "
            f"whether its bytes are whole says: sovctl ckpt verify --deep {path}",
        )


class NoCheckpoint(SovctlError):
    """There is no complete checkpoint."""

    def __init__(self, path: str, seen: int) -> None:
        super().__init__(
            f"there is no complete checkpoint in {path}" + (f" ({seen} incomplete)" if seen else ""),
            hint=f"See why: sovctl ckpt ls {path}"
            if seen
            else f"A run that starts now begins at step 0. See for yourself: ls {path}",
        )


def _of_setting(source: str) -> str:
    """What to type about a setting, a variable or a file that cannot be used."""
    if source.startswith("SOVCTL_"):
        return f"Correct it, or: unset {source}"
    if "/" in source:
        return "What can be set: man sovctl.toml"
    return f"See who set it: sovctl config show {source}"


def _of_missing(program: str) -> str:
    directory, slash, name = program.rpartition("/")
    if name in _SLURM_PROGRAMS:
        # A path is one of slurm.bin_dir.
        at_home = "Run this where Slurm is installed, or try a cluster on this machine: sovctl lab up"
        return f"Slurm is not in {directory}; see who said so: sovctl config show slurm.bin_dir" if slash else at_home
    if slash:
        return f"See what is there: ls -l {program}"
    return f"Install it: apt-get install {_PACKAGES.get(program, program)}"


def _of_silence(argv: Sequence[str]) -> str:
    if argv[0] in ("sacctmgr", "sacct"):
        return "It waits for slurmdbd; see on its machine: systemctl status slurmdbd"
    return _ASK_SLURMCTLD if argv[0] in _SLURM_PROGRAMS else f"Try it by hand: {_typed(argv)}"


def _typed(argv: Sequence[str]) -> str:
    """The command for a shell, so short that it can be read."""
    import shlex  # not needed by the commands that must start fast

    words = shlex.join(argv)
    return words if len(words) <= _LONGEST_COMMAND else f"{shlex.quote(argv[0])} --help"


_LONGEST_COMMAND = 200
_ASK_SLURMCTLD = "Ask `scontrol ping` which controllers are up; the same command may work later."
_PACKAGES = {
    "bwrap": "bubblewrap",
    "ch-run": "charliecloud",
    "ldd": "libc-bin",
    "mksquashfs": "squashfs-tools",
    "unsquashfs": "squashfs-tools",
}
"""Packages of Debian and Ubuntu that have another name than their program."""
_SLURM_PROGRAMS = frozenset(
    {"sbatch", "scontrol", "squeue", "sinfo", "scancel", "srun", "sacctmgr", "sacct", "slurmctld", "slurmd"}
)
