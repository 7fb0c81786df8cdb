"""`sovctl node drain|resume|history`: what a person does to a node, in the same journal as what sovctl does."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sovctl.errors import CommandFailed, NodeNotFound, SovctlError
from sovctl.health.by_hand import drain_by_hand, resume_by_hand
from sovctl.health.drain import Nothing, incident_id
from sovctl.health.ledger import ledger_from_record, merged
from sovctl.model.node import NodeView
from sovctl.ports.common import Clock, Journal
from sovctl.ports.node import Ledgers


class NodeSite(Protocol):
    """What a person's command needs of Slurm."""

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]: ...
    def drain(self, node: str, reason: str) -> None: ...
    def resume(self, node: str) -> None: ...


@dataclass(frozen=True, slots=True)
class HandPorts:
    """The outside of a command by hand."""

    site: NodeSite
    journal: Journal
    clock: Clock


@dataclass(frozen=True, slots=True)
class HandOutcome:
    """What came of it."""

    node: str
    command: tuple[str, ...] = ()
    """The literal command; empty: nothing had to be done."""
    done: bool = False
    why: str = ""
    """Why nothing had to be done."""
    notes: tuple[str, ...] = ()


def drain(name: str, words: str, who: str, ports: HandPorts, *, dry_run: bool) -> HandOutcome:
    """Take a node out of service. Raises NodeNotFound, RefusedError, NotPermitted."""
    node = view(name, ports.site)
    now = ports.clock.now()
    decision = drain_by_hand(node, words, incident_id(name, str(node.boot_time or 0), now))
    if isinstance(decision, Nothing):
        return HandOutcome(name, why=decision.why)
    reason = str(decision.reason)
    return _do(
        "drain",
        HandOutcome(name, decision.argv),
        lambda: ports.site.drain(name, reason),
        {"incident": decision.reason.incident, "node": name, "by": who, "code": decision.reason.code, "reason": reason},
        ports,
        dry_run=dry_run,
    )


def resume(name: str, who: str, ports: HandPorts, *, force: bool, dry_run: bool) -> HandOutcome:
    """Give back what sovctl took out of service. Raises NodeNotFound, RefusedError, NotPermitted."""
    node = view(name, ports.site)
    why = resume_by_hand(node, force=force)
    if why:
        return HandOutcome(name, why=why)
    argv = ("scontrol", "update", f"NodeName={name}", "State=RESUME")
    return _do(
        "resume",
        HandOutcome(name, argv),
        lambda: ports.site.resume(name),
        {"node": name, "by": who, "reason": node.reason},
        ports,
        dry_run=dry_run,
    )


def history(name: str, own: Journal, shared: Sequence[Journal]) -> tuple[list[dict[str, Any]], list[str]]:
    """(every entry about a node, oldest first; which journals could not be read). `own`: what the node itself wrote."""
    entries: list[dict[str, Any]] = []
    problems = []
    for journal in (own, *shared):
        try:
            found = journal.events()
        except SovctlError as error:
            problems.append(error.message)
            continue
        entries += [entry for entry in found if _concerns(entry, name, journal is own)]
    return sorted(entries, key=at), problems


def gpu_entries(name: str, ledgers: Ledgers | None) -> list[dict[str, Any]]:
    """What became of the GPUs that are in this node, on whichever node it was, and of those that were here then."""
    if ledgers is None:
        return []
    read = {node: ledger_from_record(record) for node, (_, record) in ledgers.all().items()}
    here = set(read[name].places.values()) if name in read else set()
    return [
        {"at": entry.at, "kind": "gpu", "node": entry.node, "serial": serial, "what": entry.what, "text": entry.text}
        for serial, entries in merged(read.values()).gpus.items()
        for entry in entries
        if entry.node == name or serial in here
    ]


def _concerns(entry: dict[str, Any], name: str, own: bool) -> bool:
    return name in (entry.get("node", name if own else None), entry.get("from_node"))


def known(names: Sequence[str], site: NodeSite) -> Sequence[str]:
    """The names, where Slurm knows them all: a slip in one must leave every node as it is. Raises NodeNotFound."""
    for name in names:
        view(name, site)
    return names


def view(name: str, site: NodeSite) -> NodeView:
    """How Slurm sees a node. Raises NodeNotFound."""
    try:
        views = site.nodes([name])
    except CommandFailed as error:
        if "not found" in error.message:
            raise NodeNotFound(name) from None
        raise
    for found in views:
        if found.name == name:
            return found
    raise NodeNotFound(name)


def _do(
    kind: str,
    outcome: HandOutcome,
    effect: Callable[[], None],
    fields: dict[str, Any],
    ports: HandPorts,
    *,
    dry_run: bool,
) -> HandOutcome:
    if dry_run:
        return outcome
    notes = _journal(ports.journal, f"{kind}-intended", **fields, command=shlex.join(outcome.command))
    short = {key: fields[key] for key in ("incident", "node", "by") if key in fields}
    try:
        effect()
    except SovctlError as error:
        _journal(ports.journal, f"{kind}-failed", **short, error=error.message)
        raise
    notes += _journal(ports.journal, f"{kind}-done", **short)
    return HandOutcome(outcome.node, outcome.command, done=True, notes=tuple(notes))


def _journal(journal: Journal, kind: str, **fields: Any) -> list[str]:
    try:
        journal.append(kind, **fields)
    except SovctlError as error:
        return [error.message]
    return []


def at(entry: dict[str, Any]) -> float:
    """When an entry was written, in seconds since the epoch; 0: it does not say."""
    said = entry.get("at")
    return float(said) if isinstance(said, int | float) else 0.0
