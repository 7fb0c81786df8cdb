"""A step that Slurm does not start is told apart from a program that fails in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.slurm.step_command import StepCommand
from sovctl.errors import SlurmConfMissing, SlurmUnreachable


def _srun(tmp_path: Path, stderr: str) -> StepCommand:
    program = tmp_path / "srun"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{stderr}\nEND\nexit 1\n")
    program.chmod(0o755)
    return StepCommand(CommandRunner(), bin_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        ("srun: error: Unable to allocate resources: Unable to contact slurm controller", SlurmUnreachable),
        ("srun: fatal: Could not establish a configuration source", SlurmConfMissing),
    ],
)
def test_slurm_itself_is_away(tmp_path: Path, stderr: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        _srun(tmp_path, stderr).run(("exec",), (), 20.0)


def test_words_of_the_program_inside_are_its_own(tmp_path: Path) -> None:
    answer = _srun(tmp_path, "curl: Connection refused").run(("exec",), (), 20.0)
    assert (answer.status, answer.stderr.strip()) == (1, "curl: Connection refused")
