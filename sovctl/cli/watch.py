"""`sovctl watch`: runs on the controller as root or SlurmUser. Neither typer nor rich: it lives for months."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from sovctl.cli import wiring
from sovctl.cli.alert import send_beside
from sovctl.config import load_config

_EXAMPLES = """\
examples:
  sovctl watch             say and journal what would be done, do nothing
  sovctl watch --act       declare dead nodes down, bring their runs back

Two witnesses must be silent before a node counts as dead: its own `sovctl health watch`, and slurmd.
Stopping it stops nobody's training.
"""


def run(argv: Sequence[str]) -> int:
    """Run `sovctl watch` until it is told to stop."""
    parser = argparse.ArgumentParser(
        prog="sovctl watch",
        description="Watch the cluster from the controller.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--act", action="store_true", help="change things in Slurm (default: observe)")
    parser.add_argument("--observe", action="store_true", help="change nothing, whatever else is given")
    parser.add_argument("--once", action="store_true", help="one pass, then leave")
    options = parser.parse_args(list(argv))
    config = load_config()
    stop: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _: stop.append(number))
    watch = wiring.cluster_watch(config, act=options.act and not options.observe, say=_say)
    if not options.once:
        send_beside(config)
    if options.once:
        watch.turn()
    else:
        watch.run(lambda: bool(stop))
    return 0


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
