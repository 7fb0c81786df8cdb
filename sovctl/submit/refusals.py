"""What sbatch would take, and what leaves a run that nobody could bring back. Pure."""

from __future__ import annotations

from sovctl.errors import RefusedError
from sovctl.model.signals import PASSED_ON, batch_signal, signal_name
from sovctl.submit.options import Choices


def check_choices(chosen: Choices) -> None:
    """Raises RefusedError before anything is submitted."""
    if chosen.no_kill:
        raise _no_kill()
    number = batch_signal(chosen.signal)
    if number is not None and number not in PASSED_ON:
        raise _not_passed_on(str(chosen.signal), number)


def _no_kill() -> RefusedError:
    """A job with --no-kill outlives its batch host: no script is left, nothing requeues it, and it holds its nodes
    until the time limit (excise_node_from_job, 22.05 to 25.11)."""
    return RefusedError(
        "with --no-kill Slurm would keep the job running without its script when the batch host dies",
        hint="Leave it out (also of #SBATCH lines and SBATCH_NO_KILL) or add --no-kill=off; with --spare-nodes K a run "
        "goes on when a node of it dies.",
    )


def _not_passed_on(option: str, number: int) -> RefusedError:
    """Slurm sends it to the process of the batch script, where the supervisor is."""
    return RefusedError(
        f"--signal={option}: sovctl cannot pass {signal_name(number)} on to the script",
        hint=f"Name another signal, such as --signal=B:USR1{''.join(option.partition('@')[1:])}",
    )
