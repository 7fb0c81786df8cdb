"""`sovctl sweep`: one pass over the cluster, from cron or by hand. No typer: it starts once a minute."""

from __future__ import annotations

import argparse
import gc
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sovctl.cli import wiring
from sovctl.cli.arguments import Parser
from sovctl.cli.json_output import print_json
from sovctl.cli.progress import progress
from sovctl.cli.words import print_line, printable, say
from sovctl.config import Config, load_config
from sovctl.errors import EXIT_DONE, EXIT_NODE_FAILED, SovctlError, UsageError
from sovctl.model.verdict import VerdictState
from sovctl.model.verdict_json import finding_record
from sovctl.operations.sweep import SweepOutcome, SweptNode, sweep

_SCHEMA = "sovctl.sweep/1"
_EXAMPLES = """\
examples:
  sovctl sweep                       look at every node, say what would be done
  sovctl sweep --act                 drain, free and give back, within the budget; for cron, once a minute
  sovctl sweep --node n[001-008]     these only
  sovctl sweep --json | jq '.nodes[] | select(.verdict != "healthy")'

Only drains by sovctl itself are ever touched. A node that cannot be heard is unknown: neither drained nor given back.
exit status: 0 no node failed; 10 a node failed; 3 another sweep runs; 75 slurmctld does not answer.
"""


def run(argv: Sequence[str]) -> int:
    """Run `sovctl sweep` once."""
    options = make_parser().parse_args(list(argv))
    # One pass and out: nothing to collect, and collecting what 80,000 GPUs said would take as long as judging it.
    gc.disable()
    config = load_config()
    act = options.act and not options.dry_run and config.health.act
    if options.act and not options.dry_run and not config.health.act:
        _say("health.act is false: observing only")
    with wiring.sweep_turn(config, act=act, say=_say), progress("asking the nodes"):
        outcome = sweep(wiring.sweep_ports(config), wiring.sweep_settings(config, act=act, only=_only(options.node)))
        of_spares = (_test_a_spare(config), *_spares_short(config)) if act and not options.node else ()
    if options.json:
        print_json(_SCHEMA, _record(outcome, act=act))
    elif options.dry_run:
        _print_commands(outcome)
    else:
        _print_table(outcome, everything=options.all)
    for words in filter(None, (*outcome.alarms, *outcome.notes, *of_spares)):
        _say(words)
    return EXIT_NODE_FAILED if outcome.failed else EXIT_DONE


def _test_a_spare(config: Config) -> str:
    """Have a spare that waits prove that it can compute, one a pass at most. In words; empty: none was due."""
    if config.spare.test_every_s <= 0:
        return ""
    from sovctl.operations.spares import test_next

    try:
        done = test_next(wiring.spare_ports(config), config.spare.test_every_s, config.sweep.retest_timeout_s)
    except SovctlError as error:
        return f"no spare was tested: {error.message}"
    return f"spare {done.node} was tested: {done.outcome}: {done.why}" if done is not None else ""


def _spares_short(config: Config) -> tuple[str, ...]:
    try:
        return wiring.spares_short(config)
    except SovctlError as error:
        return (f"spares were not counted: {error.message}",)


def make_parser() -> argparse.ArgumentParser:
    """The command line of `sovctl sweep`."""
    parser = Parser(
        prog="sovctl sweep",
        description="Ask every node, compare it with its peers, drain and give back what has to be.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--act", action="store_true", help="change things in Slurm (default: say what would be done)")
    parser.add_argument("--dry-run", action="store_true", help="print the exact commands only, whatever else is given")
    parser.add_argument("--node", metavar="LIST", help="look at these nodes only, as n[001-003]")
    parser.add_argument("--all", action="store_true", help="also list the nodes that are plainly fine")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def _only(hostlist: str | None) -> tuple[str, ...]:
    if hostlist is None:
        return ()
    names = wiring.expand_hostlist(hostlist)
    if not names or any(not name or "[" in name for name in names):
        raise UsageError(f"{hostlist!r} names no node", hint="List the nodes with `sovctl node ls`.")
    return names


def _print_commands(outcome: SweepOutcome) -> None:
    for node in outcome.nodes:
        if node.deed.command:
            print(printable(shlex.join(node.deed.command)))
    for _, deed in outcome.placed:
        print(printable(shlex.join(deed.command)))


def _print_table(outcome: SweepOutcome, *, everything: bool) -> None:
    shown = [node for node in outcome.nodes if everything or not node.quiet]
    if shown:
        from sovctl.cli.tables import add_row, print_table, text_table

        table = text_table("NODE", "STATE", "VERDICT", "FINDING", "ACTION", folded=("FINDING", "ACTION"))
        for node in shown:
            add_row(table, (node.view.name, str(node.view.state), str(node.assessed.state), *_words(node)))
        print_table(table)
    for name, deed in outcome.placed:
        print_line(f"{name}: {deed.did or deed.why}")
    print_line(_summary(outcome))


def _words(node: SweptNode) -> tuple[str, str]:
    worst = node.assessed.worst
    finding = f"{worst.code}: {worst.evidence}" if worst else (node.not_asked or "-")
    return finding, node.deed.did or node.deed.why or "-"


def _summary(outcome: SweepOutcome) -> str:
    counts = Counter(node.assessed.state for node in outcome.nodes)
    parts = [f"{counts[state]} {state}" for state in VerdictState if counts[state]]
    done = sum(node.deed.done for node in outcome.nodes) + sum(deed.done for _, deed in outcome.placed)
    return f"{len(outcome.nodes)} nodes in {outcome.took_s:.1f} s: {', '.join(parts) or 'none'}; {done} changed"


def _record(outcome: SweepOutcome, *, act: bool) -> dict[str, Any]:
    return {
        "act": act,
        "took_s": round(outcome.took_s, 3),
        "alarms": list(outcome.alarms),
        "notes": list(outcome.notes),
        "placed": [
            {"node": name, "action": deed.did or None, "command": list(deed.command), "done": deed.done}
            for name, deed in outcome.placed
        ],
        "nodes": [_node_record(node) for node in outcome.nodes],
    }


def _node_record(node: SweptNode) -> dict[str, Any]:
    own = node.assessed.verdict.findings if node.assessed.verdict else ()
    return {
        "node": node.view.name,
        "state": str(node.view.state),
        "reason": node.view.reason or None,
        "verdict": str(node.assessed.state),
        "checked": node.assessed.confirmed,
        "not_asked": node.not_asked or None,
        "findings": [finding_record(finding) for finding in (*own, *node.assessed.findings)],
        "action": node.deed.did or None,
        "command": list(node.deed.command) or None,
        "done": node.deed.done,
        "why": node.deed.why or None,
    }


def _say(words: str) -> None:
    say(f"sovctl: {words}")
