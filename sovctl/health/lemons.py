"""Nodes with a bad record are taken last: never refused, so that no job waits for want of a better one. Pure.

Slurm hands out nodes of lower Weight first. A lemon gets a weight above all others, and its own back when its score
has fallen; submission, requeues and spares all follow from that, and a full cluster still uses every node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sovctl.health.ledger import LEMON, Ledger
from sovctl.model.node import NodeView

SCHEMA = "sovctl.lemons/1"
FORGIVEN_SHARE = 0.8
"""Of the limit: below it a lemon is one no more, so that a score at the limit does not go back and forth."""


@dataclass(frozen=True, slots=True)
class Lemons:
    """What the last sweep knew: `<journal_dir>/lemons.json`."""

    at: float = 0.0
    """Seconds since the epoch."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Every node with something against it, worst first."""
    taken_last: Mapping[str, int] = field(default_factory=dict)
    """Nodes whose weight was raised: the weight they had before."""
    where: Mapping[str, str] = field(default_factory=dict)
    """The node of each GPU, by serial number."""


@dataclass(frozen=True, slots=True)
class Reweigh:
    """Give a node another weight."""

    node: str
    weight: int
    before: int
    why: str

    @property
    def argv(self) -> tuple[str, ...]:
        """The literal command."""
        return ("scontrol", "update", f"NodeName={self.node}", f"Weight={self.weight}")


@dataclass(frozen=True, slots=True)
class Move:
    """A GPU that is in another node than before."""

    serial: str
    from_node: str
    to_node: str


def reweigh(
    nodes: Sequence[NodeView], scores: Mapping[str, float], before: Lemons, *, enabled: bool = True
) -> tuple[tuple[Reweigh, ...], dict[str, int]]:
    """(what to change, `taken_last` from now on). Idempotent; a slurmctld that forgot is told again."""
    lemons = (
        {name for name, score in scores.items() if _is_lemon(score, name in before.taken_last)} if enabled else set()
    )
    own_weight = {node.name: before.taken_last.get(node.name, node.weight) for node in nodes}
    last = max((weight for name, weight in own_weight.items() if name not in lemons), default=0) + 1
    changes: list[Reweigh] = []
    taken_last: dict[str, int] = {}
    for node in nodes:
        own = own_weight[node.name]
        if node.name in lemons:
            taken_last[node.name] = own
            if node.weight < last:
                why = f"score {scores[node.name]:g}: taken last"
                changes.append(Reweigh(node.name, last, node.weight, why))
        elif node.name in before.taken_last and node.weight != own:
            changes.append(Reweigh(node.name, own, node.weight, f"score {scores.get(node.name, 0.0):g}: as before"))
    return tuple(changes), taken_last


def located(ledgers: Mapping[str, tuple[float, Ledger]], before: Lemons) -> tuple[dict[str, str], tuple[Move, ...]]:
    """(the node of each GPU, GPUs that moved). `ledgers`: by node, with the time of writing; the newest counts."""
    where: dict[str, str] = {}
    for node, (_, ledger) in sorted(ledgers.items(), key=lambda item: item[1][0]):
        where |= dict.fromkeys(ledger.places.values(), node)
    moves = tuple(
        Move(serial, before.where[serial], node)
        for serial, node in where.items()
        if before.where.get(serial, node) != node
    )
    return where, moves


def lemons_record(lemons: Lemons) -> dict[str, Any]:
    """As JSON."""
    return {
        "schema": SCHEMA,
        "at": lemons.at,
        "scores": dict(lemons.scores),
        "taken_last": dict(lemons.taken_last),
        "where": dict(lemons.where),
    }


def lemons_from_record(record: Any) -> Lemons:
    """Anything that is not exactly that knows nothing."""
    try:
        if record["schema"] != SCHEMA:
            return Lemons()
        return Lemons(
            float(record["at"]),
            {str(node): float(score) for node, score in record["scores"].items()},
            {str(node): int(weight) for node, weight in record["taken_last"].items()},
            {str(serial): str(node) for serial, node in record["where"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return Lemons()


def _is_lemon(score: float, already: bool) -> bool:
    return score >= (FORGIVEN_SHARE * LEMON if already else LEMON)
