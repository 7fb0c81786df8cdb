"""Which nodes the next attempt must not get. Pure.

The list never starves the job: when too few nodes would remain, the oldest exclusions are given up first, and those of
nodes that Slurm would not use anyway only where the job could never start else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sovctl.model.node import NodeView
from sovctl.model.site_answer import SiteWord

FORGET_AFTER_S = 7 * 24 * 3600.0
"""A node blamed longer ago than this may be tried again: by then somebody has looked at it."""
FORGET_SUSPECT_S = 6 * 3600.0
"""The same for a node that was only left out to find a culprit, or was slower than its peers."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One node blamed for a stop."""

    node: str
    since: float
    """Seconds since the epoch."""
    evidence: str = ""
    suspected: bool = False
    """Nothing speaks against it by itself; given up before any node that was blamed."""


@dataclass(frozen=True, slots=True)
class ExclusionList:
    """What goes into ExcNodeList, and what had to be given up."""

    nodes: tuple[str, ...]
    given_up: tuple[str, ...] = ()


def exclusions(events: Sequence[Mapping[str, Any]], now: float) -> list[Exclusion]:
    """Nodes a run's journal speaks against, oldest first, one entry a node with its newest date; suspects first, so
    that they are the first to be given up."""
    newest: dict[str, Exclusion] = {}
    for event in events:
        if event.get("kind") == "forgiven":
            for node in event.get("nodes", ()):
                newest.pop(node, None)
        known = newest.get(str(event.get("node"))) if event.get("kind") == "site_checked" else None
        if known is not None and event.get("state") == SiteWord.CLEARED:
            # The site found nothing, and this run stopped there all the same: given up first when nodes are short.
            newest[known.node] = replace(known, suspected=True)
        for found in _against(event, now):
            known = newest.get(found.node)
            if known is None or known.suspected or not found.suspected:
                newest[found.node] = found
    kept = [item for item in newest.values() if now - item.since < _life_s(item)]
    return sorted(kept, key=lambda item: (not item.suspected, item.since))


def ever_against(events: Sequence[Mapping[str, Any]]) -> set[str]:
    """Every node the journal ever spoke against; what else is excluded is the user's own wish."""
    return {found.node for event in events for found in _against(event, 0.0)}


def repaired(
    events: Sequence[Mapping[str, Any]], wanted: Sequence[Exclusion], nodes: Sequence[NodeView]
) -> tuple[list[str], list[str]]:
    """Excluded nodes that are out of service now and were not known to be, and those that were and have been given
    back since: whoever resumed them answers for them, so the run may have them again."""
    views = {node.name: node for node in nodes}
    went: dict[str, float] = {}
    for event in events:
        if event.get("kind") == "out_of_service":
            went |= {str(node): float(event.get("at", 0.0)) for node in event.get("nodes", ())}
    out, back = [], []
    for item in wanted:
        view = views.get(item.node)
        known_out = went.get(item.node, -1.0) >= item.since
        if view is None:
            continue
        if not view.state.schedulable and not known_out:
            out.append(item.node)
        if view.state.schedulable and not view.reason and known_out:
            back.append(item.node)
    return out, back


def _against(event: Mapping[str, Any], now: float) -> list[Exclusion]:
    at, evidence = float(event.get("at", now)), str(event.get("evidence", ""))
    if event.get("kind") == "site_checked" and event.get("state") != SiteWord.FAILED:
        return []
    if event.get("kind") in ("straggler", "node_evidence", "site_checked"):
        node, suspected = event.get("node"), event.get("kind") == "straggler"
        return [Exclusion(node, at, evidence, suspected)] if isinstance(node, str) and node else []
    if event.get("kind") != "attempt_ended":
        return []
    culprit = event.get("culprit")
    blamed = event.get("blamed", ()) if culprit in _SPEAKS_AGAINST else ()
    found = [Exclusion(node, at, evidence, suspected=culprit != "hardware") for node in blamed]
    return found + [
        Exclusion(node, at, "left out to find the culprit", suspected=True)
        for node in event.get("suspects", ())
        if node not in blamed
    ]


_SPEAKS_AGAINST = frozenset({"hardware", "fabric", "storage", "unknown"})
"""Culprits with which a named node is to be avoided; a crash of the code next to a node is no word against it."""


def _life_s(item: Exclusion) -> float:
    return FORGET_SUSPECT_S if item.suspected else FORGET_AFTER_S


def choose(
    wanted: Sequence[Exclusion], own: Sequence[str], nodes: Sequence[NodeView], partition: str, needed: int
) -> ExclusionList:
    """`own`: nodes the user excluded, always kept. `needed`: nodes the job asks for. `nodes`: the cluster."""
    usable = {
        node.name
        for node in nodes
        if node.state.schedulable and (not partition or not node.partitions or partition in node.partitions)
    }
    keep = list(wanted)
    given_up: list[str] = []
    latest = max((item.since for item in wanted), default=0.0)
    while keep and len(usable - {item.node for item in keep} - set(own)) < needed:
        usable_kept = [item for item in keep if item.node in usable]
        # Never the newest: those are the nodes just blamed, and going straight back to them is the one thing to avoid.
        oldest = next((item for item in usable_kept if item.since < latest), None)
        if oldest is None:
            break
        keep.remove(oldest)
        given_up.append(oldest.node)
    # A job that excludes so many nodes that it could not start on all the others is set aside for ever (BadConstraints,
    # priority 0; 22.05 to 26.05). A node that is out of service is none it could start on anyway.
    there = {node.name for node in nodes if not partition or not node.partitions or partition in node.partitions}
    for item in [item for item in keep if item.node in there - usable]:
        if len(there - {item.node for item in keep} - set(own)) >= needed:
            break
        keep.remove(item)
        given_up.append(item.node)
    return ExclusionList(tuple(dict.fromkeys([*own, *(item.node for item in keep)])), tuple(given_up))
