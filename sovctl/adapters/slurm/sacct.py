"""Slurm's accounting, by sacct."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.slurm import parse
from sovctl.adapters.slurm.cli import look_for_conf, slurm_error
from sovctl.adapters.slurm.question_env import question_env
from sovctl.errors import CommandFailed, CommandTimeout, SlurmUnreachable
from sovctl.model.accounted import AccountedJob

_COLUMNS: tuple[str, ...] = parse.ACCOUNT_COLUMNS
_FAILED_NODE = "FailedNode"
"""From 23.02 on; before, sacct refuses to be asked for it."""
_TIMEOUT_S = 120.0
"""A month of a busy site is hundreds of thousands of records."""


class Sacct:
    """Implements ports.Accounting."""

    def __init__(self, runner: CommandRunner, *, bin_dir: str = "", timeout_s: float = _TIMEOUT_S) -> None:
        self._runner = runner
        self._bin_dir = bin_dir
        self._timeout_s = timeout_s

    def jobs(self, since: float, *, everybody: bool) -> tuple[AccountedJob, ...]:
        """Every execution of every job that was there after `since`, without its steps; `everybody`: not only the
        caller's. Raises SovctlError where the site has no accounting."""
        try:
            return self._jobs(since, everybody, (*_COLUMNS[:-2], _FAILED_NODE, *_COLUMNS[-2:]))
        except CommandFailed as error:
            if _FAILED_NODE not in error.message:
                raise
            return self._jobs(since, everybody, _COLUMNS)

    def _jobs(self, since: float, everybody: bool, columns: tuple[str, ...]) -> tuple[AccountedJob, ...]:
        delimiter = secrets.token_hex(8)
        # A moment in words: sacct takes `uts` only in later versions.
        begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
        text = self._sacct(
            "--duplicates", "--allocations", "--parsable2", "--noheader", f"--delimiter={delimiter}",
            f"--starttime={begin}", "--endtime=now", *(["--allusers"] if everybody else []),
            f"--format={','.join(columns)}",
        )  # fmt: skip
        return tuple(parse.parse_accounting(text, delimiter, columns))

    def _sacct(self, *arguments: str) -> str:
        argv = [str(Path(self._bin_dir) / "sacct") if self._bin_dir else "sacct", *arguments]
        look_for_conf(self._runner)
        try:
            done = self._runner.run(argv, timeout_s=self._timeout_s, env=question_env(self._runner), check=False)
        except CommandTimeout as error:
            raise SlurmUnreachable(f"sacct gave no answer within {self._timeout_s:g} s") from error
        if done.status != 0:
            raise slurm_error(argv, done, "")
        return done.stdout
