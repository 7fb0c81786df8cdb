"""What can go wrong, in words a person can act on.

Each error says in one sentence what failed on what (`message`) and what to type next (`hint`), and carries the
exit status of the command that meets it. This module imports nothing of ours.
"""

from __future__ import annotations

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


class ConfigError(UsageError):
    """A configuration file or a SOVCTL_ variable cannot be used."""

    def __init__(self, source: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{source}: {problem}", hint=hint)


class CommandMissing(SovctlError):
    """A program that has to be there is not on PATH."""

    def __init__(self, program: str) -> None:
        super().__init__(
            f"{program} is not on PATH",
            hint="Run this where Slurm is installed, or try a cluster on this machine: sovctl lab up"
            if program in _SLURM_PROGRAMS
            else f"Install the package that provides {program}.",
        )
        self.program = program


class CommandFailed(SovctlError):
    """A program ended with a non-zero status; its own words are kept."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        said = " ".join(stderr.split()) or f"exit status {status}"
        super().__init__(f"{argv[0]} failed: {said}")
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr


class CommandTimeout(TryLaterError):
    """A program did not end within its deadline and was killed."""

    def __init__(self, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__(f"{' '.join(argv[:3])} gave no answer within {timeout_s:g} s")
        self.argv = tuple(argv)


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
            hint="Ask `scontrol ping` which controllers are up; the same command may work later.",
        )


class JobNotFound(SovctlError):
    """Slurm does not know this job (any more)."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"Slurm knows no job {job_id}", hint="List your runs with `sovctl run ls`, your jobs with `squeue --me`."
        )
        self.job_id = job_id


class NotPermitted(RefusedError):
    """Slurm refused because the job or node is not the caller's to change."""

    def __init__(self, what: str) -> None:
        super().__init__(f"Slurm does not let you change {what}", hint="It belongs to another user or to the site.")


class RunDirUnusable(SovctlError):
    """The directory that holds the record of a run cannot be written."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(
            f"cannot write the run directory {path}: {cause}",
            hint="Submit from a writable directory on the shared file system, or name one with --run-dir.",
        )


class RunNotFound(SovctlError):
    """No record of a run with this id or job id."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no record of a run {name}", hint="List the known runs with `sovctl run ls`.")


_SLURM_PROGRAMS = frozenset(
    {"sbatch", "scontrol", "squeue", "sinfo", "scancel", "srun", "sacctmgr", "sacct", "slurmctld", "slurmd"}
)
