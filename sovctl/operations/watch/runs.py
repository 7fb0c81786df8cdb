"""Runs that lost a node: parted from it where they hold spares, and given their exclusion and begin time where Slurm
requeued them. What the run's own supervisor has arranged already stays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovctl.errors import SlurmUnreachable, SovctlError
from sovctl.model.job import JobSize, JobView
from sovctl.model.node import NodeView
from sovctl.model.watched_run import WatchedRun
from sovctl.operations.supervisor.allocation import free_nodes, nodes_asked, tres_nodes
from sovctl.operations.watch.last_nodes import LastNodes
from sovctl.operations.watch.launches import LaunchAgain
from sovctl.operations.watch.site import Site
from sovctl.operations.watch.voice import Voice
from sovctl.ports.common import Clock
from sovctl.recovery.attempts import names, seconds, text
from sovctl.recovery.exclusion import Exclusion, ExclusionList, choose
from sovctl.recovery.lingering import Lingering, said_to_linger
from sovctl.recovery.requeue import LINGER_S, longest_begin_s
from sovctl.recovery.reserved import kept_from
from sovctl.recovery.slurm_hold import launch_failed
from sovctl.submit.script import Supervised, supervised

_REMEMBER_S = 900.0
"""How long it is remembered which job was on which node: a run's supervisor may cut a node out of its job before the
node is declared dead here, or before its word about the node is read."""
_TAKE_OVER_S = 600.0
_LOOK_AGAIN_S = 5.0
_TRY_AGAIN_S = 10.0
_BEGIN_IN_S = 2
_LATE_S = 1.0
"""A job that has not begun so long after its begin time waits for a pass of the scheduler that nobody asked for."""
_STUCK_S = 3.0
"""A run that completes for longer has a node that somebody has to free; one that lost a node just before, at once."""
_ASK_AGAIN_S = 10.0
_SET_ASIDE = "BadConstraints"
"""Slurm's reason of a job that it holds because the cluster has too few nodes for it, those it excludes left out."""
_FOR_NODES = ("Resources", "ReqNodeNotAvail", "Nodes_required_for_job_are_DOWN", _SET_ASIDE)
"""Slurm's reasons of a job that waits for nodes."""
_HELD_BY_SOMEBODY = ("JobHeldUser", "JobHeldAdmin")
_WAITS_S = 10.0
"""How long a requeued run waits for its spares."""
_MOST_BLAMED = 4096
"""Nodes that are remembered for one run, whatever it writes."""
_UNSEEN_A_PASS = 3
_FIRST = frozenset({"Resources", "QOSGrpNodeLimit"})
"""Why a job waits that would be next but for its nodes."""
_LOOKS_A_PASS = 10
"""Jobs that are asked about one by one in one pass, of those whose turn it is: nobody's jobs keep others waiting."""
_NO_SCRIPT_S = 60.0
"""A job of which Slurm has no batch script (salloc, srun) is asked about again so seldom."""


AskToFree = Callable[[str, Sequence[str], Sequence[int] | None], None]


def free_nobody(_job_id: str, _nodes: Sequence[str], _steps: Sequence[int] | None) -> None:
    """For a watch without watchers."""


def _what_stays(job_id: str, steps: Sequence[int] | None) -> str:
    if steps is None:
        return f"job {job_id}, which completes for too long"
    return f"step {', '.join(f'{job_id}.{step}' for step in steps)}, which only waits for a node that the job lost"


@dataclass(slots=True)
class _Orphan:
    """A run that lost a node and has to come back without it."""

    exclude: set[str]
    since: float
    not_before: float = 0.0
    """Slurm would not change it; tried again then."""


@dataclass(slots=True)
class RunTakeOver:
    """Which job was where, which of them sovctl supervises, and which have to be brought back."""

    site: Site
    clock: Clock
    voice: Voice
    act: bool
    ask_to_free: AskToFree = free_nobody
    """Have the watchers of these nodes end what is left of a job there, by Slurm's raw id, or of some of its steps."""
    launches: LaunchAgain = field(init=False)
    last: LastNodes = field(init=False)
    _places: dict[tuple[str, str], float] = field(default_factory=dict)
    """When each (job, node) was last seen together."""
    _orphans: dict[str, _Orphan] = field(default_factory=dict)
    _looked: dict[str, float] = field(default_factory=dict)
    """When a job that waits for its begin time was last looked at."""
    _scripts: dict[str, Supervised | None] = field(default_factory=dict)
    """What each batch script says; None: not ours."""
    _runs: dict[str, WatchedRun] = field(default_factory=dict)
    _learnt: set[str] = field(default_factory=set)
    """Running jobs of which is known whether they are runs, and where their records are."""
    _pushed: dict[str, float] = field(default_factory=dict)
    """When a pass of the scheduler was last asked for, for a job whose begin time is over."""
    _completing: dict[str, float] = field(default_factory=dict)
    """Since when each job completes."""
    _freed: dict[str, float] = field(default_factory=dict)
    """When it was last asked that a run's nodes be freed."""
    _lingering: dict[str, Lingering] = field(default_factory=dict)
    """By job: steps that wait for a node it lost, as its run said last."""
    _steps_freed: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By job: the last word on such steps that was acted on, and when."""
    _blamed: dict[str, dict[str, float]] = field(default_factory=dict)
    """By job: when its run last spoke against each node."""
    _restarted: dict[str, bool] = field(default_factory=dict)
    """Whether a pending job that was not seen to run did so before."""
    _waiting: dict[str, float] = field(default_factory=dict)
    """Since when each job waits for nodes, or was last looked at for it."""
    _no_script: dict[str, float] = field(default_factory=dict)
    """When a job was last found to have no batch script."""
    _not_requeued: set[str] = field(default_factory=set)
    """Pending jobs that wait for a begin time that somebody gave them."""
    _cluster: str = ""

    def __post_init__(self) -> None:
        self.launches = LaunchAgain(self.site, self.clock, self.voice, self.act)
        self.last = LastNodes(self.clock)

    @property
    def busy(self) -> bool:
        """Some run has to be brought back, or is on its way out of its nodes."""
        return bool(self._orphans or self._completing)

    @property
    def runs(self) -> tuple[WatchedRun, ...]:
        """Active runs whose record is known."""
        return tuple(self._runs.values())

    def waiting(self, jobs: Sequence[JobView]) -> tuple[JobView, ...]:
        """Runs that lost their nodes and wait for others, as the queue shows them."""
        placed = {job_id for job_id, _ in self._places}
        pending = [job for job in jobs if job.pending and not job.completing and not job.reason.startswith("JobHeld")]
        self._look_at_unseen([job.job_id for job in pending if job.reason in _FIRST and job.job_id not in placed])
        mine = [job for job in pending if job.job_id in placed or self._restarted.get(job.job_id)]
        runs = [job for job in mine if not self._is_no_run(job.job_id)][:_LOOKS_A_PASS]
        return tuple(job for job in runs if self._is_run(job.job_id))

    def _look_at_unseen(self, pending: Sequence[str]) -> None:
        """Jobs that were not seen to run: the watch may have been away when they lost their nodes."""
        self._restarted = {job_id: self._restarted[job_id] for job_id in pending if job_id in self._restarted}
        for job_id in [job_id for job_id in pending if job_id not in self._restarted][:_UNSEEN_A_PASS]:
            try:
                self._restarted[job_id] = self.site.job(job_id).restarts > 0
            except SovctlError:
                return

    def nodes_of(self, job_id: str) -> frozenset[str]:
        """Nodes the job holds or held a short while ago."""
        return frozenset(node for job, node in self._places if job == job_id)

    # What is known

    def remember(self, jobs: Sequence[JobView]) -> None:
        """Take in a fresh reading of the queue."""
        now = self.clock.now()
        self.last.remember(jobs, now)
        for job in jobs:
            if job.pending and (job.reason == "BeginTime" or launch_failed(job)):
                self._look_at_waiting(job.job_id)
            elif job.pending:
                self._not_requeued.discard(job.job_id)
            if job.completing and not job.over and job.job_id in self._runs:
                # Perhaps on its way back: looked at by itself until then, for a slow slurmctld is read seldom.
                self._orphans.setdefault(job.job_id, _Orphan(set(), now))
            if job.running:
                self._not_requeued.discard(job.job_id)
                self._places |= {(job.job_id, node): now for node in job.nodes}
        waiting = (job.job_id for job in jobs if job.pending and job.reason.startswith(_FOR_NODES))
        self._waiting = {job_id: self._waiting.get(job_id, now) for job_id in waiting}
        listed = {job.job_id for job in jobs}
        self._places = {place: seen for place, seen in self._places.items() if now - seen < _REMEMBER_S}
        self._not_requeued &= listed
        kept = listed | set(self._orphans)
        self._scripts = {job_id: said for job_id, said in self._scripts.items() if job_id in kept}
        self._no_script = {job_id: at for job_id, at in self._no_script.items() if job_id in kept}
        self._runs = {job_id: run for job_id, run in self._runs.items() if job_id in listed}
        self._learnt &= listed
        self._blamed = {job_id: blamed for job_id, blamed in self._blamed.items() if job_id in kept}
        self._completing = {job.job_id: self._completing.get(job.job_id, now) for job in jobs if job.completing}
        self._freed = {job_id: at for job_id, at in self._freed.items() if job_id in self._completing}

    def hear(self, job_id: str, events: Sequence[Any]) -> None:
        """What a run writes of nodes: which of its job's exclusions are the run's own, and how old they are."""
        lingering = said_to_linger(events, self.clock.now())
        if lingering is not None and lingering.seq > self._steps_freed.get(job_id, (0, 0.0))[0]:
            self._lingering[job_id] = lingering
        for event in events:
            if not isinstance(event, Mapping):
                continue
            at = seconds(event, "at") or 0.0
            for node in (*names(event, "blamed"), *names(event, "suspects"), text(event, "node")):
                blamed = self._blamed.setdefault(job_id, {})
                if node and len(blamed) < _MOST_BLAMED:
                    blamed[node] = at

    def free_stuck(self) -> None:
        """A slurmstepd that lost a node below it in its step's tree waits a minute for it, on a node that is well."""
        now = self.clock.now()
        due = [
            job_id
            for job_id, since in self._completing.items()
            if now - self._freed.get(job_id, -_ASK_AGAIN_S) >= _ASK_AGAIN_S
            and (now - since >= _STUCK_S or self.last.shrank_within(job_id, LINGER_S))
        ]
        for job_id in due[:_LOOKS_A_PASS]:
            self._freed[job_id] = now
            if self._is_run(job_id):
                self._free(job_id)

    def free_lingering(self) -> None:
        """The same of a run that goes on without the node: before it may have to leave the others too."""
        now = self.clock.now()
        self._lingering = {job_id: said for job_id, said in self._lingering.items() if now < said.until}
        self._steps_freed = {job_id: last for job_id, last in self._steps_freed.items() if job_id in self._runs}
        for job_id, said in list(self._lingering.items())[:_LOOKS_A_PASS]:
            if now - self._steps_freed.get(job_id, (0, -_ASK_AGAIN_S))[1] >= _ASK_AGAIN_S:
                self._steps_freed[job_id] = (said.seq, now)
                del self._lingering[job_id]
                self._free(job_id, said.steps)

    def _free(self, job_id: str, steps: Sequence[int] | None = None) -> None:
        try:
            job = self.site.job(job_id)
        except SovctlError:
            return
        # Steps that are named have nothing left to do, whether the run goes on or has to leave its nodes after all.
        if not (job.completing or (job.running and steps is not None)) or not job.nodes:
            return
        words = f"{', '.join(job.nodes)} to be freed from {_what_stays(job_id, steps)}"
        if not self.act:
            self.voice.tell(f"observe:free:{job_id}", f"would ask {words}")
            return
        # First the request, which does no harm twice: one that is killed after each record would never get to it.
        self.ask_to_free(job.extra.get("JobId", job_id), job.nodes, steps)
        self.voice.write("free-asked", job_id=job_id, nodes=list(job.nodes), steps=list(steps or ()))
        self.voice.say(f"asked {words}")

    def learn_runs(self, jobs: Sequence[JobView]) -> None:
        """Find out, a few at a time, which jobs are runs and where their records are."""
        unknown = [job.job_id for job in jobs if job.running and job.job_id not in self._learnt]
        for job_id in [job_id for job_id in unknown if not self._scriptless(job_id)][:_LOOKS_A_PASS]:
            if self._learn(job_id) if self._is_run(job_id) else job_id in self._scripts:
                self._learnt.add(job_id)

    def record(self) -> dict[str, Any]:
        """What a restart must not forget, as JSON."""
        places: dict[str, list[str]] = {}
        for job_id, node in sorted(self._places):
            places.setdefault(job_id, []).append(node)
        orphans = {key: sorted(item.exclude) for key, item in self._orphans.items()}
        return {"places": places, "orphans": orphans, **self.last.record()}

    def restore(self, record: Mapping[str, Any]) -> None:
        """From what `record` said before; what is not of its kind is passed over."""
        now = self.clock.now()
        for job_id, nodes in _lists(record.get("places")):
            self._places |= {(job_id, node): now for node in nodes}
        for job_id, nodes in _lists(record.get("orphans")):
            self._orphans[job_id] = _Orphan(set(nodes), now)
        self.last.restore(dict(_lists(record.get("held"))), dict(_lists(record.get("lost"))))

    # What to do

    def spare(self, node: str) -> None:
        """Slurm ends every job on a node that goes down. A run that holds spares goes on without the node, if it has
        left the job before; its supervisor does the rest."""
        for job_id in [job_id for job_id, place in self._places if place == node]:
            try:
                job = self.site.job(job_id)
                keep = [name for name in job.nodes if name != node]
                spared = job.running and node in job.nodes and job.batch_host != node and self._has_spares(job_id)
                if spared:
                    if self.voice.begun("drop-intended", node=node, job_id=job_id) is None:
                        self.voice.write("drop-intended", node=node, job_id=job_id)
                    self.site.drop_nodes(job_id, keep)
                    self.voice.write("dropped-from-job", node=node, job_id=job_id)
            except SovctlError as error:
                words = f"{node} could not be dropped from job {job_id}: {error.message}"
                self.voice.tell(f"drop:{job_id}:{node}", words)

    def adopt(self, node: str) -> None:
        """The runs on this node lose it."""
        self.adopt_from({node})

    def adopt_from(self, down: Collection[str]) -> None:
        """Nodes that Slurm itself declared down lose their jobs in the same way."""
        now = self.clock.now()
        for job_id, node in list(self._places) if down else ():
            if node in down:
                self._orphans.setdefault(job_id, _Orphan(set(), now)).exclude.add(node)
                self.last.lose(job_id, node)

    def take_over(self, job_id: str, exclude: Collection[str]) -> None:
        """Go on with a run whose terms were about to be changed."""
        self._orphans.setdefault(job_id, _Orphan(set(), self.clock.now())).exclude.update(exclude)

    def bring_back(self) -> None:
        """One look at each run that lost a node."""
        for job_id in list(self._orphans)[:_LOOKS_A_PASS]:
            orphan = self._orphans.pop(job_id)
            # The others come first the next time.
            self._orphans[job_id] = orphan
            self._bring_back(job_id, orphan)

    def let_go(self) -> None:
        """A requeued run that waits for no more than its spares begins without them; one whose exclusions leave it too
        few nodes, because others went out of service since, gives up the oldest."""
        now = self.clock.now()
        for job_id in [job_id for job_id, since in self._waiting.items() if now - since >= _WAITS_S][:_LOOKS_A_PASS]:
            self._waiting[job_id] = now
            said = self._scripts[job_id] if self._is_run(job_id) else None
            if said is not None:
                self._ask_for_less(job_id, said.size)

    def _ask_for_less(self, job_id: str, size: int) -> None:
        try:
            job, nodes = self.site.job(job_id), self.site.nodes()
            kept = kept_from(job, self.site.reservations(), self.clock.now())
        except SovctlError:
            return
        aside = job.reason == _SET_ASIDE
        if not (job.pending and (aside or not job.held) and job.restarts > 0 and job.reason.startswith(_FOR_NODES)):
            return
        smaller = without_spares(job, size, nodes, kept) if size else None
        if smaller is not None:
            words = f"job {job_id}: {smaller.nodes} nodes, without spares that are not to be had"
            self._change(words, lambda: self._shrink(job_id, smaller, aside))
            return
        chosen = self._fewer_exclusions(job, nodes, size)
        if chosen is not None:
            words = f"job {job_id}: {', '.join(chosen.given_up)} no longer excluded, for too few nodes are left"
            self._change(words, lambda: self._admit(job_id, chosen, aside))

    def _change(self, words: str, act: Callable[[], None]) -> None:
        if not self.act:
            self.voice.tell(f"observe:{words}", f"would change {words}")
            return
        try:
            act()
        except SlurmUnreachable:
            raise
        except SovctlError as error:
            self.voice.say(f"could not change {words}: {error.message}")
            return
        self.voice.say(words)

    def _shrink(self, job_id: str, smaller: JobSize, aside: bool) -> None:
        self.voice.write("spares-let-go", job_id=job_id, nodes=smaller.nodes)
        self.site.update_pending(job_id, exclude=None, begin=None, size=smaller)
        self._release(job_id, aside)

    def _admit(self, job_id: str, chosen: ExclusionList, aside: bool) -> None:
        self.voice.write("exclusions-let-go", job_id=job_id, nodes=list(chosen.given_up))
        self.site.update_pending(job_id, exclude=sorted(chosen.nodes), begin=None)
        self._release(job_id, aside)

    def _release(self, job_id: str, aside: bool) -> None:
        """What Slurm set aside stays so after its terms were changed, until it is released."""
        if aside:
            self.site.release(job_id)

    def _fewer_exclusions(self, job: JobView, nodes: Sequence[NodeView], size: int) -> ExclusionList | None:
        """None: they are not what keeps it waiting."""
        chosen = self._chosen(job, {}, nodes, size)
        return chosen if chosen.given_up and set(chosen.nodes) < set(job.excluded) else None

    def _look_at_waiting(self, job_id: str) -> None:
        """A requeued run that waits for a begin time waits for Slurm's 121 s; a user's own --begin is for its first
        start only, and a StartTime that somebody gave it since is told by how far away it is."""
        now = self.clock.now()
        self._looked = {key: at for key, at in self._looked.items() if now - at < _LOOK_AGAIN_S}
        if job_id not in self._looked and job_id not in self._not_requeued:
            self._looked[job_id] = now
            self._orphans.setdefault(job_id, _Orphan(set(), now))

    def _bring_back(self, job_id: str, orphan: _Orphan) -> None:
        try:
            job = self.site.job(job_id)
        except SovctlError:
            job = None
        if job is not None and self._launched_again(job, orphan):
            return
        if job is not None and job.held:
            self._tell_held(job, orphan)
        if job is None or job.over or job.held or self.clock.now() - orphan.since > _TAKE_OVER_S:
            self._forget(job_id)
            return
        waits_by_itself = job.pending and job.restarts == 0
        if waits_by_itself:
            self._not_requeued.add(job_id)
        if waits_by_itself or not self._is_run(job_id):
            self._forget(job_id)
            return
        if job.running and not orphan.exclude & set(job.nodes):
            if self.clock.now() - orphan.since > 30.0 or job.restarts > 0:
                self._forget(job_id)
            return
        if job.pending and self.clock.now() >= orphan.not_before:
            self._set_terms(job, orphan)

    def _launched_again(self, job: JobView, orphan: _Orphan) -> bool:
        """A run that no node launched is let go; its terms come at the next look."""
        if not (job.restarts and launch_failed(job) and self._is_run(job.job_id) and self.launches.again(job)):
            return False
        orphan.since = self.clock.now()
        return True

    def _tell_held(self, job: JobView, orphan: _Orphan) -> None:
        """A run that lost a node and that Slurm itself holds (it was requeued too often) waits for a person who does
        not know of it."""
        by_slurm = not job.reason.startswith(_HELD_BY_SOMEBODY) and not launch_failed(job)
        if orphan.exclude and by_slurm and self._is_run(job.job_id):
            why = f"{job.reason or 'no reason given'}, after {', '.join(sorted(orphan.exclude))} went down"
            self.voice.write("run-held-by-slurm", job_id=job.job_id, why=why)
            self.voice.say(f"job {job.job_id} is held by Slurm: {why}; to let it go: scontrol release {job.job_id}")

    def _set_terms(self, job: JobView, orphan: _Orphan) -> None:
        """Spare it the 121 s and keep it off the dead node; what the supervisor has arranged already stays."""
        exclude = self._exclusions(job, orphan)
        now = self.clock.now()
        overdue = job.reason == "BeginTime" and job.eligible_at is not None and job.eligible_at + _LATE_S <= now
        if overdue and set(exclude) == set(job.excluded):
            self._ask_for_pass(job, now)
            return
        # Not at once: slurmd refuses a credential made in the second in which it revoked the last one, and slurmctld
        # then fails the job for good ("Killing non-startable batch", 22.05).
        begin = int(now) + _BEGIN_IN_S
        late = job.eligible_at is not None and job.eligible_at > begin + 3
        willed = late and self._waits_by_will(job, now)
        if willed and set(exclude) == set(job.excluded):
            self._not_requeued.add(job.job_id)
            self._forget(job.job_id)
        elif late or set(exclude) != set(job.excluded):
            self._change_terms(job, orphan, exclude, None if willed else begin)

    def _change_terms(self, job: JobView, orphan: _Orphan, exclude: list[str], begin: int | None) -> None:
        """`begin`: None leaves it as it is."""
        words = f"job {job.job_id}: exclude {','.join(exclude) or 'nothing'}{'' if begin is None else ', begin now'}"
        if not self.act:
            self.voice.tell(f"observe:{job.job_id}", f"would change {words}")
            return
        begun = self.voice.begun("takeover-intended", job_id=job.job_id)
        if begun is None or begun.get("exclude") != exclude:
            self.voice.write("takeover-intended", job_id=job.job_id, exclude=exclude)
        try:
            self.site.update_pending(job.job_id, exclude=exclude, begin=begin)
        except SlurmUnreachable:
            raise
        except SovctlError as error:
            self.voice.write("takeover-failed", job_id=job.job_id, error=error.message)
            self.voice.say(f"could not change {words}: {error.message}")
            orphan.not_before = self.clock.now() + _TRY_AGAIN_S
            return
        self.voice.write("takeover-done", job_id=job.job_id)
        self.voice.say(words)

    def _waits_by_will(self, job: JobView, now: float) -> bool:
        """Whether its begin time is further away than a requeue could have put it: its owner or an administrator did,
        and knows why."""
        ahead = (job.eligible_at or 0) - now
        if ahead <= longest_begin_s({}):
            return False
        try:
            return ahead > longest_begin_s(self.site.settings())
        except SlurmUnreachable:
            raise
        except SovctlError:
            return True

    def _exclusions(self, job: JobView, orphan: _Orphan) -> list[str]:
        """With the nodes it lost; so many of the run's older ones are given up that it can start again. What the user
        excluded stays."""
        if orphan.exclude <= set(job.excluded):
            return sorted(job.excluded)
        lost = dict.fromkeys(orphan.exclude, self.clock.now())
        return sorted(self._chosen(job, lost, self.site.nodes()).nodes)

    def _chosen(
        self, job: JobView, lost: Mapping[str, float], nodes: Sequence[NodeView], size: int = 0
    ) -> ExclusionList:
        """`lost`: nodes to exclude as well, and since when; `size`: nodes it needs, 0: as many as it asks for."""
        said = self._blamed.get(job.job_id, {})
        blamed = {node: said[node] for node in job.excluded if node in said} | dict(lost)
        wanted = sorted((Exclusion(node, since) for node, since in blamed.items()), key=lambda item: item.since)
        own = [node for node in job.excluded if node not in blamed]
        needed, partition = size or nodes_asked(job), job.extra.get("Partition", "")
        return choose(wanted, own, nodes, partition, needed, in_reservation=job.in_reservation)

    def _ask_for_pass(self, job: JobView, now: float) -> None:
        """It missed the scheduler's last pass and would wait for the backfill (30 s): any update asks for a pass."""
        if self.act and now - self._pushed.get(job.job_id, 0.0) >= _LOOK_AGAIN_S:
            kept = {key: at for key, at in self._pushed.items() if now - at < _LOOK_AGAIN_S}
            self._pushed = {**kept, job.job_id: now}
            self.site.update_pending(job.job_id, exclude=job.excluded, begin=None)

    # Whose job it is

    def _is_run(self, job_id: str) -> bool:
        """Only jobs that sovctl supervises: what else runs here is none of our business."""
        if self._scriptless(job_id):
            return False
        if job_id not in self._scripts:
            try:
                self._scripts[job_id] = supervised(self.site.batch_script(job_id))
            except SlurmUnreachable:
                return False
            except SovctlError:
                self._no_script[job_id] = self.clock.now()
                return False
        return self._scripts[job_id] is not None

    def _is_no_run(self, job_id: str) -> bool:
        """As far as is known without asking."""
        return self._scriptless(job_id) or (job_id in self._scripts and self._scripts[job_id] is None)

    def _scriptless(self, job_id: str) -> bool:
        """Slurm had no batch script of it a moment ago."""
        at = self._no_script.get(job_id)
        return at is not None and self.clock.now() - at < _NO_SCRIPT_S

    def _has_spares(self, job_id: str) -> bool:
        said = self._scripts[job_id] if self._is_run(job_id) else None
        return said is not None and said.has_spares

    def _learn(self, job_id: str) -> bool:
        """Whether Slurm answered."""
        try:
            job = self.site.job(job_id)
            self._cluster = self._cluster or self.site.settings().get("ClusterName", "cluster").lower()
        except SovctlError:
            return False
        own = self._scripts[job_id]
        group = job.extra.get("GroupId", "").rpartition("(")[2].rstrip(")")
        if own is None or job.uid < 0 or not group.isdigit() or not job.work_dir.startswith("/"):
            return True
        raw = job.extra.get("JobId", job_id)
        run_dir = Path(job.work_dir, own.run_dir or ".sovctl/runs", f"{self._cluster}-{raw}-{own.submitted}")
        self._runs[job_id] = WatchedRun(job_id, raw, job.uid, int(group), str(run_dir))
        return True

    def _forget(self, job_id: str) -> None:
        orphan = self._orphans.pop(job_id, None)
        for node in orphan.exclude if orphan else ():
            self._places.pop((job_id, node), None)


def down_names(nodes: Sequence[NodeView]) -> set[str]:
    """Nodes that Slurm has given up."""
    return {node.name for node in nodes if node.state.down}


def without_spares(job: JobView, size: int, nodes: Sequence[NodeView], kept: Collection[str] = ()) -> JobSize | None:
    """What a job could begin with now that waits for more nodes than the `size` its script needs; None: it waits for
    those as well, or says too little of itself. `kept`: nodes that reservations keep from it."""
    asked, tasks, cpus = tres_nodes(job), _number(job.extra.get("NumTasks", "")), _number(job.extra.get("NumCPUs", ""))
    partition = job.extra.get("Partition", "")
    free = free_nodes(nodes, partition, [*job.excluded, *kept], in_reservation=job.in_reservation)
    if not size <= free < asked or tasks % asked or cpus % asked:
        return None
    return JobSize(free, tasks // asked * free, cpus // asked * free)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _lists(value: Any) -> list[tuple[str, list[str]]]:
    """Names by key, of JSON that may be anything."""
    if not isinstance(value, Mapping):
        return []
    return [
        (key, [item for item in items if isinstance(item, str)])
        for key, items in value.items()
        if isinstance(key, str) and isinstance(items, list)
    ]
