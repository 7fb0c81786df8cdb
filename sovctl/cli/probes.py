"""`sovctl health probes`: which probes there are, how far each goes, and how often each was right on this node."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sovctl.cli import wiring
from sovctl.cli.json_output import print_json
from sovctl.cli.tables import Column, print_listing
from sovctl.cli.words import print_line, say
from sovctl.config import load_config
from sovctl.errors import EXIT_DONE
from sovctl.health.probes import resolve
from sovctl.model.inventory import SCHEMA as INVENTORY
from sovctl.operations.node.probes import SCHEMA, ProbeRow, learn_inventory, probe_rows


def show(*, as_json: bool, wanted: str = "", noheader: bool = False) -> int:
    """The table of probes; `wanted`: its fields, as -o names them."""
    config = load_config()
    rows = probe_rows(wiring.node_records(config), resolve(config.probes.settings))
    if as_json:
        print_json(SCHEMA, {"node": wiring.node_name(config), "probes": [_record(row) for row in rows]})
        return EXIT_DONE
    print_listing(rows, _COLUMNS, "pTchdCr", wanted, header=not noheader)
    if any(row.state is not row.default for row in rows):
        say("* set in [probes] of sovctl.toml")
    return EXIT_DONE


def learn(*, as_json: bool, dry_run: bool) -> int:
    """Write down what this healthy node has."""
    config = load_config()
    ports = wiring.node_ports(config)
    expected = config.node.expected_gpus if config.node.expected_gpus >= 0 else None
    records = wiring.node_records(config)
    inventory = learn_inventory(ports, records, wiring.node_name(config), expected, dry_run=dry_run)
    values: dict[str, Any] = asdict(inventory)
    if as_json:
        print_json(INVENTORY, values)
    else:
        for name, value in values.items():
            print_line(f"{name}: {_words(value)}")
    say(f"sovctl: {'would write' if dry_run else 'wrote'} {wiring.inventory_path(config)}")
    return EXIT_DONE


def _record(row: ProbeRow) -> dict[str, Any]:
    tally = row.tally
    return {
        "name": row.name,
        "state": str(row.state),
        "default": str(row.default),
        "sources": list(row.sources),
        "prolog": row.quick,
        "why": row.why,
        "cost_ms": tally.cost_ms,
        "hits": tally.hits,
        "would_have_drained": tally.would_have_drained,
        "confirmed": tally.confirmed,
    }


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{name} {item:g}" if isinstance(item, float) else f"{name} {item}" for name, item in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


_COLUMNS = (
    Column("p", "probe", "PROBE", lambda row: row.name),
    Column("T", "state", "STATE", lambda row: str(row.state) + ("" if row.state is row.default else "*")),
    Column("c", "cost", "COST MS", lambda row: f"{row.tally.cost_ms:.1f}"),
    Column("h", "hits", "HITS", lambda row: str(row.tally.hits)),
    Column("d", "would_drain", "WOULD DRAIN", lambda row: str(row.tally.would_have_drained)),
    Column("C", "confirmed", "CONFIRMED", lambda row: str(row.tally.confirmed)),
    Column("r", "why", "WHY", lambda row: row.why, folded=True),
)
