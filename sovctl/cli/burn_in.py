"""`sovctl health burn-in`: short work with a known answer, the loaded test of an idle node."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sovctl.cli import wiring
from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.words import print_line, say, say_next
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE, EXIT_FAILED, EXIT_NODE_FAILED, EXIT_TRY_LATER
from sovctl.model.burn_in import BurnInOutcome, BurnInResult, Piece, result_record
from sovctl.operations.node.burn_in import burn_in_now, next_of

_SCHEMA = "sovctl.burn-in/1"


def run_burn_in(piece: str, *, everything: bool, as_json: bool, dry_run: bool) -> int:
    """One piece (the one that is due, or the named one) or all of them."""
    config = load_config()
    ports, settings = wiring.burn_in_ports(config), wiring.burn_in_settings(config)
    pieces = tuple(Piece) if everything else (Piece(piece),) if piece else (next_of(ports.records),)
    expected = config.node.expected_gpus if config.node.expected_gpus >= 0 else None
    if dry_run:
        print(f"would do {', '.join(pieces)}, {settings.seconds:g} s each, with {wiring.burn_in_python(config)}")
        return EXIT_DONE
    gpus = wiring.gpu_probe(config)
    with progress(f"burn-in of {settings.node}: {', '.join(pieces)}"):
        results, notes = burn_in_now(ports, settings, pieces, gpus, expected)
    if as_json:
        print_json(_SCHEMA, {"node": settings.node, "results": [result_record(result) for result in results]})
    else:
        for result in results:
            print_line(f"{settings.node}: {result.outcome:<11} {result.evidence}")
    for note in notes:
        say(f"sovctl: {note}")
    if any(result.outcome is BurnInOutcome.ABSENT for result in results):
        say_next("Which Python has torch says burn_in.python: sovctl config show burn_in")
    elif notes and os.geteuid() != 0:
        say_next("Its record is root's; as root: sovctl health burn-in")
    return status_of(results)


def status_of(results: Sequence[BurnInResult]) -> int:
    """0 only when something was done and all of it was right and fast."""
    outcomes = {result.outcome for result in results}
    if outcomes & {BurnInOutcome.WRONG, BurnInOutcome.SLOW}:
        return EXIT_NODE_FAILED
    if outcomes & {BurnInOutcome.FAILED, BurnInOutcome.UNSURE}:
        return EXIT_FAILED
    if BurnInOutcome.INTERRUPTED in outcomes:
        return EXIT_TRY_LATER
    return EXIT_FAILED if outcomes <= {BurnInOutcome.ABSENT} else EXIT_DONE
