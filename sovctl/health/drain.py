"""Whether a node is taken out of service. Pure: verdict, Slurm's view of the node and budget in, decision out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sovctl.model.node import NodeView
from sovctl.model.reason import INCIDENT_STAMP, DrainReason, incident_time, is_ours, parse_reason
from sovctl.model.verdict import Verdict, VerdictState

_NODE_CHARACTERS = 5


@dataclass(frozen=True, slots=True)
class Drain:
    """Take the node out of service, with this reason."""

    node: str
    reason: DrainReason

    @property
    def argv(self) -> tuple[str, ...]:
        """The literal command."""
        return ("scontrol", "update", f"NodeName={self.node}", "State=DRAIN", f"Reason={self.reason}")


@dataclass(frozen=True, slots=True)
class Nothing:
    """Leave the node as it is."""

    why: str
    settled: bool = True
    """False: the node should be out of service and is not, so the same question comes again."""
    budget: bool = False
    """Only because no more drains are allowed: people have to know."""


def decide_drain(verdict: Verdict, node: NodeView, recent_drains: int, limit: int, incident: str) -> Drain | Nothing:
    """`recent_drains`: nodes sovctl drained in the last hour over the cluster; `limit`: how many it may."""
    worst = verdict.worst
    if verdict.state is not VerdictState.FAILED or worst is None:
        return Nothing(f"the verdict is {verdict.state}")
    if node.state.draining:
        return Nothing(_already(node))
    if node.state.down:
        # Slurm or a person took it down; their reason stays. Should it come back unrepaired, it is judged again.
        return Nothing(f"{node.name} is down: {node.reason or 'no reason given'}", settled=False)
    if recent_drains >= limit:
        return Nothing(
            f"sovctl drained {recent_drains} nodes within an hour and may drain {limit}: a person has to look",
            settled=False,
            budget=True,
        )
    text = worst.evidence
    if node.reason and not is_ours(node.reason):
        text = f"{_shortened(text, 100)} [was: {node.reason}]"
    return Drain(node.name, DrainReason(incident, worst.code, text))


def recent_drains(nodes: Iterable[NodeView], now: float, within_s: float = 3600.0) -> int:
    """How many nodes carry a reason of ours that is not older than `within_s` seconds.

    Counted from Slurm itself, so that it holds over the whole cluster and survives the loss of any file of ours.
    """
    count = 0
    for node in nodes:
        reason = parse_reason(node.reason)
        at = incident_time(reason.incident) if reason and (node.state.draining or node.state.down) else None
        if at is not None and at > now - within_s:
            count += 1
    return count


def incident_id(node: str, boot_id: str, at: float) -> str:
    """Sorts by time, names the node, differs between nodes whose names end alike: `261122-214601-n003-ab12`.

    At most 24 characters, because the reason it stands in is cut by squeue and sinfo.
    """
    stamp = datetime.fromtimestamp(at, UTC).strftime(INCIDENT_STAMP)
    short = "".join(char for char in node if char.isascii() and char.isalnum())[-_NODE_CHARACTERS:] or "node"
    mark = hashlib.blake2s(f"{node} {boot_id} {at!r}".encode("utf-8", "replace"), digest_size=2).hexdigest()
    return f"{stamp}-{short}-{mark}"


def _already(node: NodeView) -> str:
    if is_ours(node.reason):
        return f"{node.name} is drained by sovctl already: {node.reason}"
    by = f" by {node.reason_by}" if node.reason_by else ""
    return f"{node.name} is drained{by} already, their reason stays: {node.reason or 'none given'}"


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
