"""Groups the stacks of all ranks of a run, so that the odd ones stand out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sovctl.model.rank_look import NodeLook, RankLook, node_look

SCHEMA = "sovctl.stacks/1"
# What a rank that waits for the others has on its stack, in torch, NCCL's callers, DeepSpeed, Megatron, MPI.
_COLLECTIVES = (
    "all_reduce", "allreduce", "all_gather", "allgather", "reduce_scatter", "all_to_all", "alltoall", "broadcast",
    "barrier", "batch_isend_irecv", "recv_forward", "recv_backward", "send_forward", "send_backward", "synchronize",
    "_wait", "gather", "scatter", "irecv", "isend",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Placed:
    """A rank and the node it is on."""

    node: str
    look: RankLook


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that stand at the same place."""

    ranks: tuple[int, ...]
    nodes: tuple[str, ...]
    state: str
    """T, t, D or Z; else empty: running or sleeping."""
    stack: tuple[str, ...]
    """Innermost first; empty when none could be read."""
    note: str
    """Why there is no stack, and where in the kernel it waits."""

    @property
    def place(self) -> str:
        """Where they are, in a few words."""
        if self.stack:
            return collective(self.stack) or self.stack[0]
        return self.note or "an unknown place"


def placed(looks: Iterable[NodeLook]) -> list[Placed]:
    """Every rank of every node, by rank."""
    return sorted((Placed(look.node, rank) for look in looks for rank in look.ranks), key=lambda item: item.look.rank)


def group(ranks: Sequence[Placed]) -> tuple[Group, ...]:
    """Ranks at the same place together, the largest group first."""
    found: dict[tuple[str, tuple[str, ...], str], list[Placed]] = {}
    for item in ranks:
        look = item.look
        state = look.state if look.state in ("T", "t", "D", "Z") else ""
        note = "" if look.stack else "; ".join(filter(None, [look.problem, look.wait and f"waits in {look.wait}"]))
        found.setdefault((state, look.stack, note), []).append(item)
    groups = [
        Group(
            tuple(item.look.rank for item in members),
            tuple(sorted({item.node for item in members})),
            state,
            stack,
            note,
        )
        for (state, stack, note), members in found.items()
    ]
    return tuple(sorted(groups, key=lambda item: (-len(item.ranks), item.ranks)))


def odd_groups(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Those that are not where most are: stopped or blocked ones, else every group beside one with the majority."""
    total = sum(len(item.ranks) for item in groups)
    stopped = [item for item in groups if item.state]
    if stopped and len(stopped) < len(groups):
        return tuple(stopped)
    if len(groups) > 1 and 2 * len(groups[0].ranks) > total:
        return tuple(groups[1:])
    return ()


def collective(stack: Sequence[str]) -> str:
    """The frame that waits for other ranks; empty when none does."""
    for frame in stack:
        name = frame.partition(" ")[0].lower()
        if any(word in name for word in _COLLECTIVES) or name == "wait":
            return frame
    return ""


def fold_ranks(ranks: Iterable[int]) -> str:
    """`0-3,7`."""
    parts: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if parts and rank == parts[-1][1] + 1:
            parts[-1][1] = rank
        else:
            parts.append([rank, rank])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def stacks_record(attempt: int, at: float, looks: Sequence[NodeLook], silent: Sequence[str]) -> dict[str, Any]:
    """The object of `attempts/<n>/stacks.json`. `at`: seconds since the epoch."""
    from dataclasses import asdict

    groups = group(placed(looks))
    odd = {rank for item in odd_groups(groups) for rank in item.ranks}
    return {
        "schema": SCHEMA,
        "attempt": attempt,
        "at": at,
        "groups": [
            {
                "ranks": fold_ranks(item.ranks),
                "count": len(item.ranks),
                "nodes": list(item.nodes),
                "state": item.state,
                "odd": odd.issuperset(item.ranks),
                "stack": list(item.stack),
                "note": item.note,
            }
            for item in groups
        ],
        "silent": list(silent),
        "nodes": [asdict(look) for look in looks],
    }


def looks_of(record: Any) -> tuple[NodeLook, ...]:
    """The nodes' answers in a record; none when it is no such record."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not isinstance(record.get("nodes"), list):
        return ()
    return tuple(look for item in record["nodes"] if (look := node_look(item)) is not None)


def stacks_text(looks: Sequence[NodeLook], silent: Sequence[str] = ()) -> str:
    """The same for a person: one paragraph a group, odd ones marked, silent nodes first."""
    groups = group(placed(looks))
    odd = odd_groups(groups)
    lines = [f"{name}: no answer" for name in silent]
    for item in groups:
        head = f"rank{'s' if len(item.ranks) > 1 else ''} {fold_ranks(item.ranks)} on {', '.join(item.nodes[:8])}"
        head += f" and {len(item.nodes) - 8} more" if len(item.nodes) > 8 else ""
        state = {"T": "stopped", "t": "traced", "D": "blocked in the kernel", "Z": "dead"}.get(item.state, "")
        lines += ["", head + (f", {state}" if state else "") + (" <- odd" if item in odd else "")]
        lines += [f"  {frame}" for frame in item.stack] or [f"  {item.note or 'no stack'}"]
    for look in looks:
        lines += [f"{look.node}: {problem}" for problem in look.problems]
    return "\n".join(lines).strip() + "\n"
