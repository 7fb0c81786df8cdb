"""`sovctl node ls` and `sovctl node show`: how Slurm sees the nodes, and what sovctl has to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sovctl.errors import CommandFailed, NodeNotFound, SovctlError
from sovctl.health.ledger import LEMON, ledger_from_record, node_scores
from sovctl.health.lemons import Lemons, lemons_from_record
from sovctl.model.job import JobView
from sovctl.model.node import NodeState, NodeView
from sovctl.model.reason import DrainReason, incident_time, parse_reason

if TYPE_CHECKING:  # a list of nodes is waited for: what it does not need is not imported for it
    from sovctl.ports.common import Journal
    from sovctl.ports.node import Ledgers
    from sovctl.ports.slurm import ClusterView

_FINE = frozenset({"IDLE", "ALLOCATED", "MIXED", "ALLOC", "COMPLETING"})
_HARMLESS = frozenset({"COMPLETING", "PLANNED", "RESERVED", "CLOUD", "DYNAMIC_NORM", "DYNAMIC_FUTURE", "NOT_IN_SVC"})
_LAST_ENTRIES = 10


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes that Slurm describes in the same words."""

    state: NodeState
    nodes: tuple[str, ...]
    reason: str
    by: str
    since: int | None
    """When the reason was given, the earliest of the group; seconds since the epoch."""

    @property
    def ours(self) -> DrainReason | None:
        """The reason taken apart, where sovctl gave it."""
        return parse_reason(self.reason)

    @property
    def fine(self) -> bool:
        return plainly_fine(self.state)


@dataclass(frozen=True, slots=True)
class ShownNode:
    """One node with all that is known about it here."""

    view: NodeView
    jobs: tuple[JobView, ...]
    incident: DrainReason | None
    incident_at: float | None
    """Seconds since the epoch."""
    entries: tuple[dict[str, Any], ...]
    """The last ones of the cluster journal, oldest first."""
    journal_problem: str = ""
    """Why the journal could not be read."""


def plainly_fine(state: NodeState) -> bool:
    """Nothing about this node needs a person's eye."""
    return state.base in _FINE and state.flags <= _HARMLESS


def list_nodes(cluster: ClusterView, *, apart: bool = False) -> tuple[NodeGroup, ...]:
    """Groups of nodes, those that are not plainly fine first; `apart`: each node by itself. Raises SlurmUnreachable."""
    groups: dict[tuple[str, ...], list[NodeView]] = {}
    for view in cluster.nodes():
        key = (str(view.state), view.reason, view.reason_by)
        groups.setdefault((*key, view.name) if apart else key, []).append(view)
    made = [_group(views) for views in groups.values()]
    return tuple(sorted(made, key=lambda group: (group.fine, str(group.state) if not apart else "", group.nodes)))


def show_node(name: str, cluster: ClusterView, journal: Journal) -> ShownNode:
    """`journal`: of this node. Raises NodeNotFound, SlurmUnreachable."""
    view = _view(name, cluster)
    incident = parse_reason(view.reason)
    entries, problem = _entries(journal)
    return ShownNode(
        view=view,
        jobs=_jobs(name, cluster),
        incident=incident,
        incident_at=incident_time(incident.incident) if incident else None,
        entries=tuple(entries[-_LAST_ENTRIES:]),
        journal_problem=problem,
    )


def lemons(ledgers: Ledgers | None) -> Lemons:
    """What the last sweep made of the ledgers; nothing where there is no shared directory."""
    return lemons_from_record(ledgers.lemons()) if ledgers is not None else Lemons()


def known_lemons(ledgers: Ledgers | None, now: float) -> frozenset[str]:
    """Nodes with a bad record, for whoever chooses among nodes: by the list of the last sweep, or by the ledgers of the
    nodes where no sweep acts. `now`: seconds since the epoch."""
    if ledgers is None:
        return frozenset()
    listed = lemons(ledgers)
    if listed.at:
        return frozenset(listed.taken_last) | {node for node, score in listed.scores.items() if score >= LEMON}
    read = {node: ledger_from_record(record) for node, (_, record) in ledgers.all().items()}
    return frozenset(node for node, score in node_scores(read, now).items() if score >= LEMON)


def _group(views: Sequence[NodeView]) -> NodeGroup:
    first = views[0]
    times = [view.reason_at for view in views if view.reason_at is not None]
    return NodeGroup(
        state=first.state,
        nodes=tuple(view.name for view in views),
        reason=first.reason,
        by=first.reason_by,
        since=min(times, default=None),
    )


def _view(name: str, cluster: ClusterView) -> NodeView:
    try:
        views = cluster.nodes([name])
    except CommandFailed as error:
        if "not found" in error.message:
            raise NodeNotFound(name) from None
        raise
    for view in views:
        if view.name == name:
            return view
    raise NodeNotFound(name)


def _jobs(name: str, cluster: ClusterView) -> tuple[JobView, ...]:
    """Other people's jobs may be hidden; that is no reason to show nothing."""
    try:
        return cluster.jobs_on([name])
    except SovctlError:
        return ()


def _entries(journal: Journal) -> tuple[list[dict[str, Any]], str]:
    try:
        return journal.events(), ""
    except SovctlError as error:
        return [], error.message
