"""`sovctl watch`: runs on the controller as root or SlurmUser. Neither typer nor rich: it lives for months."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from sovctl.cli import wiring
from sovctl.cli.alert import send_beside
from sovctl.cli.arguments import Parser
from sovctl.cli.words import printable
from sovctl.config import load_config

_EXAMPLES = """\
examples:
  sovctl watch             say and journal what would be done, change nothing
  sovctl watch --act       set dead nodes down, bring their runs back, check suspected nodes, free stuck jobs

A node counts as dead when slurmd takes no connection and a second witness agrees: its own `sovctl health watch`, SSH,
or the BMC (watch.bmc_command). One that answers over SSH is never dead. Stopping it stops nobody's training.
"""


def run(argv: Sequence[str]) -> int:
    """Run `sovctl watch` until it is told to stop."""
    options = make_parser().parse_args(list(argv))
    config = load_config()
    stop: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _: stop.append(number))
    act = options.act and not options.observe
    watch = wiring.cluster_watch(config, act=act, say=_say)
    _say("acting" if act else "observing: nothing is changed; --act acts")
    if act and not config.health.act:
        _say("health.act is false: nodes that runs suspect are checked and not drained; all else is done")
    if not options.once:
        send_beside(config)
    if options.once:
        watch.turn()
    else:
        watch.run(lambda: bool(stop))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line of `sovctl watch`."""
    parser = Parser(prog="sovctl watch", description="Watch the cluster from the controller.", epilog=_EXAMPLES)
    parser.add_argument("--act", action="store_true", help="change things in Slurm (default: observe)")
    parser.add_argument("--observe", action="store_true", help="change nothing, whatever else is given")
    parser.add_argument("--once", action="store_true", help="one pass, then leave")
    return parser


def _say(words: str) -> None:
    print(f"sovctl watch: {printable(words)}", file=sys.stderr, flush=True)
