"""`sovctl watch`: what only the site can do. Declares dead nodes down before Slurm's 300 s are over, and takes over
the runs that were on them: exclusion, and no 121 s.

All it needs to know after a restart is read from Slurm and the alive marks; stopping it stops nobody's training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sovctl.errors import SovctlError
from sovctl.health.death import Down, decide_dead, suspects, unheard
from sovctl.health.drain import incident_id, incident_time
from sovctl.model.job import JobView
from sovctl.model.node import NodeView
from sovctl.model.reason import parse_reason
from sovctl.operations.suspicion import NodeSuspicion
from sovctl.ports import Clock, Journal, NodePing

_PING_SILENCE_S = 1.0
_REMEMBER_S = 120.0
"""How long it is remembered which job was on which node: a run's supervisor may cut a dead node out of its job before
the node is declared dead here."""
_TAKE_OVER_S = 600.0
_LOOK_AGAIN_S = 5.0
_BEGIN_IN_S = 2
_LATE_S = 1.0
"""A job that has not begun so long after its begin time waits for a pass of the scheduler that nobody asked for."""
_STUCK_S = 3.0
"""A run that completes for longer has a node that somebody has to free."""
_ASK_AGAIN_S = 10.0
_SUPERVISED = " -m sovctl supervise "
"""In the batch script that `sovctl submit` writes."""


class Site(Protocol):
    """What the watch needs of Slurm, as root or SlurmUser."""

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]: ...
    def jobs(self) -> tuple[JobView, ...]: ...
    def job(self, job_id: str) -> JobView: ...
    def batch_script(self, job_id: str) -> str: ...
    def set_down(self, node: str, reason: str) -> None: ...
    def drop_nodes(self, job_id: str, keep: Sequence[str]) -> None: ...
    def update_pending(self, job_id: str, *, exclude: Sequence[str] | None, begin: int | None) -> None: ...


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """From the configuration; `act` False only says and journals what would be done."""

    act: bool
    interval_s: float = 1.0
    silent_for_s: float = 6.0
    dead_limit_per_hour: int = 4


@dataclass(frozen=True, slots=True)
class WatchPorts:
    """The outside of the watch."""

    site: Site
    ping: NodePing
    alive: Callable[[], Mapping[str, float]]
    """When each node's watcher last reported."""
    journal: Journal
    clock: Clock
    ask_to_free: Callable[[str, Sequence[str]], None] = lambda _job_id, _nodes: None
    """Have the watchers of these nodes end what is left of a job there, by Slurm's raw id."""


@dataclass(slots=True)
class _Orphan:
    """A run that lost a node and has to come back without it."""

    exclude: set[str]
    since: float
    ours: bool | None = None


@dataclass(slots=True)
class ClusterWatch:
    """The watch; `turn` is one pass."""

    ports: WatchPorts
    settings: WatchSettings
    say: Callable[[str], None]
    _suspicion: NodeSuspicion = field(init=False)
    _places: dict[tuple[str, str], float] = field(default_factory=dict)
    """When each (job, node) was last seen together."""
    _orphans: dict[str, _Orphan] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _looked: dict[str, float] = field(default_factory=dict)
    """When a job that waits for its begin time was last looked at."""
    _pushed: dict[str, float] = field(default_factory=dict)
    """When a pass of the scheduler was last asked for, for a job whose begin time is over."""
    _completing: dict[str, float] = field(default_factory=dict)
    """Since when each run completes."""
    _freed: dict[str, float] = field(default_factory=dict)
    """When it was last asked that a job's nodes be freed."""

    def __post_init__(self) -> None:
        self._suspicion = NodeSuspicion(self.ports.ping, self.ports.clock)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Pass after pass until `stopped()`; slurmctld not answering is waited out."""
        while not stopped():
            began = self.ports.clock.now()
            try:
                self.turn()
                self._told.discard("slurm")
            except SovctlError as error:
                self._tell("slurm", error.message)
            self.ports.clock.sleep(max(0.05, self.settings.interval_s - (self.ports.clock.now() - began)))

    def turn(self) -> None:
        """Look once and do what there is to do. Raises SovctlError when Slurm does not answer."""
        nodes = self.ports.site.nodes()
        self._remember_jobs()
        self._adopt_runs_of_down_nodes(nodes)
        dead = self._dead(nodes)
        # All that look dead in one pass count together: a failed switch must not cost even the first of them.
        others = self._dead_last_hour(nodes) + len(dead) - 1
        for node, silent_s in dead:
            self._declare(node, silent_s, others)
        for job_id in list(self._orphans):
            self._bring_back(job_id)

    # Dead nodes

    def _dead(self, nodes: Sequence[NodeView]) -> list[tuple[NodeView, float]]:
        now = self.ports.clock.now()
        alive = self.ports.alive()
        under_suspicion = suspects(nodes, alive, now, self.settings.silent_for_s)
        if not under_suspicion:
            self._suspicion.clear()
            return []
        self._suspicion.look(under_suspicion)
        gone = self._suspicion.silent_for(_PING_SILENCE_S)
        return [
            (node, now - alive[node.name])
            for node in under_suspicion
            if node.name in gone or unheard(node, now - alive[node.name], self.settings.silent_for_s)
        ]

    def _declare(self, node: NodeView, silent_s: float, others: int) -> None:
        now = self.ports.clock.now()
        incident = incident_id(node.name, str(node.boot_time or 0), now)
        decision = decide_dead(node, silent_s, incident, others, self.settings.dead_limit_per_hour)
        if not isinstance(decision, Down):
            self._tell(
                f"left:{node.name}:{decision.why}", f"{node.name} looks dead and is left as it is: {decision.why}"
            )
            return
        if not self.settings.act:
            self._tell(f"observe:{node.name}", f"would set {node.name} down: {decision.reason}")
            return
        self.ports.journal.append("down-intended", node=node.name, incident=incident, reason=decision.reason)
        self._spare_jobs(node.name)
        self.ports.site.set_down(node.name, decision.reason)
        self.ports.journal.append("down-done", node=node.name, incident=incident)
        self.say(f"set {node.name} down: {decision.reason}")
        self._adopt(node.name)

    def _spare_jobs(self, node: str) -> None:
        """Slurm ends every job on a node that goes down. A run that holds spares goes on without the node, if it has
        left the job before; its supervisor does the rest."""
        for job_id in [job_id for job_id, place in self._places if place == node]:
            try:
                job = self.ports.site.job(job_id)
                keep = [name for name in job.nodes if name != node]
                spared = job.running and node in job.nodes and job.batch_host != node and self._has_spares(job_id)
                if spared:
                    self.ports.site.drop_nodes(job_id, keep)
                    self.ports.journal.append("dropped-from-job", node=node, job_id=job_id)
            except SovctlError as error:
                self._tell(f"drop:{job_id}:{node}", f"{node} could not be dropped from job {job_id}: {error.message}")

    def _has_spares(self, job_id: str) -> bool:
        script = self.ports.site.batch_script(job_id)
        return _SUPERVISED in script and any(word in script for word in (" --spare-nodes ", " --min-nodes "))

    def _dead_last_hour(self, nodes: Sequence[NodeView]) -> int:
        now = self.ports.clock.now()
        ours = (parse_reason(node.reason) for node in nodes if node.state.down)
        times = (incident_time(reason.incident) for reason in ours if reason and reason.code == "NODE_DEAD")
        return sum(at is not None and now - at < 3600 for at in times)

    # Runs that lost a node

    def _remember_jobs(self) -> None:
        now = self.ports.clock.now()
        jobs = self.ports.site.jobs()
        self._completing = {job.job_id: self._completing.get(job.job_id, now) for job in jobs if job.completing}
        self._freed = {job_id: at for job_id, at in self._freed.items() if job_id in self._completing}
        for job in jobs:
            if job.pending and job.reason == "BeginTime":
                self._look_at_waiting(job.job_id)
            if job.running:
                self._places |= {(job.job_id, node): now for node in job.nodes}
            if now - self._completing.get(job.job_id, now) >= _STUCK_S:
                self._free(job.job_id, now)
        self._places = {place: seen for place, seen in self._places.items() if now - seen < _REMEMBER_S}

    def _free(self, job_id: str, now: float) -> None:
        """A slurmstepd that lost a node below it in its step's tree waits a minute for it, on a node that is well."""
        if now - self._freed.get(job_id, 0.0) < _ASK_AGAIN_S or not self._is_run(job_id, _Orphan(set(), now)):
            return
        self._freed[job_id] = now
        job = self.ports.site.job(job_id)
        if not job.completing or not job.nodes:
            return
        words = f"{', '.join(job.nodes)} to be freed from job {job_id}, which completes for too long"
        if not self.settings.act:
            self._tell(f"observe:free:{job_id}", f"would ask {words}")
            return
        self.ports.journal.append("free-asked", job_id=job_id, nodes=list(job.nodes))
        self.ports.ask_to_free(job.extra.get("JobId", job_id), job.nodes)
        self.say(f"asked {words}")

    def _look_at_waiting(self, job_id: str) -> None:
        """A requeued run that waits for a begin time waits for Slurm's 121 s; a user's own --begin is for its first
        start only."""
        now = self.ports.clock.now()
        self._looked = {key: at for key, at in self._looked.items() if now - at < _LOOK_AGAIN_S}
        if job_id not in self._looked:
            self._looked[job_id] = now
            self._orphans.setdefault(job_id, _Orphan(set(), now))

    def _adopt_runs_of_down_nodes(self, nodes: Sequence[NodeView]) -> None:
        """Nodes that Slurm itself declared down lose their jobs in the same way."""
        for node in nodes:
            if node.state.down and not any(node.name in orphan.exclude for orphan in self._orphans.values()):
                self._adopt(node.name)

    def _adopt(self, node: str) -> None:
        now = self.ports.clock.now()
        for job_id, place in list(self._places):
            if place == node:
                self._orphans.setdefault(job_id, _Orphan(set(), now)).exclude.add(node)

    def _bring_back(self, job_id: str) -> None:
        orphan = self._orphans[job_id]
        try:
            job = self.ports.site.job(job_id)
        except SovctlError:
            job = None
        if job is None or job.over or job.held or self.ports.clock.now() - orphan.since > _TAKE_OVER_S:
            self._forget(job_id)
            return
        waits_by_itself = job.pending and job.restarts == 0
        if waits_by_itself or not self._is_run(job_id, orphan):
            self._forget(job_id)
            return
        if job.running and not orphan.exclude & set(job.nodes):
            if self.ports.clock.now() - orphan.since > 30.0 or job.restarts > 0:
                self._forget(job_id)
            return
        if job.pending:
            self._set_terms(job, orphan)

    def _set_terms(self, job: JobView, orphan: _Orphan) -> None:
        """Spare it the 121 s and keep it off the dead node; what the supervisor has arranged already stays."""
        exclude = sorted(set(job.excluded) | orphan.exclude)
        now = self.ports.clock.now()
        overdue = job.reason == "BeginTime" and job.eligible_at is not None and job.eligible_at + _LATE_S <= now
        if overdue and set(exclude) == set(job.excluded):
            self._ask_for_pass(job, now)
            return
        # Not at once: slurmd refuses a credential made in the second in which it revoked the last one, and slurmctld
        # then fails the job for good ("Killing non-startable batch", 22.05).
        begin = int(now) + _BEGIN_IN_S
        late = job.eligible_at is not None and job.eligible_at > begin + 3
        if not late and set(exclude) == set(job.excluded):
            return
        words = f"job {job.job_id}: exclude {','.join(exclude) or 'nothing'}, begin now"
        if not self.settings.act:
            self._tell(f"observe:{job.job_id}", f"would change {words}")
            return
        self.ports.journal.append("takeover-intended", job_id=job.job_id, exclude=exclude)
        self.ports.site.update_pending(job.job_id, exclude=exclude, begin=begin)
        self.ports.journal.append("takeover-done", job_id=job.job_id)
        self.say(words)

    def _ask_for_pass(self, job: JobView, now: float) -> None:
        """It missed the scheduler's last pass and would wait for the backfill (30 s): any update asks for a pass."""
        if self.settings.act and now - self._pushed.get(job.job_id, 0.0) >= _LOOK_AGAIN_S:
            self._pushed = {
                job.job_id: now,
                **{key: at for key, at in self._pushed.items() if now - at < _LOOK_AGAIN_S},
            }
            self.ports.site.update_pending(job.job_id, exclude=job.excluded, begin=None)

    def _is_run(self, job_id: str, orphan: _Orphan) -> bool:
        """Only jobs that sovctl supervises: what else runs here is none of our business."""
        if orphan.ours is None:
            try:
                orphan.ours = _SUPERVISED in self.ports.site.batch_script(job_id)
            except SovctlError:
                return False
        return orphan.ours

    def _forget(self, job_id: str) -> None:
        orphan = self._orphans.pop(job_id, None)
        for node in orphan.exclude if orphan else ():
            self._places.pop((job_id, node), None)

    def _tell(self, key: str, words: str) -> None:
        """Say a thing once, until it changes."""
        if key not in self._told:
            self._told.add(key)
            self.ports.journal.append("noted", words=words)
            self.say(words)
