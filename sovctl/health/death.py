"""Which nodes are dead, judged from the controller. Pure.

slurmd does not take a connection, and a second, independent witness agrees: the node's own watcher has not renewed its
mark, nobody answers over SSH, the boot has changed, or the BMC says that the power is off. A node that answers over
SSH under the boot that Slurm knows is never dead, whatever the others say. Nodes that fall silent together are a
switch, a rack, or this machine being cut off, and more than a few deaths an hour are for a person.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sovctl.model.node import NodeView
from sovctl.model.reason import DrainReason, is_ours
from sovctl.model.witness import Shell, WitnessWords

CODE = "NODE_DEAD"
_NOT_EXPECTED = frozenset({"POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN", "POWERING_UP", "REBOOT_ISSUED"})
"""Slurm itself has such a node switched off or restarted."""
_BOOT_SLACK_S = 120.0
"""slurmd and the kernel count the boot's beginning by different clocks."""


@dataclass(frozen=True, slots=True)
class DeathLimits:
    """How many nodes may be declared dead before somebody has to look."""

    per_hour: int = 4
    share_per_hour: float = 0.1
    """Whichever of the two is less, but at least one node."""
    silent_share: float = 0.25
    """More than this share of the nodes silent at once, and more than two: this machine may be the one cut off."""

    def allowed(self, nodes: int) -> int:
        """How many of `nodes` an hour."""
        return max(1, min(self.per_hour, int(self.share_per_hour * nodes)))

    def cut_off(self, silent: int, nodes: int) -> bool:
        """Whether so many are silent at once that we rather distrust ourselves."""
        return silent > max(2, self.silent_share * nodes)


@dataclass(frozen=True, slots=True)
class Down:
    """Declare a node dead, with this reason."""

    node: str
    reason: str

    @property
    def argv(self) -> tuple[str, ...]:
        """The literal command."""
        return ("scontrol", "update", f"NodeName={self.node}", "State=DOWN", f"Reason={self.reason}")


@dataclass(frozen=True, slots=True)
class Left:
    """A silent node that is not touched, and why."""

    node: str
    why: str


def in_service(node: NodeView) -> bool:
    """Whether the node ought to answer. UNKNOWN: slurmctld was restarted and has not heard of it yet, which it never
    will of a node that died meanwhile."""
    return not node.state.down and node.state.base != "FUTURE" and not node.state.flags & _NOT_EXPECTED


def may_be_asked(node: NodeView) -> bool:
    """Whether a node that nobody suspects is worth a question: it ought to answer, and a job may begin on it. Slurm's
    UNKNOWN is also its word for one that never was there."""
    state = node.state
    return in_service(node) and state.responding and not state.draining and state.base != "UNKNOWN"


def suspects(
    nodes: Sequence[NodeView], mark_silent: Mapping[str, float], silent_for_s: float, named: Collection[str] = ()
) -> list[NodeView]:
    """Nodes to ask slurmd of. `mark_silent`: for how many seconds each node's watcher has been silent, of those that
    ever reported; `named`: nodes whose slurmd was silent for the supervisor of a run of theirs. Without a watcher
    Slurm's own NOT_RESPONDING is the first word, which comes minutes later."""
    return [
        node
        for node in nodes
        if (
            mark_silent[node.name] >= silent_for_s
            if node.name in mark_silent
            # Slurm's UNKNOWN is also its word for a node that never was there.
            else node.state.base != "UNKNOWN" and (not node.state.responding or node.name in named)
        )
        and in_service(node)
    ]


def unheard(node: NodeView, mark_silent_s: float | None, silent_for_s: float) -> bool:
    """Whether a node whose port still takes connections is as good as dead, because everything on it stands still:
    slurmctld gave up on it, and its watcher has been silent twice as long as for a node whose port is dead (slurmctld's
    own word can be a minute old)."""
    return not node.state.responding and mark_silent_s is not None and mark_silent_s >= 2 * silent_for_s


def shell_testimony(
    known_boot: str, boot_time: int | None, said_boot: str, uptime_s: float | None, answered_at: float
) -> Shell:
    """Of a node that answered over SSH: is it the boot that Slurm and the watcher knew? `boot_time`: Slurm's, seconds
    since the epoch; `uptime_s`: what the node says."""
    if known_boot and said_boot and known_boot != said_boot:
        return Shell.REBOOTED
    began = None if uptime_s is None else answered_at - uptime_s
    if not known_boot and began is not None and boot_time is not None and began > boot_time + _BOOT_SLACK_S:
        return Shell.REBOOTED
    return Shell.ANSWERS


def decide_dead(
    node: NodeView, slurmd_silent_s: float, mark_silent_s: float | None, said: WitnessWords, incident: str
) -> Down | Left:
    """What the witnesses make of a node whose slurmd is silent. `mark_silent_s`: None where no watcher ever
    reported."""
    if said.shell is Shell.ANSWERS:
        return Left(node.name, "slurmd is silent, but the node answers over SSH")
    others = [
        words
        for words, dead in (
            (f"watcher silent {mark_silent_s or 0:.0f} s", mark_silent_s is not None),
            ("SSH silent", said.shell is Shell.SILENT),
            ("booted anew", said.shell is Shell.REBOOTED),
            ("power off", said.power_off),
        )
        if dead
    ]
    if not others:
        why = said.words or "it has no watcher, SSH was not asked"
        return Left(node.name, f"slurmd is silent, and there is no second witness: {why}")
    if node.state.draining and node.reason and not is_ours(node.reason):
        return Left(node.name, f"it is drained by somebody else: {node.reason}")
    words = f"slurmd silent {slurmd_silent_s:.0f} s, " + ", ".join(others)
    if is_ours(node.reason):
        words += f" [was: {node.reason}]"
    return Down(node.name, str(DrainReason(incident, CODE, words)))


def budget_words(dead: int, declared: int, allowed: int) -> str:
    """Why no more nodes are set down; empty while they may be. `dead`: look dead now; `declared`: were declared dead
    within the hour. All count together, so that a failed switch costs not even the first of them."""
    if dead + declared <= allowed:
        return ""
    return (
        f"STOPPED declaring nodes dead: {dead} look dead now and {declared} were declared dead within the hour, "
        f"{allowed} may be (watch.dead_limit_per_hour, watch.dead_share_per_hour). This looks like a switch, a rack or "
        "a mistake; a person has to look."
    )


def cut_off_words(silent: int, nodes: int) -> str:
    """When too many are silent at once."""
    return (
        f"STOPPED: {silent} of {nodes} nodes are silent at once (watch.silent_share). Either this machine is cut "
        "off or a whole switch is; nothing is set down. A person has to look."
    )
