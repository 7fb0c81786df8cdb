"""Who writes what: agreed once for a model, and again when a name, a shape or a sharding changes.

What several ranks hold alike (everything under DDP, the replicas of HSDP) is written to shared storage by one of
them. For the tier on the nodes each node keeps all that its own ranks need, so it is written once a node.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sovctl.train.side_groups import SideGroup

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.checkpoint.planner import SavePlan, SavePlanner

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Share:
    """What one rank writes."""

    shared: SavePlan
    """To shared storage: nobody else writes these."""
    node: SavePlan
    """To the node's own directory: these, and what no other rank of the node writes there."""
    metadata: Metadata | None
    """On rank 0, and on the first rank of each node when there is a tier on the nodes."""


class Layout:
    """Remembers the share of this rank for as long as the tree keeps its shape."""

    def __init__(self) -> None:
        self._signature: Any = None
        self._share: Share | None = None

    def share(
        self, tree: dict[str, Any] | None, error: BaseException | None, group: SideGroup, nodes: Sequence[str] | None
    ) -> tuple[SavePlanner, Share]:
        """The planner that finds the tensors of `tree`, and this rank's share. Collective.

        `error`: why this rank has no tree; it is raised here, and the other ranks raise RuntimeError.
        `nodes`: the node of each rank, when each node gets a checkpoint of its own; else `None`.
        """
        from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

        planner = DefaultSavePlanner()
        planner.set_up_planner(tree or {}, is_coordinator=group.rank == 0)
        signature = (group.size, None if nodes is None else tuple(nodes), _signature(planner.state_dict))
        changed, wrong = group.largest(int(self._share is None or signature != self._signature), int(error is not None))
        if error is not None:
            raise error
        if wrong:
            raise RuntimeError("another rank could not gather what it has to save; it says why")
        if changed or self._share is None:
            self._share = _agree(planner, group, nodes)
            self._signature = signature
        return planner, self._share


def node_owners(
    holders: Mapping[Key, Iterable[int]], size_of: Mapping[Key, int], load: dict[int, int]
) -> dict[Key, int]:
    """Which of its holders writes each thing: the one with the least to write so far. `load` (bytes) is kept up."""
    owners = {}
    for key, ranks in holders.items():
        owner = min(ranks, key=lambda rank: (load.get(rank, 0), rank))
        load[owner] = load.get(owner, 0) + size_of[key]
        owners[key] = owner
    return owners


def _agree(planner: Any, group: SideGroup, nodes: Sequence[str] | None) -> Share:
    plans = group.to_first(planner.create_local_plan())
    problem = ""
    shares: list[Share] | None = None
    if group.rank == 0:
        try:
            shares = _shares(planner, plans, nodes)
        except Exception as error:  # every rank must hear of it, or the others wait for ever
            problem = f"{type(error).__name__}: {error}"
            shares = None
    words = group.from_first(lambda: problem)
    if words:
        raise RuntimeError(f"the ranks cannot agree on who saves what: {words}")
    return group.scatter(shares)


def _shares(planner: Any, plans: list[SavePlan], nodes: Sequence[str] | None) -> list[Share]:
    final, metadata = planner.create_global_plan(plans)
    if nodes is None:
        return [Share(plan, plan, metadata if rank == 0 else None) for rank, plan in enumerate(final)]
    firsts = {nodes.index(node) for node in nodes}
    extra = _extra_items(plans, final, nodes)
    return [
        Share(plan, _with_items(plan, [*plan.items, *extra[rank]]), metadata if rank == 0 or rank in firsts else None)
        for rank, plan in enumerate(final)
    ]


def _extra_items(plans: list[SavePlan], final: list[SavePlan], nodes: Sequence[str]) -> list[list[Any]]:
    """For each rank what its node needs and no rank of the node writes to shared storage."""
    extra: list[list[Any]] = [[] for _ in plans]
    for node in dict.fromkeys(nodes):
        ranks = [rank for rank, name in enumerate(nodes) if name == node]
        written = {item.index for rank in ranks for item in final[rank].items}
        items = {(item.index, rank): item for rank in ranks for item in plans[rank].items if item.index not in written}
        holders: dict[Any, list[int]] = {}
        for index, rank in items:
            holders.setdefault(index, []).append(rank)
        sizes = {index: items[index, ranks_of[0]].tensor_storage_size() or 1 for index, ranks_of in holders.items()}
        load = {rank: sum(item.tensor_storage_size() or 1 for item in final[rank].items) for rank in ranks}
        for index, owner in node_owners(holders, sizes, load).items():
            extra[owner].append(items[index, owner])
    return extra


def _with_items(plan: SavePlan, items: list[Any]) -> SavePlan:
    from dataclasses import replace

    return replace(plan, items=items)


def _signature(state_dict: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((name, *_shape(value)) for name, value in state_dict.items())


def _shape(value: Any) -> tuple[Any, ...]:
    """What of a value decides where it is written."""
    import torch

    if not isinstance(value, torch.Tensor):
        return ("object",)
    placements = getattr(value, "placements", None)
    mesh = getattr(value, "device_mesh", None)
    return value.shape, value.dtype, placements, mesh if mesh is None else (mesh.mesh.shape, mesh.mesh_dim_names)
