"""A run that lost its nodes gets others before whoever else is queued.

A run on its way through the queue cannot start before its nodes are free and its begin time is there, a second or two,
and leaves its place under the limit of the pool meanwhile. It is put first among the waiting, and where another job
took its place all the same, the limit is raised by as much until the run has started: a spare more is spent on it.

Only for a run that lost a node, and only up to the nodes it held when it did: anybody can requeue his job by himself,
and have it ask for more while it waits.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sovctl.errors import JobNotFound, SlurmUnreachable, SovctlError
from sovctl.model.job import FIRST_PRIORITY, JobView
from sovctl.model.pauses import due
from sovctl.operations.supervisor.allocation import nodes_asked
from sovctl.operations.watch.last_nodes import LastNodes
from sovctl.operations.watch.site import Site
from sovctl.operations.watch.voice import Voice
from sovctl.ports.common import Clock
from sovctl.ports.slurm import PoolSite
from sovctl.recovery.pool_place import BLOCKED, Room, room_for

_TRY_AGAIN_S = 2.0
_ASK_AGAIN_S = 10.0
"""A run that asks for too much is looked at again so often: its owner may have it ask for less."""
_TELL_AFTER_S = 30.0
"""The check of a suspected node is over by then."""


@dataclass(slots=True)
class _Waiting:
    """A run that waits."""

    pooled: bool
    """Its partition keeps spares."""
    since: float
    first: bool = False
    """It goes before others."""
    not_before: float = 0.0


@dataclass(slots=True)
class RunPlaces:
    """`look` is one pass."""

    site: Site
    pool: PoolSite | None
    spares: Callable[[], Mapping[str, int]]
    """By partition: how many spares were set (`spare set`); a limit that sovctl did not set is left alone."""
    last: LastNodes
    clock: Clock
    voice: Voice
    act: bool
    _looked: dict[str, _Waiting] = field(default_factory=dict)
    _rooms: dict[str, Room] = field(default_factory=dict)
    """Limits that were raised, by the run they were raised for."""
    _passes: set[str] = field(default_factory=set)
    """Runs for which a pass of the scheduler was asked for since their limit was raised."""
    _looked_at: float = -1e9
    _again_s: float = 0.0

    @property
    def busy(self) -> bool:
        """A limit is raised, or may have to be: why a run waits is no change that slurmctld saves."""
        return bool(self._rooms) or any(item.pooled for item in self._looked.values())

    def look(self, waiting: Sequence[JobView]) -> None:
        """`waiting`: runs that lost their nodes and wait for others, by the queue. Raises SlurmUnreachable."""
        self._note(waiting)
        for job_id, item in self._looked.items():
            self._look_at(job_id, item)
        now = self.clock.now()
        if not due(now, self._looked_at, self._again_s):
            return
        blocked = [job for job in waiting if job.reason == BLOCKED and self._looked[job.job_id].first]
        if not blocked and not self._rooms:
            return
        self._looked_at, self._again_s = now, _TRY_AGAIN_S if blocked else 0.0
        try:
            self._restore_what_is_over()
            if blocked and set(self._rooms) <= {blocked[0].job_id}:
                self._make_room(blocked[0].job_id)
        except SlurmUnreachable:
            raise
        except SovctlError as error:
            self._again_s = _TRY_AGAIN_S
            self.voice.tell("places", error.message)
        else:
            self.voice.forget("places")

    def resume(self, event: Mapping[str, Any]) -> None:
        """Go on with a limit that was about to be raised, after the watch was killed."""
        qos, before, after = event.get("qos"), event.get("before"), event.get("after")
        if isinstance(qos, str) and isinstance(before, int) and isinstance(after, int):
            self._rooms[str(event.get("job_id", ""))] = Room(qos, before, after)

    # First among the waiting

    def _note(self, waiting: Sequence[JobView]) -> None:
        listed = [job.job_id for job in waiting]
        for job_id in self._looked.keys() - set(listed):
            self.voice.forget(f"turn:{job_id}:")
        self._looked = {job_id: self._looked[job_id] for job_id in listed if job_id in self._looked}
        for job_id in listed:
            if job_id not in self._looked:
                job = self._job(job_id)
                pooled = job is not None and job.pending and bool(self._spares_of(job))
                self._looked[job_id] = _Waiting(pooled, self.clock.now())

    def _look_at(self, job_id: str, item: _Waiting) -> None:
        """Put it first as soon as it is known that it lost a node."""
        if not item.pooled or item.first or (now := self.clock.now()) < item.not_before:
            return
        why = self.last.why_none(job_id)
        if not why:
            job = self._job(job_id)
            if job is None or not job.pending:
                return
            why = self.last.why_not_before_others(job)
            if not why:
                self._put_first(job)
                item.first = True
                return
            item.not_before = now + _ASK_AGAIN_S
        if now - item.since >= _TELL_AFTER_S:
            self.voice.tell(f"turn:{job_id}:{why}", f"run {job_id} waits for its turn: {why}")

    def _put_first(self, job: JobView) -> None:
        if not self.act:
            self.voice.tell(f"observe:first:{job.job_id}", f"would put run {job.job_id} first among the waiting jobs")
            return
        begun = self.voice.begun("first-intended", job_id=job.job_id)
        if job.priority >= FIRST_PRIORITY:
            # By a watch that was killed before it wrote that down.
            if begun is not None:
                self.voice.write("first-done", job_id=job.job_id)
            return
        if begun is None:
            self.voice.write("first-intended", job_id=job.job_id)
        try:
            self.site.put_first(job.job_id)
        except SlurmUnreachable:
            raise
        except SovctlError as error:
            self.voice.write("first-failed", job_id=job.job_id, error=error.message)
            return
        self.voice.write("first-done", job_id=job.job_id)
        self.voice.say(f"run {job.job_id} is first among the waiting jobs")

    # Room under the limit

    def _make_room(self, job_id: str) -> None:
        job = self.site.job(job_id)
        partition = job.extra.get("Partition", "")
        size = nodes_asked(job)
        if self.pool is None or not job.pending or not self._spares_of(job):
            return
        if self.last.why_not_before_others(job):
            # Its owner had it ask for more meanwhile: looked at again like any other.
            self._looked[job_id].first = False
            return
        state, views = self.pool.pool(), self.pool.nodes()
        own = set(state.partitions[partition].nodes) if partition in state.partitions else set()
        in_service = sum(view.name in own - set(job.excluded) and view.state.schedulable for view in views)
        room = room_for(state, partition, self.pool.pool_jobs(), job_id, size, in_service)
        if isinstance(room, Room) and job_id in self._rooms:
            # slurmdbd did not answer, or one more job came first.
            room = replace(room, before=self._rooms[job_id].before)
        if isinstance(room, str):
            if job_id not in self._rooms:
                self.voice.tell(f"room:{job_id}", f"run {job_id} waits for a place in {partition}: {room}")
            else:
                self._ask_for_pass(job_id)
            return
        words = f"other jobs took the place of run {job_id} in {partition}: {shlex.join(room.raise_command)}"
        if not self.act:
            self.voice.tell(f"observe:room:{job_id}", f"would make room until it has started, {words}")
            return
        begun = self.voice.begun("room-intended", job_id=job_id) or {}
        if (begun.get("qos"), begun.get("before"), begun.get("after")) != (room.qos, room.before, room.after):
            self.voice.write("room-intended", job_id=job_id, qos=room.qos, before=room.before, after=room.after)
        self._rooms[job_id] = room
        self._passes.discard(job_id)
        self.pool.apply(room.raise_command)
        self.voice.write("room-made", job_id=job_id, qos=room.qos, nodes=room.after)
        self.voice.say(words)
        self._ask_for_pass(job_id)

    def _ask_for_pass(self, job_id: str) -> None:
        """Once for each limit that was raised, also by a watch that was killed then: a pass of the scheduler comes of
        any change of a job."""
        if job_id not in self._passes:
            self._passes.add(job_id)
            self.site.put_first(job_id)

    def _restore_what_is_over(self) -> None:
        for job_id, room in list(self._rooms.items()):
            job = self._job(job_id)
            waits = job is not None and job.pending
            if self.pool is None or (job is not None and waits and not self.last.why_not_before_others(job)):
                continue
            found = self.pool.pool().qos.get(room.qos)
            if found is not None and found.node_limit == room.after:
                # Only while it is as it was made here: what somebody else set since is his.
                self.pool.apply(room.restore_command)
            self.voice.write("room-restored", job_id=job_id, qos=room.qos, nodes=room.before)
            what = "waits for its turn after all" if waits else "has its place again"
            self.voice.say(f"run {job_id} {what}: {shlex.join(room.restore_command)}")
            del self._rooms[job_id]
            self._passes.discard(job_id)

    def _spares_of(self, job: JobView) -> int:
        return self.spares().get(job.extra.get("Partition", ""), 0)

    def _job(self, job_id: str) -> JobView | None:
        try:
            return self.site.job(job_id)
        except JobNotFound:
            return None
