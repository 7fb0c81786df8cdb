"""The nodes each run held when it last ran, and those of them that it lost: what Slurm and the site say of it. Its
script, its record and its requeue are its owner's, and others do not wait for what an owner says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sovctl.model.job import JobView
from sovctl.model.node import NodeView
from sovctl.model.site_answer import SiteWord
from sovctl.operations.supervisor.allocation import nodes_asked
from sovctl.ports.common import Clock
from sovctl.recovery.attempts import seconds

_REMEMBER_S = 900.0
"""So long after a run left its nodes one that goes out of service may still be why."""


@dataclass(slots=True)
class LastNodes:
    """`remember` takes each reading of the queue."""

    clock: Clock
    _held: dict[str, frozenset[str]] = field(default_factory=dict)
    """By job, until it leaves the queue: every node of its last execution, also those it was cut away from."""
    _lost: dict[str, frozenset[str]] = field(default_factory=dict)
    """Those that went out of service, or that the site found failed."""
    _on: dict[str, frozenset[str]] = field(default_factory=dict)
    """The nodes of each job that runs, by the last reading."""
    _shrunk: dict[str, float] = field(default_factory=dict)
    """When a job was last seen to have fewer of them while it ran."""
    _ended: set[str] = field(default_factory=set)
    """Jobs that were seen to leave their nodes: the next ones are those of another execution."""
    _ran_at: dict[str, float] = field(default_factory=dict)
    """When each job was last seen to run."""

    def remember(self, jobs: Sequence[JobView], now: float) -> None:
        """A fresh reading of the queue."""
        listed = {job.job_id for job in jobs}
        on = {job.job_id: frozenset(job.nodes) for job in jobs if job.running and job.nodes}
        self._shrunk |= {job_id: now for job_id, nodes in on.items() if self._on.get(job_id, nodes) - nodes}
        self._shrunk = {job_id: at for job_id, at in self._shrunk.items() if job_id in listed}
        self._on = on
        self._held = {job_id: nodes for job_id, nodes in self._held.items() if job_id in listed}
        for job in jobs:
            if job.job_id in on:
                self._runs_on(job.job_id, on[job.job_id])
                self._ran_at[job.job_id] = now
            elif job.pending or job.completing:
                self._ended.add(job.job_id)
        self._lost = {job_id: nodes for job_id, nodes in self._lost.items() if job_id in self._held}
        self._ran_at = {job_id: at for job_id, at in self._ran_at.items() if job_id in self._held}
        self._ended &= listed

    def _runs_on(self, job_id: str, nodes: frozenset[str]) -> None:
        if job_id in self._ended or not nodes <= self._held.get(job_id, frozenset()):
            self._held[job_id] = nodes
            self._lost.pop(job_id, None)
            self._ended.discard(job_id)

    def shrank_within(self, job_id: str, seconds: float) -> bool:
        """Whether the job lost a node while it ran, so short a while ago."""
        at = self._shrunk.get(job_id)
        return at is not None and self.clock.now() - at < seconds

    def look(self, waiting: Collection[str], nodes: Mapping[str, NodeView]) -> None:
        """Note which nodes of these waiting jobs are out of service."""
        now = self.clock.now() if waiting else 0.0
        for job_id in waiting:
            if now - self._ran_at.get(job_id, now) < _REMEMBER_S:
                for name in self._held.get(job_id, frozenset()):
                    if name in nodes and not nodes[name].state.schedulable:
                        self.lose(job_id, name)

    def lose(self, job_id: str, node: str) -> None:
        """The node is dead or failed; nothing where the job did not hold it."""
        if node in self._held.get(job_id, ()):
            self._lost[job_id] = self._lost.get(job_id, frozenset()) | {node}

    def why_none(self, job_id: str) -> str:
        """Why a waiting run lost no node, in words; empty: it did."""
        if job_id not in self._held:
            return "which nodes it held is not known"
        return "" if self._lost.get(job_id) else "none of the nodes it held went out of service"

    def why_not_before_others(self, job: JobView) -> str:
        """Why a requeued run waits for its turn like any other job; empty: it only gets back what it lost. Its owner
        may change what it asks for while it waits."""
        why, asked = self.why_none(job.job_id), _most_asked(job)
        if not why and job.restarts == 0:
            return "it was not requeued"
        if not why and asked > len(self._held[job.job_id]):
            return f"it asks for up to {asked} nodes, and held {len(self._held[job.job_id])}"
        return why

    def record(self) -> dict[str, Any]:
        """What a restart of the watch must not forget, as JSON."""
        return {"held": _sorted(self._held), "lost": _sorted(self._lost)}

    def restore(self, held: Mapping[str, Sequence[str]], lost: Mapping[str, Sequence[str]]) -> None:
        """From what `record` said before."""
        self._held = {job_id: frozenset(nodes) for job_id, nodes in held.items()}
        self._ran_at = dict.fromkeys(held, self.clock.now())
        for job_id, nodes in lost.items():
            for node in nodes:
                self.lose(job_id, node)

    def restore_found(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Nodes the site found failed just before the watch was killed, from its journal."""
        since = self.clock.now() - _REMEMBER_S
        for event in events:
            failed = event.get("kind") == "suspect-checked" and event.get("state") == str(SiteWord.FAILED)
            if failed and (seconds(event, "at") or 0.0) >= since:
                self.lose(str(event.get("job_id", "")), str(event.get("node", "")))


def _most_asked(job: JobView) -> int:
    """The most nodes a job may be given (NumNodes of scontrol: `16-18`); 0: it does not say."""
    most = job.extra.get("NumNodes", "").rpartition("-")[2]
    return max(int(most) if most.isdigit() else 0, nodes_asked(job))


def _sorted(nodes: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    return {job_id: sorted(nodes[job_id]) for job_id in sorted(nodes)}
