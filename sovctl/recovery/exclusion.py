"""Which nodes the next attempt must not get. Pure.

The list never starves the job: when too few nodes would remain, the oldest exclusions are given up first, except
nodes that Slurm would not use anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovctl.model.node import NodeView

FORGET_AFTER_S = 7 * 24 * 3600.0
"""A node blamed longer ago than this may be tried again: by then somebody has looked at it."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One node blamed for a stop."""

    node: str
    since: float
    """Seconds since the epoch."""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class ExclusionList:
    """What goes into ExcNodeList, and what had to be given up."""

    nodes: tuple[str, ...]
    given_up: tuple[str, ...] = ()


def exclusions(events: Sequence[Mapping[str, Any]], now: float) -> list[Exclusion]:
    """Nodes a run's journal blames, oldest first, one entry a node with its newest date."""
    newest: dict[str, Exclusion] = {}
    for event in events:
        if event.get("kind") == "forgiven":
            for node in event.get("nodes", ()):
                newest.pop(node, None)
        if event.get("kind") == "attempt_ended" and event.get("culprit") == "hardware":
            for node in event.get("blamed", ()):
                newest[node] = Exclusion(node, float(event.get("at", now)), str(event.get("evidence", "")))
    return sorted((item for item in newest.values() if now - item.since < FORGET_AFTER_S), key=lambda item: item.since)


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
    while keep and len(usable - {item.node for item in keep} - set(own)) < needed:
        usable_kept = [item for item in keep if item.node in usable]
        if not usable_kept:
            break
        # Never the newest: those are the nodes just blamed, and going straight back to them is the one thing to avoid.
        if usable_kept[0].since >= wanted[-1].since:
            break
        keep.remove(usable_kept[0])
        given_up.append(usable_kept[0].node)
    return ExclusionList(tuple(dict.fromkeys([*own, *(item.node for item in keep)])), tuple(given_up))
