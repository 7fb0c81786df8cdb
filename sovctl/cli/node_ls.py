"""`sovctl node ls`. No typer: people type this all day, on sites of thousands of nodes."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sovctl.cli import wiring
from sovctl.cli.json_output import print_json
from sovctl.cli.listing_words import ListingWords, listing_words
from sovctl.cli.progress import progress
from sovctl.cli.tables import Column, print_listing
from sovctl.cli.words import clock_time, say
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE
from sovctl.operations import nodes
from sovctl.operations.nodes import NodeGroup


def run(argv: Sequence[str]) -> int | None:
    """Run `sovctl node ls ARGV` if it is plainly that; else None."""
    words = listing_words(argv)
    return None if words is None else list_nodes(words)


def list_nodes(words: ListingWords) -> int:
    """Print the list."""
    gc.disable()  # one pass and out: there is nothing to collect among thousands of records
    with progress("asking slurmctld"):
        groups = nodes.list_nodes(wiring.slurm(), apart=words.everything)
        lemons = nodes.lemons(wiring.ledgers(load_config()))
    if words.as_json:
        scores = {"lemons": dict(lemons.scores), "taken_last": list(lemons.taken_last)}
        print_json("sovctl.nodes/1", {"groups": [_record(group) for group in groups], **scores})
        return EXIT_DONE
    print_listing(groups, _COLUMNS, "TDNHuE", words.format, header=not words.noheader)
    if lemons.taken_last:
        said = ", ".join(f"{name} ({lemons.scores.get(name, 0.0):g})" for name in lemons.taken_last)
        say(f"sovctl: taken last for what their GPUs did before: {said}")
    return EXIT_DONE


def _by(group: NodeGroup) -> str:
    return f"{group.by or '?'}{'*' if group.ours else ''}" if group.reason else "-"


_COLUMNS = (
    Column("T", "state", "STATE", lambda group: str(group.state)),
    Column("D", "count", "COUNT", lambda group: str(len(group.nodes))),
    Column("N", "nodes", "NODES", lambda group: wiring.fold_hostlist(group.nodes), folded=True),
    Column("H", "since", "SINCE", lambda group: clock_time(group.since)),
    Column("u", "by", "BY", _by),
    Column("E", "reason", "REASON", lambda group: group.reason or "-", folded=True),
    Column("i", "incident", "INCIDENT", lambda group: group.ours.incident if group.ours else "-"),
    Column("c", "code", "CODE", lambda group: group.ours.code if group.ours else "-"),
)


def _record(group: NodeGroup) -> dict[str, Any]:
    return {
        "state": str(group.state),
        "fine": group.fine,
        "count": len(group.nodes),
        "nodes": list(group.nodes),
        "hostlist": wiring.fold_hostlist(group.nodes),
        "reason": group.reason or None,
        "by": group.by or None,
        "since": group.since,
        "incident": asdict(group.ours) if group.ours else None,
    }
