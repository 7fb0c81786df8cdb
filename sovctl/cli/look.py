"""`sovctl look`: what the supervisor of a run starts on each of its nodes, as a job step. Not typed by people.

Imports neither typer nor rich: the answer is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sovctl.cli import wiring
from sovctl.errors import UsageError
from sovctl.operations.supervisor.look_at_job import JobLook, look_at_job

_OPTIONS = frozenset({"--job", "--since", "--gpus", "--stacks", "--end"})


def run(argv: Sequence[str]) -> int:
    """Print the answer for the supervisor."""
    words = list(argv)
    options = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2 or not set(options) <= _OPTIONS or not _enough(options):
        raise UsageError("sovctl look is started by the supervisor of a run", hint="Use: sovctl run show --stacks RUN")
    config = wiring.config_of_this_node()
    if "--end" in options:
        wiring.rank_probe().end(options["--job"], wiring.node_name(config), int(options["--end"]))
        return 0
    wish = JobLook(
        node=wiring.node_name(config),
        job_id=options["--job"],
        since=float(options["--since"]),
        stacks=options.get("--stacks", "1") == "1",
        gpus=int(options["--gpus"]) if options.get("--gpus", "").isdigit() else None,
    )
    print("\n".join(look_at_job(wiring.job_look_ports(config), wish).to_lines()), flush=True)
    return 0


def _enough(options: Mapping[str, str]) -> bool:
    return "--job" in options and ("--since" in options or options.get("--end", "").isdigit())
