"""`sovctl sweep`: one idempotent pass over the cluster, for cron or a timer. It needs nothing of an earlier pass."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sovctl.errors import NodeNotFound, SovctlError
from sovctl.health.drain import Drain, Nothing
from sovctl.health.ledger import Ledger, ledger_from_record, node_scores
from sovctl.health.lemons import Lemons, Move, Reweigh, lemons_from_record, lemons_record, located, reweigh
from sovctl.health.node_reply import NodeReply, read_checked, read_stored
from sovctl.health.peers import compare
from sovctl.health.sweep import (
    Assessed,
    Decision,
    Free,
    Left,
    Plan,
    Retest,
    SweepPolicy,
    judge_peers,
    needs_confirmation,
    plan_pass,
    reason_not_to_ask,
    stuck_jobs,
)
from sovctl.model.job import JobView
from sovctl.model.node import NodeView
from sovctl.model.reason import DrainReason, parse_reason
from sovctl.model.verdict import Finding, Severity, VerdictState
from sovctl.model.verdict_json import finding_record
from sovctl.operations.watch.late_alarms import LateAlarms
from sovctl.ports.common import Clock, Journal, Turn
from sovctl.ports.node import EvidenceFiles, Ledgers
from sovctl.ports.site import RemoteAnswer, RemoteShell
from sovctl.recovery.attempts import seconds

_STILL_MEANT_S = 600.0
"""An intent without an outcome that is older was of another time."""
_DAY_S = 86400.0
_HOUR_S = 3600.0
_EVIDENCE_KEPT_S = 30 * _DAY_S


class SweptSite(Protocol):
    """What a sweep needs of Slurm; the last four as root or SlurmUser."""

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]: ...
    def jobs(self) -> tuple[JobView, ...]: ...
    def job(self, job_id: str) -> JobView: ...
    def drain(self, node: str, reason: str) -> None: ...
    def set_down(self, node: str, reason: str) -> None: ...
    def set_weight(self, node: str, weight: int) -> None: ...
    def resume(self, node: str) -> None: ...


@dataclass(frozen=True, slots=True)
class SweepPorts:
    """The outside of a sweep."""

    site: SweptSite
    shell: RemoteShell
    journal: Journal
    turn: Turn
    clock: Clock
    ledgers: Ledgers | None = None
    """None: the nodes share no directory, so nobody's past is known here."""
    evidence: EvidenceFiles | None = None


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """What to ask, and how far to go."""

    act: bool
    """False: say what would be done; nothing is changed and nothing recorded."""
    policy: SweepPolicy
    stored_command: str
    check_command: str
    retest_command: str = ""
    ask_timeout_s: float = 20.0
    retest_timeout_s: float = 900.0
    clock_offset_s: float = 2.0
    only: tuple[str, ...] = ()
    """Look at these nodes only; empty: at all."""
    lemons_last: bool = True
    """Give nodes with a bad record a weight above all others."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What came of one decision."""

    did: str = ""
    """What was done or would be done, in words; empty: nothing."""
    command: tuple[str, ...] = ()
    """The literal command behind it."""
    done: bool = False
    why: str = ""
    """Why the node is left as it is, where that is worth a word."""


@dataclass(frozen=True, slots=True)
class SweptNode:
    """What the pass found on one node, and what came of it."""

    view: NodeView
    assessed: Assessed
    deed: Deed = field(default_factory=Deed)
    not_asked: str = ""

    @property
    def quiet(self) -> bool:
        """Nothing about this node needs a person's eye."""
        return self.assessed.state is VerdictState.HEALTHY and self.deed == Deed()


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """One pass."""

    nodes: tuple[SweptNode, ...]
    alarms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    took_s: float = 0.0
    placed: tuple[tuple[str, Deed], ...] = ()
    """Nodes that are taken last from now on, or no more."""

    @property
    def failed(self) -> bool:
        return any(node.assessed.state is VerdictState.FAILED for node in self.nodes)


def stored_command(boot_id_file: str, run_dir: str) -> str:
    """Two programs and no more, because a node runs this once a minute: its time, its boot, what it knows."""
    files = (boot_id_file, f"{run_dir}/verdict.json", f"{run_dir}/facts.json")
    return f"date +%s.%N; exec cat {shlex.join(files)} 2>/dev/null"


def check_command(command: str, run_dir: str) -> str:
    """A check made now, and the facts it left."""
    return f"{command}; cat {shlex.quote(run_dir + '/facts.json')} 2>/dev/null"


def sweep(ports: SweepPorts, settings: SweepSettings) -> SweepOutcome:
    """Look once at every node and do what there is to do. Raises SovctlError when Slurm does not answer."""
    began = ports.clock.now()
    everything = ports.site.nodes()
    chosen = _chosen(everything, settings.only)
    not_asked = {node.name: why for node in chosen if (why := reason_not_to_ask(node))}
    assessed = _ask([node for node in chosen if node.name not in not_asked], ports, settings)
    assessed |= {name: Assessed() for name in not_asked}
    stuck, notes = find_stuck(ports, settings, ports.site.jobs())
    stuck = {node: jobs for node, jobs in stuck.items() if node in assessed}
    acts = _Acts(ports, settings)
    plan, deeds = acts.decide_and_act(assessed, stuck)
    deeds |= acts.retest(plan)
    views = {node.name: node for node in chosen}
    rows = [
        SweptNode(views[name], assessed[name], deeds.get(name, Deed()), not_asked.get(name, "")) for name in assessed
    ]
    alarms = acts.raise_alarms(plan)
    placed = acts.place(everything) if not settings.only else ()
    if settings.act and ports.evidence is not None:
        ports.evidence.prune(began - _EVIDENCE_KEPT_S)
    took_s = ports.clock.now() - began
    rows.sort(key=lambda row: row.view.name)
    return SweepOutcome(tuple(rows), alarms, (*notes, *acts.notes), took_s, placed)


def ask_nodes(nodes: Sequence[NodeView], shell: RemoteShell, command: str, timeout_s: float) -> dict[str, Assessed]:
    """Have nodes check themselves now."""
    answers = shell.ask({node.name: node.address for node in nodes}, command, timeout_s)
    return {
        name: _assessed(answer, read_checked(name, answer.stdout), confirmed=True) for name, answer in answers.items()
    }


def act_on(
    ports: SweepPorts,
    settings: SweepSettings,
    assessed: Mapping[str, Assessed],
    stuck: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[Mapping[str, Deed], tuple[str, ...]]:
    """Judge and act on some nodes by the rules and within the budgets of a sweep; gives nothing back. Returns what came
    of each, and alarms, which are not written down. `stuck`: jobs that complete for too long, by node."""
    acts = _Acts(ports, replace(settings, policy=replace(settings.policy, retest=False)))
    plan, deeds = acts.decide_and_act({name: Assessed() for name in stuck or ()} | dict(assessed), stuck or {})
    return deeds, plan.alarms


def _chosen(nodes: Sequence[NodeView], only: tuple[str, ...]) -> list[NodeView]:
    known = {node.name for node in nodes}
    for name in only:
        if name not in known:
            raise NodeNotFound(name)
    return [node for node in nodes if not only or node.name in only]


# Asking


def _ask(nodes: Sequence[NodeView], ports: SweepPorts, settings: SweepSettings) -> dict[str, Assessed]:
    """Stored verdicts first, they cost a node nothing; then a check where that is not enough."""
    addresses = {node.name: node.address for node in nodes}
    answers = ports.shell.ask(addresses, settings.stored_command, settings.ask_timeout_s)
    replies = {name: _stored(name, answer) for name, answer in answers.items()}
    odd = _peer_findings(replies, settings)
    unsure = {
        node.name: node.address
        for node in nodes
        if answers[node.name].failure is None
        and not replies[node.name].garbage
        and (
            needs_confirmation(node, replies[node.name].verdict, replies[node.name].fresh)
            or any(finding.severity is Severity.FAIL for finding in odd.get(node.name, ()))
        )
    }
    checked = ports.shell.ask(unsure, settings.check_command, settings.ask_timeout_s)
    for name, answer in checked.items():
        answers[name] = answer
        replies[name] = _with_clock(read_checked(name, answer.stdout), replies[name])
    odd = _peer_findings(replies, settings)
    return {
        name: _assessed(answers[name], replies[name], confirmed=name in checked, odd=odd.get(name, ()))
        for name in replies
    }


def _stored(name: str, answer: RemoteAnswer) -> NodeReply:
    if answer.failure is not None:
        return NodeReply()
    return read_stored(name, answer.stdout, answer.sent_at, answer.answered_at)


def _with_clock(reply: NodeReply, earlier: NodeReply) -> NodeReply:
    return NodeReply(reply.verdict, reply.fresh, reply.facts or earlier.facts, earlier.clock, reply.garbage)


def _peer_findings(replies: Mapping[str, NodeReply], settings: SweepSettings) -> dict[str, tuple[Finding, ...]]:
    facts = [reply.facts for reply in replies.values() if reply.facts is not None]
    clocks = {name: reply.clock for name, reply in replies.items() if reply.clock is not None}
    by_node: dict[str, list[Finding]] = {}
    for item in compare(facts, clocks, settings.clock_offset_s):
        by_node.setdefault(item.node, []).append(item.finding)
    return {name: judge_peers(findings, settings.policy) for name, findings in by_node.items()}


def _assessed(answer: RemoteAnswer, reply: NodeReply, *, confirmed: bool, odd: tuple[Finding, ...] = ()) -> Assessed:
    """A node that is not heard, or that talks garbage, is unknown with a finding that says why."""
    if answer.failure is not None:
        return Assessed(findings=(Finding(answer.failure, Severity.WARN, answer.problem), *odd))
    if reply.garbage or reply.verdict is None:
        said = reply.garbage or "it has no verdict"
        if answer.status not in (0, None) and answer.stderr:
            said += f"; it says: {' '.join(answer.stderr[:200].decode('utf-8', 'replace').split())}"
        return Assessed(findings=(Finding("SSH_GARBAGE", Severity.WARN, said), *odd))
    return Assessed(reply.verdict if reply.fresh else None, confirmed, odd)


# Jobs that hang


def find_stuck(
    ports: SweepPorts, settings: SweepSettings, jobs: Sequence[JobView]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Of the active `jobs` those that complete for too long, see `stuck_jobs`."""
    hanging = [job for job in jobs if job.completing]
    ended: dict[str, float] = {}
    for job in hanging:
        try:
            ends_at = ports.site.job(job.job_id).ends_at
        except SovctlError:
            continue
        if ends_at is not None:
            ended[job.job_id] = ends_at
    return stuck_jobs(hanging, ended, settings.policy, ports.clock.now())


# Acting


@dataclass(slots=True)
class _Acts:
    """Carries decisions out, each with its intent in the journal before and its outcome after."""

    ports: SweepPorts
    settings: SweepSettings
    notes: list[str] = field(default_factory=list)
    _read: Sequence[Mapping[str, Any]] | None = None
    """The journal as it was before this pass."""
    _gone_on: set[str] = field(default_factory=set)
    """Incidents whose intent is in the journal already."""

    def decide_and_act(
        self, assessed: Mapping[str, Assessed], stuck: Mapping[str, tuple[str, ...]]
    ) -> tuple[Plan, dict[str, Deed]]:
        """Under the turn, with Slurm read again: while the nodes were asked, others may have drained some."""
        with self.ports.turn.take():
            nodes = self.ports.site.nodes()
            now = self.ports.clock.now()
            known = self._retests(now)
            policy = self.settings.policy if known is not None else replace(self.settings.policy, retest=False)
            resumed, failed_at = known or (Counter[str](), {})
            plan = plan_pass(nodes, assessed, stuck, resumed, policy, now, failed_at)
            deeds = {name: self._carry_out(decision, assessed[name]) for name, decision in plan.decisions.items()}
        return plan, deeds

    def retest(self, plan: Plan) -> dict[str, Deed]:
        """Give back those of ours that pass under load. Outside the turn: it takes minutes."""
        wanted = {name: item for name, item in plan.decisions.items() if isinstance(item, Retest)}
        if not self.settings.act:
            return {name: Deed("would re-test and resume", resume_command(name)) for name in wanted}
        addresses = {node.name: node.address for node in self.ports.site.nodes() if node.name in wanted}
        answers = self.ports.shell.ask(addresses, self.settings.retest_command, self.settings.retest_timeout_s)
        return {name: self._resume_if_passed(wanted[name], answer) for name, answer in answers.items()}

    def raise_alarms(self, plan: Plan) -> tuple[str, ...]:
        """A pass a minute with a spent budget is one alarm an hour."""
        lately = LateAlarms()
        lately.take(self._events() or ())
        for words in plan.alarms if self.settings.act else ():
            if lately.new(words, self.ports.clock.now()):
                self._journal("alarm", words=words)
        return plan.alarms

    def _carry_out(self, decision: Decision, assessed: Assessed) -> Deed:
        match decision:
            case Drain():
                return self._drain(decision, assessed)
            case Free():
                return self._free(decision)
            case Left():
                return Deed(why=decision.why)
            case Nothing(settled=False):
                return Deed(why=decision.why)
        return Deed()

    def _drain(self, decision: Drain, assessed: Assessed) -> Deed:
        decision = replace(decision, reason=self._begun("drain", decision.node, decision.reason))
        verdict = assessed.verdict
        findings = [finding_record(item) for item in (*(verdict.findings if verdict else ()), *assessed.findings)]
        details = {
            "code": decision.reason.code,
            "repair": str(verdict.repair) if verdict else "",
            "detected_at": verdict.observed_at if verdict else None,
            "findings": findings,
        }
        return self._act(
            "drain",
            "drain",
            decision.node,
            decision.reason,
            decision.argv,
            lambda: self.ports.site.drain(decision.node, str(decision.reason)),
            details,
        )

    def _free(self, decision: Free) -> Deed:
        decision = replace(decision, reason=self._begun("down", decision.node, decision.reason))
        return self._act(
            "down",
            f"free {', '.join(decision.jobs)} by setting it down",
            decision.node,
            decision.reason,
            decision.argv,
            lambda: self.ports.site.set_down(decision.node, str(decision.reason)),
            {"code": decision.reason.code, "jobs": list(decision.jobs)},
        )

    def _act(
        self,
        kind: str,
        words: str,
        node: str,
        reason: DrainReason,
        argv: tuple[str, ...],
        effect: Callable[[], None],
        details: Mapping[str, object],
    ) -> Deed:
        if not self.settings.act:
            return Deed(f"would {words}", argv)
        common = {"incident": reason.incident, "node": node}
        if reason.incident not in self._gone_on:
            self._journal(f"{kind}-intended", **common, **details, reason=str(reason), command=shlex.join(argv))
        try:
            effect()
        except SovctlError as error:
            self._journal(f"{kind}-failed", **common, error=error.message)
            return Deed(command=argv, why=f"could not {words}: {error.message}")
        self._journal(f"{kind}-done", **common)
        return Deed(words, argv, done=True)

    def _begun(self, kind: str, node: str, reason: DrainReason) -> DrainReason:
        """The reason under which the same was begun a short while ago, by who was killed before it was done: one
        incident has one record."""
        own = (event for event in reversed(self._events() or ()) if event.get("node") == node)
        last = next((event for event in own if str(event.get("kind", "")).startswith(f"{kind}-")), None)
        if last is None or last.get("kind") != f"{kind}-intended":
            return reason
        begun, age_s = parse_reason(str(last.get("reason", ""))), self.ports.clock.now() - (seconds(last, "at") or 0.0)
        if begun is None or begun.code != reason.code or age_s >= _STILL_MEANT_S:
            return reason
        self._gone_on.add(begun.incident)
        return begun

    def _resume_if_passed(self, wanted: Retest, answer: RemoteAnswer) -> Deed:
        if answer.failure is not None or answer.status != 0:
            why = answer.problem or f"exit status {answer.status}"
            self._journal("retest-failed", node=wanted.node, incident=wanted.incident, why=why)
            return Deed(why=f"the loaded re-test did not pass: {why}")
        try:
            reason = parse_reason(self.ports.site.nodes([wanted.node])[0].reason)
        except SovctlError as error:
            return Deed(why=f"passed the re-test, but: {error.message}")
        if reason is None or reason.incident != wanted.incident:
            return Deed(why="passed the re-test, but its reason changed meanwhile")
        return self._act(
            "resume",
            "resume after a passed re-test",
            wanted.node,
            reason,
            resume_command(wanted.node),
            lambda: self.ports.site.resume(wanted.node),
            {"retest": self.settings.retest_command},
        )

    def place(self, nodes: Sequence[NodeView]) -> tuple[tuple[str, Deed], ...]:
        """Have nodes with a bad record taken last; write down which GPU moved. Nothing of it stops a pass."""
        if self.ports.ledgers is None:
            return ()
        now = self.ports.clock.now()
        before = lemons_from_record(self.ports.ledgers.lemons())
        scores, where, moves = self._scores(self.ports.ledgers, before, now)
        changes, taken_last = reweigh(nodes, scores, before, enabled=self.settings.lemons_last)
        if not self.settings.act:
            return tuple((change.node, self._reweigh(change)) for change in changes)
        for move in moves:
            self._journal("gpu-moved", node=move.to_node, from_node=move.from_node, serial=move.serial)
        # Before any weight is changed: what a node had must be known also after a crash, or it never gets it back.
        if not self._kept(Lemons(now, scores, {**before.taken_last, **taken_last}, where)):
            return ()
        deeds = tuple((change.node, self._reweigh(change)) for change in changes)
        undone = {node: before.taken_last[node] for node, deed in deeds if not deed.done and node in before.taken_last}
        self._kept(Lemons(now, scores, {**undone, **taken_last}, where))
        return deeds

    def _scores(
        self, ledgers: Ledgers, before: Lemons, now: float
    ) -> tuple[dict[str, float], dict[str, str], tuple[Move, ...]]:
        """The ledgers are read when one was written, and once an hour, because scores fall by themselves."""
        if before.at and now - before.at < _HOUR_S and not ledgers.changed(before.at):
            return dict(before.scores), dict(before.where), ()
        read = {node: (at, ledger_from_record(record)) for node, (at, record) in ledgers.all().items()}
        where, moves = located(read, before)
        here = {
            node: Ledger(
                ledger.gpus, {place: serial for place, serial in ledger.places.items() if where[serial] == node}
            )
            for node, (_, ledger) in read.items()
        }
        return node_scores(here, now), where, moves

    def _reweigh(self, change: Reweigh) -> Deed:
        if not self.settings.act:
            return Deed(f"would set its weight to {change.weight} ({change.why})", change.argv)
        fields = {"node": change.node, "weight": change.weight, "before": change.before}
        self._journal("weight-intended", **fields, why=change.why, command=shlex.join(change.argv))
        try:
            self.ports.site.set_weight(change.node, change.weight)
        except SovctlError as error:
            self._journal("weight-failed", node=change.node, error=error.message)
            return Deed(command=change.argv, why=f"could not set its weight: {error.message}")
        self._journal("weight-done", node=change.node)
        return Deed(f"weight {change.before} to {change.weight} ({change.why})", change.argv, done=True)

    def _kept(self, lemons: Lemons) -> bool:
        """Whether it can be read back, too: on a file system that takes root for nobody it cannot be trusted."""
        if self.ports.ledgers is None:
            return False
        try:
            self.ports.ledgers.save_lemons(lemons_record(lemons))
        except SovctlError as error:
            self.notes.append(error.message)
            return False
        if lemons_from_record(self.ports.ledgers.lemons()) == lemons:
            return True
        self.notes.append(
            "lemons.json of the journal does not belong to who wrote it (root squashing?): weights are left"
        )
        return False

    def _retests(self, now: float) -> tuple[Counter[str], dict[str, float]] | None:
        """(how often each node was given back within a day, when each last did not pass); None: nobody knows, because
        the record cannot be read."""
        events = self._events()
        if events is None:
            return None
        done = (item for item in events if item.get("kind") == "resume-done" and item.get("at", 0) > now - _DAY_S)
        failed = {str(item.get("node")): float(item["at"]) for item in events if item.get("kind") == "retest-failed"}
        return Counter(str(event.get("node")) for event in done), failed

    def _events(self) -> Sequence[Mapping[str, Any]] | None:
        """None: the record cannot be read."""
        if self._read is None:
            try:
                self._read = self.ports.journal.events()
            except SovctlError as error:
                self.notes.append(error.message)
        return self._read

    def _journal(self, kind: str, **fields: object) -> None:
        """A full shared file system must not keep a sick node in service: say it and go on."""
        try:
            self.ports.journal.append(kind, **fields)
        except SovctlError as error:
            self.notes.append(error.message)


def resume_command(node: str) -> tuple[str, ...]:
    """The literal command."""
    return ("scontrol", "update", f"NodeName={node}", "State=RESUME")
