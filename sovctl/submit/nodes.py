"""How many nodes a job asks for when it wants spares, or is content with fewer. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sovctl.errors import UsageError
from sovctl.submit.options import Choices, OwnOptions

MOST_NODES = 100_000
"""More than any cluster has; a slip of the finger, not a wish."""
_LEAST = re.compile(r"([0-9]{1,9})([kKmM]?)")
_FACTORS = {"": 1, "k": 1024, "m": 1024 * 1024}

_RANGE = re.compile(r"([0-9]{1,6})[-,:]")


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What the supervisor is told; the first three are 0 where neither --spare-nodes nor --min-nodes was given."""

    size: int = 0
    """Nodes the script runs on."""
    spares: int = 0
    least: int = 0
    lowest: int = 0
    """The least of a range given to --nodes, which says how few it may start on; 0: no range."""

    @property
    def words(self) -> tuple[str, ...]:
        """Options for sbatch. Not a range: with one task a node, Slurm takes the least of it (22.05 to 26.05)."""
        return (f"--nodes={self.size + self.spares}",) if self.spares else ()


def check_layer(env_name: str, plan: NodePlan, chosen: Choices) -> None:
    """Raises UsageError where several nodes are asked for: a named layer has one node at a time."""
    found = _LEAST.match(chosen.nodes or "")
    nodes = plan.size or (int(found[1]) * _FACTORS[found[2].lower()] if found else 1)
    if env_name and nodes > 1:
        raise UsageError(
            f"--env-name {env_name} is for one node at a time, and this run asks for {nodes}",
            hint=f"Make an image of it for all: sovctl image env export {env_name} {env_name}.sqsh",
        )


def node_plan(own: OwnOptions, chosen: Choices) -> NodePlan:
    """Raises UsageError when the number of nodes of the script cannot be known from the options."""
    spares, least = own.spare_nodes or 0, own.min_nodes or 0
    if not spares and not least:
        found = _RANGE.match(chosen.nodes or "")
        return NodePlan(lowest=int(found[1]) if found else 0)
    option = "--spare-nodes" if spares else "--min-nodes"
    if chosen.totals:
        total = chosen.totals[0]
        raise UsageError(
            f"{option} cannot go with --{total}: a figure for the whole job does not say what one node gets",
            hint=f"Give --{total}-per-node instead.",
        )
    nodes = chosen.nodes or ""
    if not (nodes.isascii() and nodes.isdigit() and 0 < int(nodes) <= MOST_NODES):
        said = f", not --nodes={nodes}" if nodes else ""
        raise UsageError(
            f"{option} needs the number of nodes of the script{said}", hint="Give one number, as in --nodes=8."
        )
    size = int(nodes)
    if least > size:
        raise UsageError(
            f"--min-nodes={least} is more than the {size} nodes asked for", hint=f"Give at most --min-nodes={size}."
        )
    if spares > MOST_NODES:
        raise UsageError(
            f"--spare-nodes={spares} is more than any cluster has", hint="Give a small number, as in --spare-nodes=2."
        )
    return NodePlan(size, spares, least)
