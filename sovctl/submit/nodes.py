"""How many nodes a job asks for when it wants spares, or is content with fewer. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sovctl.errors import UsageError
from sovctl.submit.options import Choices, OwnOptions

MOST_NODES = 100_000
"""More than any cluster has; a slip of the finger, not a wish."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What the supervisor is told; all 0 where neither --spare-nodes nor --min-nodes was given."""

    size: int = 0
    """Nodes the script runs on."""
    spares: int = 0
    least: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """Options for sbatch. Not a range: with one task a node, Slurm takes the least of it (22.05 to 26.05)."""
        return (f"--nodes={self.size + self.spares}",) if self.spares else ()


def node_plan(own: OwnOptions, chosen: Choices) -> NodePlan:
    """Raises UsageError when the number of nodes of the script cannot be known from the options."""
    spares, least = own.spare_nodes or 0, own.min_nodes or 0
    if not spares and not least:
        return NodePlan()
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
