"""What a person may do to a node through sovctl: drain it with a reason, give back what sovctl drained. Pure."""

from __future__ import annotations

from sovctl.errors import RefusedError
from sovctl.health.drain import Drain, Nothing
from sovctl.model.node import NodeView
from sovctl.model.reason import DrainReason, is_ours

CODE = "BY_HAND"


def drain_by_hand(node: NodeView, words: str, incident: str) -> Drain | Nothing:
    """Raises RefusedError when somebody else took the node out: their reason stays."""
    if node.state.draining or node.state.down:
        if not is_ours(node.reason):
            raise RefusedError(
                f"{node.name} is out of service by {_who(node)} already: {node.reason or 'no reason given'}",
                hint=f"Their reason stays, sovctl overwrites nobody's. See more: sovctl node show {node.name}",
            )
        if node.state.draining:
            return Nothing(f"{node.name} is drained by sovctl already: {node.reason}")
    was = f" [was: {node.reason}]" if node.reason and not is_ours(node.reason) else ""
    return Drain(node.name, DrainReason(incident, CODE, words + was))


def resume_by_hand(node: NodeView, *, force: bool) -> str:
    """Why there is nothing to do, or empty: resume it. Raises RefusedError when it is not ours to give back."""
    if not (node.state.draining or node.state.down):
        return f"{node.name} is in service: {node.state}"
    if not is_ours(node.reason):
        raise RefusedError(
            f"{node.name} was taken out of service by {_who(node)}, not by sovctl: {node.reason or 'no reason given'}",
            hint=f"--force does not change that. Ask {_who(node)}, or say it to Slurm yourself: "
            f"scontrol update NodeName={node.name} State=RESUME",
        )
    if not node.state.responding and not force:
        raise RefusedError(
            f"{node.name} does not answer Slurm ({node.state}), so no job could run on it",
            hint=f"Start slurmd there first; or give it back all the same: sovctl node resume --force {node.name}",
        )
    return ""


def _who(node: NodeView) -> str:
    return node.reason_by or "somebody whom Slurm does not name"
