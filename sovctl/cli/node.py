"""`sovctl node`: how Slurm sees the nodes, and what sovctl found on them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from sovctl.cli import wiring
from sovctl.cli.tables import add_row, print_table, text_table
from sovctl.cli.typer_app import run_app
from sovctl.cli.words import clock_time, printable
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE, UsageError
from sovctl.operations import nodes
from sovctl.operations.nodes import NodeGroup, ShownNode
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
_SCHEMA = "sovctl.nodes/1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def run(argv: Sequence[str]) -> int:
    """Run `sovctl node ARGV` and return its exit status."""
    return run_app(app, argv, "sovctl node")


@app.command("ls")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Each node on a line of its own.")] = False, as_json: Json = False
) -> int:
    """List nodes alike in one line, those that are not plainly fine first.

    A * marks a drain by sovctl.

    Example: sovctl node ls
    """
    groups = nodes.list_nodes(wiring.slurm(), apart=all_)
    if as_json:
        print(json.dumps({"schema": _SCHEMA, "groups": [_group_record(group) for group in groups]}))
        return EXIT_DONE
    table = text_table("STATE", "COUNT", "NODES", "SINCE", "BY", "REASON", folded=("NODES", "REASON"))
    for group in groups:
        by = f"{group.by or '?'}{'*' if group.ours else ''}" if group.reason else "-"
        since = clock_time(group.since)
        add_row(table, (str(group.state), str(len(group.nodes)), _fold(group.nodes), since, by, group.reason or "-"))
    print_table(table)
    return EXIT_DONE


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
    shown = [nodes.show_node(item, cluster, wiring.node_journal(config, item)) for item in names]
    if as_json:
        print(json.dumps({"schema": _SCHEMA, "nodes": [_node_record(item) for item in shown]}))
        return EXIT_DONE
    for index, item in enumerate(shown):
        print("\n" * bool(index) + "\n".join(printable(line) for line in _lines(item)))
    return EXIT_DONE


def _fold(names: Sequence[str]) -> str:
    return wiring.fold_hostlist(names)


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
        lines.append(
            f"    {clock_time(seconds(entry, 'at'))}  {text(entry, 'kind'):<15} {_entry_words(entry)}".rstrip()
        )
    return lines


def _entry_words(entry: dict[str, Any]) -> str:
    """What a check wrote about its own node; the node's name and the long list of findings add nothing here."""
    kind = text(entry, "kind")
    if kind == "verdict":
        return " ".join(filter(None, (text(entry, "state"), text(entry, "code"), text(entry, "evidence"))))
    if kind == "drain-intended":
        return text(entry, "reason")
    rest = {key: value for key, value in entry.items() if key not in ("node", "findings", "incident")}
    return event_words(rest)


def _group_record(group: NodeGroup) -> dict[str, Any]:
    return {
        "state": str(group.state),
        "fine": group.fine,
        "count": len(group.nodes),
        "nodes": list(group.nodes),
        "hostlist": _fold(group.nodes),
        "reason": group.reason or None,
        "by": group.by or None,
        "since": group.since,
        "incident": asdict(group.ours) if group.ours else None,
    }


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
