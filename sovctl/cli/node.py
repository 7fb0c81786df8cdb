"""`sovctl node`: how Slurm sees the nodes, and what sovctl found on them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from sovctl.cli import wiring
from sovctl.cli.json_output import print_json
from sovctl.cli.listing_words import ListingWords
from sovctl.cli.node_ls import list_nodes
from sovctl.cli.progress import progress
from sovctl.cli.typer_app import run_app
from sovctl.cli.words import clock_time, folded, printable, say
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE, EXIT_NODE_FAILED, EXIT_TRY_LATER, UsageError
from sovctl.health.sweep import Assessed
from sovctl.model.node import NodeView
from sovctl.model.verdict import VerdictState
from sovctl.model.verdict_json import finding_record
from sovctl.operations import node_by_hand, nodes
from sovctl.operations.node_by_hand import HandOutcome
from sovctl.operations.nodes import ShownNode
from sovctl.operations.sweep import ask_nodes
from sovctl.recovery.attempts import seconds, text
from sovctl.recovery.event_words import event_words

app = typer.Typer(
    help="Nodes of the cluster: which are not fine, why, and who said so.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the exact commands, change nothing.")]
ListFormat = Annotated[
    str, typer.Option("-o", "--format", metavar="FORMAT", help="Fields to show: '%.18N %T', or names: nodes,state:10.")
]
NoHeader = Annotated[bool, typer.Option("-n", "--noheader", help="No line of headers.")]
Names = Annotated[str, typer.Argument(metavar="NODE", help="A node, or several as n[001-003].")]
_SHOW_SCHEMA = "sovctl.node.show/1"
_CHECK_SCHEMA = "sovctl.node.check/1"
_CHANGE_SCHEMA = "sovctl.node.change/1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def run(argv: Sequence[str]) -> int:
    """Run `sovctl node ARGV` and return its exit status."""
    return run_app(app, argv, "sovctl node")


@app.command("ls")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Each node on a line of its own.")] = False,
    fmt: ListFormat = "",
    noheader: NoHeader = False,
    as_json: Json = False,
) -> int:
    """List nodes alike in one line, those that are not plainly fine first.

    A * marks a drain by sovctl. With -o, as in sinfo: %T state, %D count, %N nodes, %H since, %u by, %E reason,
    %i incident, %c code; or these names with commas between, such as -o nodes,state,reason:40.

    Example: sovctl node ls
    """
    return list_nodes(ListingWords(all_, fmt, noheader, as_json))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NODE", help="A node, or several as n[001-003].")],
    as_json: Json = False,
) -> int:
    """Show how Slurm sees a node, our incident on it, and the last words of its checks.

    Example: sovctl node show n003
    """
    names = wiring.expand_hostlist(name)
    odd = next((item for item in names if not _NAME.fullmatch(item)), None)
    if odd is not None or not names:
        raise UsageError(f"{name!r} names no node", hint="List the nodes with `sovctl node ls`.")
    config, cluster = load_config(), wiring.slurm()
    with progress("asking slurmctld"):
        shown = [nodes.show_node(item, cluster, wiring.node_journal(config, item)) for item in names]
    if as_json:
        print_json(_SHOW_SCHEMA, {"nodes": [_node_record(item) for item in shown]})
        return EXIT_DONE
    for index, item in enumerate(shown):
        print("\n" * bool(index) + "\n".join(_folded(line) for line in _lines(item)))
    return EXIT_DONE


@app.command()
def check(name: Names, as_json: Json = False) -> int:
    """Have nodes check themselves now, here or over SSH; nothing is drained.

    Exit status: 0; 10 when one failed; 75 when one could not be asked.

    Example: sovctl node check n003
    """
    config, slurm = load_config(), wiring.slurm()
    with progress("asking slurmctld"):
        views = [node_by_hand.view(item, slurm) for item in _expanded(name)]
    here = [view for view in views if view.name == wiring.node_name(config)]
    there = [view for view in views if view not in here]
    command, timeout_s = wiring.check_command(config), config.ssh.timeout_s
    with progress(f"checking {wiring.fold_hostlist(view.name for view in views)}"):
        assessed = ask_nodes(here, wiring.local_shell(), command, timeout_s) if here else {}
        assessed |= ask_nodes(there, wiring.remote_shell(config), command, timeout_s) if there else {}
    checked = [(view, assessed[view.name]) for view in views]
    if as_json:
        print_json(_CHECK_SCHEMA, {"nodes": [_check_record(*item) for item in checked]})
    else:
        print("\n".join(_folded(line) for item in checked for line in _check_lines(*item)))
    states = {item.state for item in assessed.values()}
    if VerdictState.FAILED in states:
        return EXIT_NODE_FAILED
    return EXIT_TRY_LATER if VerdictState.UNKNOWN in states else EXIT_DONE


@app.command()
def drain(
    name: Names,
    reason: Annotated[str, typer.Option("--reason", help="Why, in a few words; kept with the node.")],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Take nodes out of service; what runs there goes on. Somebody else's drain is left as it is.

    Example: sovctl node drain n003 --reason 'new cable'
    """
    if not reason.strip():
        raise UsageError("--reason is empty", hint="Say why, for those who find the node drained: --reason 'new cable'")
    ports, who = wiring.hand_ports(load_config()), _who()
    with progress("asking slurmctld"):
        names = node_by_hand.known(_expanded(name), ports.site)
        done = [node_by_hand.drain(item, reason, who, ports, dry_run=dry_run) for item in names]
    return _told(done, as_json)


@app.command()
def resume(
    name: Names,
    force: Annotated[bool, typer.Option("--force", help="Also a node that does not answer Slurm.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Give back nodes that sovctl took out of service, and only those.

    Example: sovctl node resume n003
    """
    ports, who = wiring.hand_ports(load_config()), _who()
    with progress("asking slurmctld"):
        names = node_by_hand.known(_expanded(name), ports.site)
        done = [node_by_hand.resume(item, who, ports, force=force, dry_run=dry_run) for item in names]
    return _told(done, as_json)


@app.command()
def history(name: Annotated[str, typer.Argument(metavar="NODE", help="One node.")], as_json: Json = False) -> int:
    """Show everything that is recorded about a node and its GPUs: checks, drains, deaths, repairs, and by whom.

    Example: sovctl node history n003
    """
    names = _expanded(name)
    if len(names) != 1:
        raise UsageError(f"history takes one node, not {len(names)}", hint=f"Type: sovctl node history {names[0]}")
    name = names[0]
    config = load_config()
    shared = [wiring.cluster_journal(config, writer) for writer in ("sweep", "watch", "hand")]
    with progress("reading the journals"):
        entries, problems = node_by_hand.history(name, wiring.node_journal(config, name), shared)
        entries = sorted((*entries, *node_by_hand.gpu_entries(name, wiring.ledgers(config))), key=node_by_hand.at)
    if as_json:
        print_json("sovctl.history/1", {"node": name, "entries": entries, "problems": problems})
        return EXIT_DONE
    for entry in entries:
        print(_folded(_entry_line(entry).rstrip()))
    if not entries:
        print(f"nothing is recorded about {printable(name)}")
    for problem in problems:
        say(f"sovctl: {problem}")
    return EXIT_DONE


def _expanded(hostlist: str) -> tuple[str, ...]:
    names = wiring.expand_hostlist(hostlist)
    if not names or not all(_NAME.fullmatch(item) for item in names):
        raise UsageError(f"{hostlist!r} names no node", hint="List the nodes with `sovctl node ls`.")
    return names


def _who() -> str:
    """Who types: behind sudo the person, not root."""
    return os.environ.get("SUDO_USER") or wiring.own_name()


def _told(outcomes: Sequence[HandOutcome], as_json: bool) -> int:
    if as_json:
        print_json(_CHANGE_SCHEMA, {"nodes": [asdict(outcome) for outcome in outcomes]})
        return EXIT_DONE
    for outcome in outcomes:
        # stdout has what changes Slurm, so that a dry run can be read by a script.
        line = shlex.join(outcome.command) if outcome.command else ""
        if line and not outcome.done:
            print(printable(line))
        elif not line:
            say(f"sovctl: {outcome.why}")
        for note in dict.fromkeys(outcome.notes):
            say(f"sovctl: {note}")
    return EXIT_DONE


def _check_lines(view: NodeView, assessed: Assessed) -> list[str]:
    own = assessed.verdict.findings if assessed.verdict else ()
    blind = assessed.verdict.blind if assessed.verdict else ()
    repair = assessed.verdict.repair if assessed.verdict else "none"
    lines = [f"{view.name}: {assessed.state}" + (f", repair: {repair}" if own else "")]
    lines += [f"  {item.severity:<4} {item.code}: {item.evidence}" for item in (*own, *assessed.findings)]
    return lines + [f"  not seen: {source}" for source in blind]


def _check_record(view: NodeView, assessed: Assessed) -> dict[str, Any]:
    verdict = assessed.verdict
    return {
        "node": view.name,
        "state": str(view.state),
        "verdict": str(assessed.state),
        "repair": str(verdict.repair) if verdict else None,
        "observed_at": verdict.observed_at if verdict else None,
        "boot_id": verdict.boot_id if verdict else None,
        "findings": [finding_record(item) for item in (*(verdict.findings if verdict else ()), *assessed.findings)],
        "blind": list(verdict.blind) if verdict else [],
    }


def _lines(shown: ShownNode) -> list[str]:
    view = shown.view
    lines = [
        f"{view.name}: {view.state}",
        f"  partitions: {', '.join(view.partitions) or '-'}   generic resources: {view.gres or '-'}",
        f"  booted:     {clock_time(view.boot_time)}",
        f"  jobs:       {', '.join(job.job_id for job in shown.jobs) or '-'}",
    ]
    if shown.incident is not None:
        incident = shown.incident
        lines += [
            f"  incident:   {incident.incident} by sovctl, {clock_time(shown.incident_at or view.reason_at)}",
            f"  finding:    {incident.code} {incident.text}".rstrip(),
        ]
    elif view.reason:
        lines.append(
            f"  reason:     {view.reason} ({view.reason_by or 'by whom is not recorded'}, {clock_time(view.reason_at)})"
        )
    return lines + _journal_lines(shown)


def _journal_lines(shown: ShownNode) -> list[str]:
    if shown.journal_problem:
        return [f"  journal:    {shown.journal_problem}"]
    if not shown.entries:
        return ["  journal:    nothing is recorded here about this node"]
    lines = ["  journal:"]
    for entry in shown.entries:
        lines.append(f"    {_entry_line(entry)}".rstrip())
    return lines


def _entry_line(entry: dict[str, Any]) -> str:
    return f"{clock_time(seconds(entry, 'at'))}  {text(entry, 'kind'):<15} {_entry_words(entry)}"


def _folded(line: str) -> str:
    """What goes on begins below the words: of a `key: value`, of an entry behind its time, or a little in."""
    indent = len(line) - len(line.lstrip())
    if line[indent : indent + 1].isdigit():
        return folded(printable(line), indent + 21)
    return folded(printable(line), 14 if line[:14].rstrip().endswith(":") else indent + 4)


def _entry_words(entry: dict[str, Any]) -> str:
    """What a check wrote about its own node; the node's name and the long list of findings add nothing here."""
    kind = text(entry, "kind")
    if kind == "verdict":
        return " ".join(filter(None, (text(entry, "state"), text(entry, "code"), text(entry, "evidence"))))
    if kind == "drain-intended":
        return text(entry, "reason")
    rest = {key: value for key, value in entry.items() if key not in ("node", "findings", "incident")}
    return event_words(rest)


def _node_record(shown: ShownNode) -> dict[str, Any]:
    view = shown.view
    return {
        "name": view.name,
        "state": str(view.state),
        "fine": nodes.plainly_fine(view.state),
        "reason": view.reason or None,
        "by": view.reason_by or None,
        "since": view.reason_at,
        "boot_time": view.boot_time,
        "partitions": list(view.partitions),
        "gres": view.gres or None,
        "jobs": [job.job_id for job in shown.jobs],
        "incident": {**asdict(shown.incident), "at": shown.incident_at} if shown.incident else None,
        "journal": list(shown.entries),
        "journal_problem": shown.journal_problem or None,
    }
