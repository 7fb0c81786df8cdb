"""What sbatch would take, and what leaves a run that nobody could bring back. Pure."""

from __future__ import annotations

from sovctl.errors import RefusedError
from sovctl.submit.options import Choices


def check_choices(chosen: Choices) -> None:
    """Raises RefusedError before anything is submitted."""
    if chosen.no_kill:
        raise _no_kill()


def _no_kill() -> RefusedError:
    """A job with --no-kill outlives its batch host: no script is left, nothing requeues it, and it holds its nodes until
    the time limit (excise_node_from_job, 22.05 to 25.11)."""
    return RefusedError(
        "with --no-kill Slurm would keep the job running without its script when the batch host dies",
        hint="Leave it out (also of #SBATCH lines and SBATCH_NO_KILL) or add --no-kill=off; with --spare-nodes K a run "
        "goes on when a node of it dies.",
    )
