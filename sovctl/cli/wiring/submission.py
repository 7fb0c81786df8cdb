"""`sovctl submit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sovctl.cli.wiring.slurm_access import ASK_S, slurm
from sovctl.config import load_config
from sovctl.errors import SovctlError

if TYPE_CHECKING:
    from sovctl.ports.runs import SubmissionFiles
    from sovctl.ports.slurm import Submitter


def submitter() -> Submitter:
    """sbatch of this site."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.slurm.sbatch import Sbatch

    return Sbatch(CommandRunner(), bin_dir=load_config().slurm.bin_dir)


def may_expedite() -> bool:
    """Whether the controller and sbatch of this site take --requeue=expedite. A controller that is not there, or slow
    to answer, says no: sbatch itself has the words for that."""
    from sovctl.submit.expedite import enabled, new_enough

    try:
        return enabled(slurm(ASK_S).settings()) and new_enough(submitter().answer(["--version"]).stdout)
    except SovctlError:
        return False


def preemptible_partition() -> str:
    """The partition of preemptible jobs; empty: this cluster has none of that name, or does not say."""
    name = load_config().run.preemptible_partition
    try:
        return name if name and name in slurm(ASK_S).partitions() else ""
    except SovctlError:
        return ""


def submission_files() -> SubmissionFiles:
    """The files of this machine."""
    from sovctl.adapters.run.submission_files import LocalFiles

    return LocalFiles()
