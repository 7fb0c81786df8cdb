"""Submits through sbatch, with the script under its own name in a private directory that is gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sovctl.adapters.command import CommandRunner, spawn
from sovctl.ports.slurm import SubmitOutcome

_GIVE_UP_S = 3600.0
"""sbatch bounds its own retries. Killing it in between would leave open whether the job exists, so this is only
for an sbatch that hangs."""


class Sbatch:
    """Implements ports.Submitter."""

    def __init__(self, runner: CommandRunner, *, bin_dir: str = "", give_up_s: float = _GIVE_UP_S) -> None:
        self._runner, self._give_up_s = runner, give_up_s
        self._program = os.path.join(bin_dir, "sbatch")  # noqa: PTH118 - without bin_dir it must stay a bare name

    def sbatch(
        self, options: Sequence[str], name: str, text: bytes, arguments: Sequence[str], *, wait: bool = False
    ) -> SubmitOutcome:
        """Submit; stdout, stderr and status are sbatch's own. With `wait` both go straight to ours."""
        with tempfile.TemporaryDirectory(prefix="sovctl-") as directory:
            path = Path(directory) / name
            path.write_bytes(text)
            argv = [self._program, *options, str(path), *arguments]
            return self._wait(argv) if wait else self._run(argv)

    def answer(self, options: Sequence[str]) -> SubmitOutcome:
        """What sbatch says to options alone; its stdin is empty, so it finds no script either."""
        return self._run([self._program, *options])

    def _run(self, argv: Sequence[str]) -> SubmitOutcome:
        done = self._runner.run(argv, timeout_s=self._give_up_s, check=False)
        return SubmitOutcome(done.status, done.stdout, done.stderr)

    def _wait(self, argv: Sequence[str]) -> SubmitOutcome:
        child = spawn(argv, new_session=False)
        status = None
        while status is None:
            status = child.wait(_GIVE_UP_S)
        return SubmitOutcome(status, "", "")
