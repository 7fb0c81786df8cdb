"""`sovctl health prolog` and `epilog`: every job waits for these, so nothing is imported that they do not need.

slurmd takes what a prolog prints as `print ...` for the job's output where it is a TaskProlog, and logs its stderr; so
the line goes to both. Whatever goes wrong with the checker itself, the job goes on.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from sovctl.cli.words import printable
from sovctl.errors import EXIT_DONE, EXIT_NODE_FAILED, SovctlError

if TYPE_CHECKING:
    from sovctl.operations.node.guard_job import Guarded


def prolog(job_id: str = "", *, quiet: bool = False) -> int:
    """Before a job starts on this node. 10: the node has explicitly failed."""
    return _guarded(job_id, starting=True, quiet=quiet)


def epilog(job_id: str = "", *, quiet: bool = False) -> int:
    """After a job ended on this node. 10: what it left shows that the node has failed."""
    return _guarded(job_id, starting=False, quiet=quiet)


def _guarded(job_id: str, *, starting: bool, quiet: bool) -> int:
    try:
        outcome = _look(job_id or os.environ.get("SLURM_JOB_ID", ""), starting)
    except SovctlError as error:
        return _broken(starting, error.message)
    except Exception as error:
        return _broken(starting, f"{type(error).__name__}: {error}")
    if outcome.line and not quiet:
        line = printable(outcome.line)
        if starting:
            print(f"print {line}", flush=True)
        print(line, file=sys.stderr)
    for note in outcome.notes:
        print(f"sovctl: {printable(note)}", file=sys.stderr)
    return EXIT_DONE if outcome.fit else EXIT_NODE_FAILED


def _look(job_id: str, starting: bool) -> Guarded:
    from sovctl.cli import wiring
    from sovctl.config import load_config

    config = load_config()
    ports = wiring.job_ports(config, job_id, prolog=starting)
    settings = wiring.job_settings(config, job_id)
    if starting:
        from sovctl.operations.node.guard_job import start_job

        return start_job(ports, settings)
    from sovctl.operations.node.end_job import end_job

    return end_job(ports, settings, wiring.own_journal(config))


def _broken(starting: bool, message: str) -> int:
    which = "prolog" if starting else "epilog"
    print(f"sovctl: health {which} could not run, the node is not judged: {printable(message)}", file=sys.stderr)
    return EXIT_DONE
