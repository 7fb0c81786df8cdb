"""Runs a sovctl command in a step of Slurm, or on this machine where there is none."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sovctl.adapters.command import CommandRunner, Completed
from sovctl.adapters.slurm.cli import slurm_error
from sovctl.adapters.slurm.job_look import without_slurm_options
from sovctl.errors import SlurmConfMissing, SlurmUnreachable, SovctlError
from sovctl.model.step_id import LOOK_STEP
from sovctl.ports.images import StepAnswer

_HELP_S = 10.0


class StepCommand:
    """Implements `ports.StepCommand`."""

    def __init__(self, runner: CommandRunner, bin_dir: str = "", *, here: bool = False) -> None:
        """`here`: without Slurm, whether there is one or not."""
        self._runner = runner
        self._srun = None if here else shutil.which("srun", path=bin_dir or runner.variable("PATH") or None)

    def run(self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float) -> StepAnswer:
        """One task on one node; `words` without `sovctl`. A variable that must stay outside goes along. Raises
        SlurmConfMissing and SlurmUnreachable."""
        step = (self._srun, "-N1", "-n1", "--quiet", *srun_options) if self._srun else ()
        own = Path(sys.argv[0]).name == "sovctl" and Path(sys.argv[0]).is_file()
        program = (str(Path(sys.argv[0]).absolute()),) if own else (sys.executable, "-m", "sovctl")
        env = {"DOCTOR_DECOY": os.urandom(4).hex()}
        done = self._runner.run((*step, *program, *words), timeout_s=timeout_s, env=env, check=False)
        if step and done.status:
            _raise_without_slurm(done)
        return StepAnswer(done.status, done.stdout, done.stderr, by_step=bool(step))

    def program(
        self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float, variables: Mapping[str, str]
    ) -> StepAnswer:
        """Any program in a step, with variables for srun. Raises SovctlError where there is no srun."""
        argv = (self.srun(), "-N1", "-n1", "--quiet", *srun_options, *words)
        done = self._runner.run(argv, timeout_s=timeout_s, env=variables, check=False)
        return StepAnswer(done.status, done.stdout, done.stderr, by_step=True)

    def srun(self) -> str:
        """Where it is. Raises SovctlError where there is none."""
        if not self._srun:
            raise SovctlError("it needs a step of Slurm", hint="Leave --here out: sovctl doctor isolation")
        return self._srun

    def offers(self, option: str) -> bool:
        """By the help of srun, which lists the options of the plugins that it has loaded."""
        if not self._srun:
            return False
        said = self._runner.run((self._srun, "--help"), timeout_s=_HELP_S, check=False).stdout
        return f"{option}=" in said or f"{option} " in said


def _raise_without_slurm(done: Completed) -> None:
    """By srun's own lines; what the program inside says is another matter."""
    own = "\n".join(line for line in done.stderr.splitlines() if line.startswith("srun: "))
    error = slurm_error(["srun"], replace(done, stdout="", stderr=own), "")
    if isinstance(error, SlurmConfMissing | SlurmUnreachable):
        raise error


class StepInJob:
    """A program on nodes of the job that this process is part of, beside its other steps. `ports.StepCommand`."""

    def __init__(self, runner: CommandRunner, job_id: str, bin_dir: str = "") -> None:
        self._runner = runner
        self._job_id = job_id
        self._outside = StepCommand(runner, bin_dir)

    def run(self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float) -> StepAnswer:
        """A sovctl command in a step of its own job."""
        return self._outside.run(words, srun_options, timeout_s)

    def program(
        self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float, variables: Mapping[str, str]
    ) -> StepAnswer:
        """The batch script's variables of Slurm are options of the user's own sruns, so this one gets none of them."""
        srun = self._outside.srun()
        told = self._runner.environment()
        options = sorted(told.keys() - without_slurm_options(told).keys())
        argv = (
            *("env", *(f"--unset={name}" for name in options), srun, "--overlap", f"--jobid={self._job_id}"),
            *("--cpus-per-task=1", "--mem=0", "--cpu-bind=none", "--mpi=none", "--no-kill", "--input=none"),
            *("--immediate=5", "--quiet", f"--job-name={LOOK_STEP}", "--chdir=/", *srun_options, *words),
        )
        done = self._runner.run(argv, timeout_s=timeout_s, env=variables, check=False)
        return StepAnswer(done.status, done.stdout, done.stderr, by_step=True)

    def offers(self, option: str) -> bool:
        """By the help of srun on this node."""
        return self._outside.offers(option)
