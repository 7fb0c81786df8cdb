"""`sovctl watch`: what only the site can do. Declares dead nodes down before Slurm's 300 s are over, takes over the
runs that were on them, has suspected nodes checked, and frees jobs that one node keeps from ending.

What it knows beyond Slurm is in its memory file and its journal: killed between any two effects and started again it
does nothing twice and forgets nothing. Stopping it stops nobody's training.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sovctl.errors import SovctlError
from sovctl.model.pauses import due
from sovctl.operations.sweep import SweepPorts, SweepSettings, act_on, find_stuck
from sovctl.operations.watch.deaths import DeathPorts, DeathSettings, DeathWatch
from sovctl.operations.watch.places import RunPlaces
from sovctl.operations.watch.preempted import PreemptedJobs
from sovctl.operations.watch.reads import SlurmReads
from sovctl.operations.watch.records import RecordPlaces
from sovctl.operations.watch.restart import Settlement, open_intents
from sovctl.operations.watch.runs import AskToFree, RunTakeOver, down_names, free_nobody
from sovctl.operations.watch.suspects import SuspectChecks, SuspectPorts
from sovctl.operations.watch.voice import Voice
from sovctl.ports.common import ChangeMark, Clock, Journal
from sovctl.ports.site import WatchMemory
from sovctl.ports.slurm import PoolSite

SCHEMA = "sovctl.watch/1"
_STUCK_EVERY_S = 30.0
_SPARES_EVERY_S = 60.0
_STUCK_AGAIN_S = 600.0
"""What could not be freed is tried again, and said again, only so often."""
_PRUNE_EVERY_S = 3600.0
_ANSWERS_KEPT_S = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """From the configuration."""

    deaths: DeathSettings
    sweep: SweepSettings
    interval_s: float = 1.0
    preemptible_qos: str = ""
    """Whose jobs give up their nodes for runs."""


@dataclass(frozen=True, slots=True)
class WatchPorts:
    """The outside of the watch."""

    deaths: DeathPorts
    suspects: SuspectPorts
    changes: ChangeMark
    memory: WatchMemory
    journal: Journal
    clock: Clock
    ask_to_free: AskToFree = free_nobody
    """Have the watchers of these nodes end what is left of a job there, by Slurm's raw id."""
    ask_to_end: Callable[[str, Sequence[str]], None] = lambda _job_id, _nodes: None
    """Have them end what runs there of a preempted job."""
    pool: PoolSite | None = None
    spares: Callable[[], Mapping[str, int]] = dict
    """By partition: how many spares were set."""
    shortage: Callable[[], Sequence[str]] = tuple
    """What is new about how many of them are left, written down and in words."""

    @property
    def sweep(self) -> SweepPorts:
        return self.suspects.sweep


@dataclass(slots=True)
class ClusterWatch:
    """The watch; `turn` is one pass."""

    ports: WatchPorts
    settings: WatchSettings
    say: Callable[[str], None]
    _voice: Voice = field(init=False)
    _reads: SlurmReads = field(init=False)
    _runs: RunTakeOver = field(init=False)
    _deaths: DeathWatch = field(init=False)
    _suspects: SuspectChecks = field(init=False)
    _preempted: PreemptedJobs = field(init=False)
    _places: RunPlaces = field(init=False)
    _records: RecordPlaces = field(init=False)
    _ready: bool = False
    _remembered: dict[str, Any] = field(default_factory=dict)
    _stuck_at: float = -1e9
    _stuck: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _stuck_acted_at: float = -1e9
    _pruned_at: float = -1e9
    _spares_at: float = -1e9

    def __post_init__(self) -> None:
        site, clock, act = self.ports.deaths.site, self.ports.clock, self.settings.deaths.act
        self._voice = Voice(self.ports.journal, self.say, clock)
        self._reads = SlurmReads(site, self.ports.changes, clock)
        self._runs = RunTakeOver(site, clock, self._voice, act, self.ports.ask_to_free)
        self._deaths = DeathWatch(
            self.ports.deaths, self.settings.deaths, self._voice, self._runs.spare, self._after_down
        )
        self._suspects = SuspectChecks(self.ports.suspects, self.settings.sweep, self._voice, self._runs)
        self._preempted = PreemptedJobs(
            site, clock, self._voice, act, self.settings.preemptible_qos, self.ports.ask_to_end, self._grace_s
        )
        self._places = RunPlaces(site, self.ports.pool, self.ports.spares, self._runs.last, clock, self._voice, act)
        self._records = RecordPlaces(clock, self._voice)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Pass after pass until `stopped()`; slurmctld not answering is waited out."""
        while not stopped():
            began = self.ports.clock.now()
            try:
                self.turn()
                self._voice.forget("slurm")
            except SovctlError as error:
                self._voice.tell("slurm", error.message)
            self.ports.clock.sleep(max(0.05, self.settings.interval_s - (self.ports.clock.now() - began)))

    def turn(self) -> None:
        """Look once and do what there is to do. Raises SovctlError when Slurm does not answer."""
        if not self._ready:
            self._go_on_where_it_was()
        parts = (self._deaths, self._runs, self._preempted, self._places)
        busy = any(part.busy for part in parts)
        fresh = self._reads.refresh(busy=busy, calm=not self._deaths.leans_on_slurm)
        if fresh:
            self._runs.remember(self._reads.jobs)
            self._runs.adopt_from(down_names(self._reads.nodes))
            self._remember()
        self._runs.learn_runs(self._reads.jobs)
        self._records.note(self._runs.runs)
        self._deaths.look(self._reads.nodes, self._suspects.silent)
        self._runs.bring_back()
        self._runs.let_go()
        self._runs.free_stuck()
        self._runs.free_lingering()
        waiting = self._runs.waiting(self._reads.jobs)
        self._preempted.look([job.job_id for job in waiting])
        self._runs.last.look([job.job_id for job in waiting], self._reads.by_name)
        self._places.look(waiting)
        if not self._deaths.asking:
            # Reading what runs say forks, which a process with threads at work should not.
            self._suspects.look(self._reads.by_name)
        self._free_stuck()
        self._count_spares()
        self._prune()

    def _count_spares(self) -> None:
        now = self.ports.clock.now()
        if not due(now, self._spares_at, _SPARES_EVERY_S):
            return
        self._spares_at = now
        try:
            for words in self.ports.shortage():
                self.say(words)
            self._voice.forget("spares")
        except SovctlError as error:
            self._voice.tell("spares", f"spares were not counted: {error.message}")

    def _grace_s(self, qos: str) -> int | None:
        try:
            found = self.ports.pool.pool().qos.get(qos) if self.ports.pool is not None else None
        except SovctlError:
            return None
        return found.grace_s if found is not None else None

    def _after_down(self, node: str) -> None:
        self._reads.outdated()
        self._runs.adopt(node)

    # Jobs that one node keeps from ending

    def _free_stuck(self) -> None:
        now = self.ports.clock.now()
        every_s = min(_STUCK_EVERY_S, self.settings.sweep.policy.completing_s)
        if not due(now, self._stuck_at, every_s) or not any(job.completing for job in self._reads.jobs):
            return
        self._stuck_at = now
        # Whether nodes may be drained (health.act) is another question than whether a job is freed.
        settings = replace(self.settings.sweep, act=self.settings.deaths.act)
        stuck, notes = find_stuck(self.ports.sweep, settings, self._reads.jobs)
        said = {f"stuck:{words.split(' completes')[0]}": words for words in notes}
        self._voice.forget("stuck:", {*said, *(f"stuck:{name}" for name in stuck)})
        for key, words in said.items():
            self._voice.tell(key, words)
        if not stuck or (stuck == self._stuck and not due(now, self._stuck_acted_at, _STUCK_AGAIN_S)):
            return
        self._stuck, self._stuck_acted_at = stuck, now
        deeds, alarms = act_on(self.ports.sweep, settings, {}, stuck)
        for name, deed in deeds.items():
            if deed.done:
                self.say(f"{name}: {deed.did}: {shlex.join(deed.command)}")
                self._after_down(name)
            elif deed.did or deed.why:
                self._voice.tell(f"stuck:{name}", f"{name}: {deed.did or deed.why}: {shlex.join(deed.command)}")
        self._voice.alarms("stuck", alarms)

    # Killed and started again

    def _go_on_where_it_was(self) -> None:
        """Read the memory, and write the end of what was begun: intents without an outcome."""
        record = self.ports.memory.load()
        if isinstance(record, Mapping) and record.get("schema") == SCHEMA:
            self._runs.restore(record)
            self._preempted.restore(record)
            self._remembered = dict(record)
        events = self.ports.journal.events()
        self._voice.remember(events)
        self._runs.launches.restore(events)
        self._runs.last.restore_found(events)
        self._records.restore(events)
        begun = open_intents(events)
        settle = Settlement(self.ports.deaths.site, self._voice, self._runs, self._preempted, self._places)
        never = settle.all(begun, self.ports.clock.now())
        self._suspects.settle(begun)
        self._deaths.restore(events, never)
        self._ready = True

    def _remember(self) -> None:
        record = {"schema": SCHEMA, **self._runs.record(), **self._preempted.record()}
        if record != self._remembered:
            try:
                self.ports.memory.save(record)
            except SovctlError as error:
                self._voice.tell("memory", error.message)
                return
            self._remembered = record

    def _prune(self) -> None:
        now = self.ports.clock.now()
        if due(now, self._pruned_at, _PRUNE_EVERY_S) and self.settings.deaths.act:
            self._pruned_at = now
            self.ports.suspects.answers.prune(now - _ANSWERS_KEPT_S)
