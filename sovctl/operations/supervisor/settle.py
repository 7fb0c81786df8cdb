"""Waits a short while after a stop for the evidence against a node, before nobody's node is blamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sovctl.model.blame import Blame, Culprit
from sovctl.operations.supervisor.live_run import SILENCE_S, LiveRun
from sovctl.recovery.blame import NodeEvidence

_LOOK_S = 5.0
"""How long the nodes get to say what they know of themselves."""
_NO_FAULT = (Culprit.USER_CODE, Culprit.UNKNOWN)

Judge = Callable[[list[NodeEvidence], Mapping[str, str]], Blame]
"""Whom the nodes and what became of their links speak against."""


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be found out, and how."""

    since: float
    """When the attempt started."""
    ask: Sequence[str]
    """Nodes that are asked what they know of themselves."""
    nodes: Sequence[str]
    """Nodes that may be to blame; some may have left the job meanwhile."""
    judge: Judge
    patience_s: float
    """How long a fault gets to show while a node is silent or Slurm does not answer."""
    quiet_s: float
    """The same while all nodes and Slurm answer."""
    ranks_silent: Callable[[], bool] = _always


def settle(live: LiveRun, question: Question) -> Blame:
    """The first judgement that finds a fault, or the last one when the patience is over."""
    clock = live.ports.clock
    began = clock.now()
    live.crash.begin(question.since, question.ask)
    while True:
        owed = live.crash.pending
        evidence = live.evidence(SILENCE_S, question.nodes, ranks_silent=question.ranks_silent())
        blame = question.judge(evidence, live.broken_links())
        if blame.culprit not in _NO_FAULT:
            return blame
        quiet = not live.suspicion.any and not live.watch.slurm_silent
        waited = clock.now() - began
        enough = waited >= (question.quiet_s if quiet else question.patience_s)
        if enough and (not owed or waited >= _LOOK_S):
            return blame
        live.ports.signals.wait(0.25)
