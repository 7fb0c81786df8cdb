"""The environment in which Slurm is asked: nothing of it changes what is answered, or in what form."""

from __future__ import annotations

from sovctl.adapters.command import CommandRunner

_OF_A_PERSON = ("SQUEUE_", "SINFO_", "SCONTROL_", "SACCT_")
"""Stand-ins for options that the command line leaves out, filters among them: with SQUEUE_PARTITION in a login script,
squeue is silent on jobs and steps of every other partition (getenv in src/squeue/opts.c, 22.05 to 26.05)."""


def question_env(runner: CommandRunner) -> dict[str, str | None]:
    """To be laid over the environment of `runner`; None: left out. An empty value would still be a filter."""
    dropped = dict.fromkeys(name for name in runner.environment() if name.startswith(_OF_A_PERSON))
    return {**dropped, "SLURM_TIME_FORMAT": "%s"}
