"""Nodes that runs suspect are checked on the node, drained or cleared, and the run is told.

A run's word only triggers a look: the drain rests on what the node itself says, under the rules and the budgets of a
sweep.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sovctl.errors import SovctlError
from sovctl.health.death import in_service
from sovctl.health.named import Named, named_suspects
from sovctl.health.sweep import Assessed
from sovctl.model.node import NodeView
from sovctl.model.pauses import due
from sovctl.model.reason import is_ours
from sovctl.model.site_answer import SiteAnswer, SiteWord
from sovctl.model.verdict import VerdictState
from sovctl.operations.sweep import Deed, SweepPorts, SweepSettings, act_on, ask_nodes
from sovctl.operations.watch.runs import RunTakeOver
from sovctl.operations.watch.voice import Voice
from sovctl.ports.common import Beside, Clock, Pending
from sovctl.ports.site import RunWords, SiteAnswers
from sovctl.recovery.attempts import seconds

_EVERY_S = 5.0
_ASK_AGAIN_S = 600.0
"""A node is checked for the same run so often at most, whatever the run writes."""
_TRY_AGAIN_S = 10.0
_AT_ONCE = 16
_SILENT_WORD_S = 60.0
_STATES = {
    VerdictState.FAILED: SiteWord.FAILED,
    VerdictState.HEALTHY: SiteWord.CLEARED,
    VerdictState.DEGRADED: SiteWord.CLEARED,
}


@dataclass(frozen=True, slots=True)
class SuspectPorts:
    """What the runs say, how the nodes are asked, where the answer goes."""

    words: RunWords
    answers: SiteAnswers
    sweep: SweepPorts
    beside: Beside
    clock: Clock


@dataclass(frozen=True, slots=True)
class _Case:
    job_id: str
    raw_job_id: str
    named: Named


@dataclass(slots=True)
class SuspectChecks:
    """`look` is one pass."""

    ports: SuspectPorts
    settings: SweepSettings
    voice: Voice
    runs: RunTakeOver
    _cases: dict[tuple[str, str], _Case] = field(default_factory=dict)
    """By raw job id and node, those that wait for their check."""
    _checked: dict[tuple[str, str], float] = field(default_factory=dict)
    _silent: dict[str, float] = field(default_factory=dict)
    _pending: tuple[tuple[_Case, ...], Pending[Mapping[str, Assessed]]] | None = None
    _read_at: float = -1e9
    _refused_at: float = -1e9
    """Slurm refused a drain; checked and tried again a little later."""

    @property
    def silent(self) -> frozenset[str]:
        """Nodes that the supervisor of a run of theirs found silent within the last minute."""
        now = self.ports.clock.now()
        self._silent = {node: at for node, at in self._silent.items() if now - at < _SILENT_WORD_S}
        return frozenset(self._silent)

    def look(self, nodes: Mapping[str, NodeView]) -> None:
        """Read what is new, start a check, or act on one that is over. Raises SovctlError when Slurm does not
        answer."""
        if self._pending is not None:
            # Nothing is read meanwhile, for the same reason as while witnesses are asked.
            if self._pending[1].done:
                self._finish(nodes)
            return
        now = self.ports.clock.now()
        if due(now, self._read_at, _EVERY_S):
            self._read_at = now
            self._read(now)
        if self._cases and due(now, self._refused_at, _TRY_AGAIN_S):
            self._start(nodes)

    def settle(self, begun: Sequence[Mapping[str, Any]]) -> None:
        """After a restart: what was answered and not written down."""
        for event in begun:
            node, job_id, at = str(event.get("node", "")), str(event.get("job_id", "")), seconds(event, "at") or 0.0
            raw = str(event.get("raw_job_id", job_id))
            answers = self.ports.answers.load(raw) if event.get("kind") == "suspected" else ()
            said = next((item for item in answers if item.node == node and item.checked_at >= at), None)
            if said is not None:
                self.voice.begun("suspected", node=node, job_id=job_id)
                self.voice.write("suspect-checked", node=node, job_id=job_id, state=str(said.state), words=said.words)
                if said.state is SiteWord.FAILED:
                    self.runs.last.lose(job_id, node)

    def _read(self, now: float) -> None:
        runs = {run.job_id: run for run in self.runs.runs}
        said = self.ports.words.read(tuple(runs.values()))
        for job_id, events in said.items():
            try:
                self._hear(job_id, runs[job_id].raw_job_id, events, now)
            except Exception as error:  # of all that a user may have written none ends the watch for all
                self.voice.tell(f"record:{job_id}", f"the record of run {job_id} is passed over: {error!r}")

    def _hear(self, job_id: str, raw: str, events: Sequence[Any], now: float) -> None:
        self.runs.hear(job_id, events)
        answered = {item.node: item for item in self.ports.answers.load(raw)}
        for named in named_suspects(events, self.runs.nodes_of(job_id), now):
            if named.silent and now - named.at < _SILENT_WORD_S:
                self._silent[named.node] = now
            recent = now - self._checked.get((raw, named.node), -1e9) < _ASK_AGAIN_S
            if not recent and not _answers(answered.get(named.node), named):
                self._cases[(raw, named.node)] = _Case(job_id, raw, named)

    def _start(self, nodes: Mapping[str, NodeView]) -> None:
        now = self.ports.clock.now()
        chosen = tuple(self._cases.values())[:_AT_ONCE]
        for case in chosen:
            del self._cases[(case.raw_job_id, case.named.node)]
            self._checked[(case.raw_job_id, case.named.node)] = now
            node, job_id = case.named.node, case.job_id
            if self.voice.begun("suspected", node=node, job_id=job_id) is None:
                self.voice.write("suspected", node=node, job_id=job_id, raw_job_id=case.raw_job_id, why=case.named.why)
        self._checked = {key: at for key, at in self._checked.items() if now - at < _ASK_AGAIN_S}
        names = {case.named.node for case in chosen}
        views = [nodes[name] for name in sorted(names) if name in nodes and in_service(nodes[name])]
        sweep, settings = self.ports.sweep, self.settings
        work = self.ports.beside(
            lambda: ask_nodes(views, sweep.shell, settings.check_command, settings.ask_timeout_s) if views else {}
        )
        self._pending = (chosen, work)
        if work.done:
            self._finish(nodes)

    def _finish(self, nodes: Mapping[str, NodeView]) -> None:
        assert self._pending is not None
        cases, work = self._pending
        try:
            assessed = work.result()
        except SovctlError as error:
            self._pending = None
            self.voice.tell("suspects", f"suspected nodes cannot be checked: {error.message}")
            return
        self.voice.forget("suspects")
        confirmed = {name: item for name, item in assessed.items() if item.verdict is not None}
        # Slurm not answering here leaves the check pending: it is acted on when Slurm is back.
        deeds, alarms = act_on(self.ports.sweep, self.settings, confirmed) if confirmed else ({}, ())
        self._pending = None
        self.voice.alarms("drains", alarms)
        refused = {name for name, deed in deeds.items() if deed.command and not deed.did}
        if refused:
            self._refused_at = self.ports.clock.now()
            self._cases |= {(item.raw_job_id, item.named.node): item for item in cases if item.named.node in refused}
            self.voice.say("; ".join(f"{name}: {deeds[name].why}" for name in sorted(refused)))
            cases = tuple(item for item in cases if item.named.node not in refused)
        # The answer first: who was told is not asked about again.
        for raw in dict.fromkeys(case.raw_job_id for case in cases):
            self._answer(raw, [case for case in cases if case.raw_job_id == raw], assessed, nodes, deeds)
        for case in cases:
            self._tell(case, assessed.get(case.named.node), nodes.get(case.named.node), deeds.get(case.named.node))

    def _tell(self, case: _Case, found: Assessed | None, view: NodeView | None, deed: Deed | None) -> None:
        node = case.named.node
        state, words, _ = _judged(found, view, deed)
        if state is SiteWord.FAILED:
            self.runs.last.lose(case.job_id, node)
        self.voice.write("suspect-checked", node=node, job_id=case.job_id, state=str(state), words=words)
        self.voice.say(f"{node}, suspected by job {case.job_id}: {state}: {words}")
        if deed is None or not (deed.did or deed.why):
            return
        if deed.done:
            self.voice.say(f"{node}: {deed.did}")
            return
        command = f": {shlex.join(deed.command)}" if deed.command else ""
        self.voice.note(f"{node}: {deed.did or deed.why}{command}")

    def _answer(
        self,
        raw_job_id: str,
        cases: Sequence[_Case],
        assessed: Mapping[str, Assessed],
        nodes: Mapping[str, NodeView],
        deeds: Mapping[str, Deed],
    ) -> None:
        now = self.ports.clock.now()
        kept = {item.node: item for item in self.ports.answers.load(raw_job_id)}
        for case in cases:
            node = case.named.node
            state, words, drained = _judged(assessed.get(node), nodes.get(node), deeds.get(node))
            kept[node] = SiteAnswer(node, state, round(now, 3), case.named.seq, words, drained)
        try:
            self.ports.answers.save(raw_job_id, tuple(kept.values()))
        except SovctlError as error:
            self.voice.tell("answers", error.message)


def _answers(said: SiteAnswer | None, named: Named) -> bool:
    """Also by its time: the answer may be to another run that had the number of this job before."""
    return said is not None and named.seq <= said.seq and named.at <= said.checked_at


def _judged(found: Assessed | None, view: NodeView | None, deed: Deed | None) -> tuple[SiteWord, str, bool]:
    """What the run is told of a node: state, words, and whether it is out of service."""
    drained = (deed is not None and deed.done) or (view is not None and (view.state.draining or view.state.down))
    if found is None or found.verdict is None:
        if view is not None and not in_service(view):
            ours = is_ours(view.reason)
            return (SiteWord.FAILED if ours else SiteWord.UNKNOWN), view.reason or f"it is {view.state}", True
        worst = found.worst if found is not None else None
        return SiteWord.UNKNOWN, worst.evidence if worst else "the node was not heard", drained
    worst = found.worst
    state = _STATES.get(found.state, SiteWord.UNKNOWN)
    return state, f"{worst.code} {worst.evidence}" if worst else f"the check found it {found.state}", drained
