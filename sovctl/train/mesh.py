"""PyTorch's device mesh from where the ranks really are: full sharding inside a node, data parallel across nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sovctl.errors import UsageError
from sovctl.train.context import RunContext
from sovctl.train.side_groups import CONTROL, SideGroup

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

REPLICATE, SHARD = "replicate", "shard"


def hybrid_mesh(
    ctx: RunContext | None = None, *, shard: int | None = None, device_type: str | None = None
) -> DeviceMesh:
    """A mesh of shape (nodes, ranks a node), dimensions `replicate` and `shard`, for `fully_shard(model, mesh=)`.

    Each row holds the ranks of one node, found by asking every rank where it is (torchrun's GROUP_RANK, Slurm's
    SLURMD_NODENAME, else the host name), so that a cyclic task distribution is no trap. `shard`: so many ranks a row
    instead, a divisor of the ranks of each node or a multiple that joins whole nodes. `device_type`: default: the
    accelerator, else `cpu`. Collective; the process group must be there.
    Raises UsageError when the ranks do not form equal rows.
    """
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    group = SideGroup(CONTROL)
    node = place_of(ctx or RunContext.from_env())
    rows = mesh_rows(group.everyone(node), shard)
    accelerator = torch.accelerator.current_accelerator()
    kind = device_type or ("cpu" if accelerator is None else accelerator.type)
    return DeviceMesh(kind, torch.tensor(rows), mesh_dim_names=(REPLICATE, SHARD))


def full_mesh(device_type: str | None = None) -> DeviceMesh:
    """A mesh of all ranks in one dimension, `shard`: full sharding over everything."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh

    accelerator = torch.accelerator.current_accelerator()
    kind = device_type or ("cpu" if accelerator is None else accelerator.type)
    return init_device_mesh(kind, (SideGroup(CONTROL).size,), mesh_dim_names=(SHARD,))


def data_rank(mesh: DeviceMesh) -> tuple[int, int]:
    """(place, number) of this rank among those that must get different data: all of a mesh of these helpers."""
    return mesh.mesh.flatten().tolist().index(mesh.get_rank()), mesh.size()


def mesh_rows(nodes: Sequence[str], shard: int | None = None) -> list[list[int]]:
    """The ranks as rows of `shard` ranks, whole nodes together. `nodes`: the node of each rank.

    Raises UsageError when that does not come out even.
    """
    by_node: dict[str, list[int]] = {}
    for rank, node in enumerate(nodes):
        by_node.setdefault(node, []).append(rank)
    sizes = {len(ranks) for ranks in by_node.values()}
    if shard is None and len(sizes) > 1:
        uneven = ", ".join(f"{node} {len(ranks)}" for node, ranks in by_node.items())
        raise UsageError(
            f"full sharding inside a node needs as many ranks on each node, and there are: {uneven}",
            hint="Start as many tasks on each node (--ntasks-per-node), or name the number of ranks a shard.",
        )
    width = next(iter(sizes)) if shard is None else shard
    ordered = [rank for ranks in by_node.values() for rank in ranks]
    if width < 1 or len(ordered) % width or any(size % width and width % size for size in sizes):
        raise UsageError(
            f"{len(ordered)} ranks on {len(by_node)} nodes cannot form equal groups of {width}",
            hint="Take a number that divides --ntasks-per-node, or a multiple of it that divides all ranks.",
        )
    return [ordered[first : first + width] for first in range(0, len(ordered), width)]


def place_of(ctx: RunContext) -> str:
    """Which node this rank is on: also under torchrun, where a node is one agent."""
    agent = ctx.environ.get("GROUP_RANK")
    named = ctx.environ.get("SLURMD_NODENAME")
    return named or (f"{ctx.node}/{agent}" if agent else ctx.node)
