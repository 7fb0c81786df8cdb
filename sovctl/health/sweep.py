"""What one pass over the cluster does: whom it asks, what it makes of the answers, whom it drains and gives back. Pure.

Rules: only our own reasons are touched; unknown neither drains nor gives back; one finding never takes more nodes an
hour than the budget allows, because one bad check or one shared fault must not empty the cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sovctl.health.by_hand import CODE as BY_HAND
from sovctl.health.drain import Drain, Nothing, decide_drain, incident_id, recent_drains
from sovctl.model.job import JobView
from sovctl.model.node import NodeView
from sovctl.model.reason import DrainReason, incident_time, is_ours, parse_reason
from sovctl.model.verdict import Finding, Severity, Verdict, VerdictState

_NOT_THERE = frozenset(
    {"POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN", "POWERING_UP", "REBOOT_ISSUED", "NOT_RESPONDING", "INVALID_REG"}
)
_HOUR_S = 3600.0
STUCK = "STUCK_COMPLETING"


@dataclass(frozen=True, slots=True)
class SweepPolicy:
    """How far one pass may go."""

    drain_limit_per_hour: int = 4
    drain_share_per_hour: float = 0.1
    """For one and the same finding; whichever of the two is less, but at least one node."""
    retest: bool = False
    """A loaded re-test is configured."""
    resume_limit_per_day: int = 2
    retest_pause_s: float = 3600.0
    """After a re-test that did not pass."""
    completing_s: float = 900.0
    drain_codes: frozenset[str] = frozenset()
    """Findings of the comparison with peers that fail a node."""

    def limit_for_one_code(self, nodes: int) -> int:
        return max(1, min(self.drain_limit_per_hour, int(self.drain_share_per_hour * nodes)))


@dataclass(frozen=True, slots=True)
class Assessed:
    """What is known of one node after it was asked."""

    verdict: Verdict | None = None
    """Made just now, or stored and still good; None: the node is not heard."""
    confirmed: bool = False
    """The verdict was made just now, so it knows of a resume by hand."""
    findings: tuple[Finding, ...] = ()
    """Of the sweep itself: the comparison with peers, and why a node is not heard."""

    @property
    def state(self) -> VerdictState:
        """Peers can fail a node that was seen; they never make up for a node that was not."""
        if self.verdict is None:
            return VerdictState.UNKNOWN
        if any(finding.severity is Severity.FAIL for finding in self.findings):
            return VerdictState.FAILED
        if self.verdict.state is VerdictState.HEALTHY and self.findings:
            return VerdictState.DEGRADED
        return self.verdict.state

    @property
    def worst(self) -> Finding | None:
        own = self.verdict.worst if self.verdict else None
        if own and own.severity is Severity.FAIL:
            return own
        return next((item for item in self.findings if item.severity is Severity.FAIL), own) or next(
            iter(self.findings), None
        )


@dataclass(frozen=True, slots=True)
class Retest:
    """Ours, healthy again: to be given back if it passes under load."""

    node: str
    incident: str


@dataclass(frozen=True, slots=True)
class Left:
    """Left as it is, and why a person may want to know."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class Free:
    """One node holds jobs that completed long ago: set it down, and they are free."""

    node: str
    jobs: tuple[str, ...]
    reason: DrainReason

    @property
    def argv(self) -> tuple[str, ...]:
        """The literal command."""
        return ("scontrol", "update", f"NodeName={self.node}", "State=DOWN", f"Reason={self.reason}")


Decision = Drain | Retest | Free | Left | Nothing


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and what has to be said loudly."""

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    """By node; each node has one."""
    alarms: tuple[str, ...] = ()


def reason_not_to_ask(node: NodeView) -> str:
    """Why a node is not asked; empty when it is."""
    gone = node.state.flags & _NOT_THERE
    if gone:
        return f"Slurm says {', '.join(sorted(gone))}"
    if node.state.down and not is_ours(node.reason):
        return f"it is down: {node.reason or 'no reason given'}"
    return "" if node.state.base not in ("FUTURE", "UNKNOWN") else f"its state is {node.state.base}"


def needs_confirmation(node: NodeView, verdict: Verdict | None, fresh: bool) -> bool:
    """Whether a stored verdict is not enough: it is too old, or something would be done because of it.

    A person who gives a node back forgives what the kernel said before; only a check made now knows that.
    """
    if not fresh or verdict is None:
        return True
    out = node.state.draining or node.state.down
    return is_ours(node.reason) if out else verdict.state is VerdictState.FAILED


def judge_peers(findings: Iterable[Finding], policy: SweepPolicy) -> tuple[Finding, ...]:
    """Findings of the comparison, those the site trusts with a drain made failures."""
    return tuple(
        replace(finding, severity=Severity.FAIL) if finding.code in policy.drain_codes else finding
        for finding in findings
    )


def plan_pass(
    nodes: Sequence[NodeView],
    assessed: Mapping[str, Assessed],
    stuck: Mapping[str, tuple[str, ...]],
    resumed_today: Mapping[str, int],
    policy: SweepPolicy,
    now: float,
    retest_failed_at: Mapping[str, float] | None = None,
) -> Plan:
    """Decide on every node that was looked at. `nodes`: the whole cluster, which the budget is counted over;
    `stuck`: jobs that complete for too long on one node; `resumed_today`: how often we gave each node back;
    `retest_failed_at`: when each last did not pass, in seconds since the epoch."""
    budget = _Budget(nodes, policy, now)
    decisions: dict[str, Decision] = {}
    for node in sorted((node for node in nodes if node.name in assessed), key=_most_certain_first):
        state = assessed[node.name]
        if stuck.get(node.name):
            decisions[node.name] = _decide_stuck(node, stuck[node.name], budget, now)
        elif node.state.draining or node.state.down:
            decision = _decide_out(node, state, resumed_today.get(node.name, 0), policy)
            failed_at = (retest_failed_at or {}).get(node.name)
            if isinstance(decision, Retest) and failed_at is not None and 0 <= now - failed_at < policy.retest_pause_s:
                minutes = (policy.retest_pause_s - (now - failed_at)) / 60
                decision = Left(node.name, f"did not pass its re-test, is tried again in {minutes:.0f} min")
            decisions[node.name] = decision
        else:
            decisions[node.name] = _decide_in_service(node, state, budget, now)
    return Plan(decisions, budget.alarms())


def stuck_jobs(
    jobs: Iterable[JobView], ended_at: Mapping[str, float], policy: SweepPolicy, now: float
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """(jobs by the one node they hang on, notes on those that hang on several). `ended_at`: when each job ended.

    A job that hangs on many nodes hangs on what these share, a file system or the controller: setting nodes down
    would not help it.
    """
    by_node: dict[str, list[str]] = {}
    notes = []
    for job in jobs:
        ended = ended_at.get(job.job_id)
        if not job.completing or ended is None or now - ended < policy.completing_s:
            continue
        if len(job.nodes) == 1:
            by_node.setdefault(job.nodes[0], []).append(job.job_id)
        else:
            notes.append(
                f"job {job.job_id} completes for {now - ended:.0f} s on {len(job.nodes)} nodes: a shared cause, left"
            )
    return {node: tuple(ids) for node, ids in by_node.items()}, tuple(notes)


class _Budget:
    """Counts the drains of the last hour, by finding and in all, and what it withheld."""

    def __init__(self, nodes: Sequence[NodeView], policy: SweepPolicy, now: float) -> None:
        self.policy = policy
        self.limit = policy.limit_for_one_code(len(nodes))
        self.total = recent_drains(nodes, now)
        self.by_code = _recent_by_code(nodes, now)
        self._withheld: Counter[str] = Counter()

    def spent(self, code: str) -> str:
        """Why no other node may be drained for this finding; empty when one may."""
        if self.by_code[code] >= self.limit:
            self._withheld[code] += 1
            return (
                f"{self.by_code[code]} nodes were drained for {code} within an hour and {self.limit} may be: "
                "a person has to look"
            )
        if self.total >= self.policy.drain_limit_per_hour:
            self._withheld["any"] += 1
        return ""

    def spend(self, code: str) -> None:
        self.by_code[code] += 1
        self.total += 1

    def alarms(self) -> tuple[str, ...]:
        """One sentence a finding whose budget is spent while more nodes have it."""
        said = []
        for code, count in sorted(self._withheld.items()):
            if code == "any":
                said.append(
                    f"STOPPED draining: {self.total} nodes within an hour is all that health.drain_limit_per_hour "
                    f"allows, and {count} more failed. A person has to look."
                )
            else:
                said.append(
                    f"STOPPED draining for {code}: {self.by_code[code]} nodes within an hour is the budget, and "
                    f"{count} more show it. This looks like a bad check or a shared fault; a person has to look."
                )
        return tuple(said)


def _decide_in_service(node: NodeView, state: Assessed, budget: _Budget, now: float) -> Decision:
    worst = state.worst
    if state.state is not VerdictState.FAILED or worst is None or state.verdict is None:
        return Nothing(f"the verdict is {state.state}")
    if not state.confirmed:
        return Nothing("its stored verdict could not be confirmed", settled=False)
    why = budget.spent(worst.code)
    if why:
        return Nothing(why, settled=False)
    verdict = replace(state.verdict, state=VerdictState.FAILED, findings=(worst, *state.verdict.findings))
    incident = incident_id(node.name, state.verdict.boot_id, now)
    limit = budget.policy.drain_limit_per_hour
    decision = decide_drain(verdict, node, budget.total, limit, incident)
    if isinstance(decision, Drain):
        budget.spend(worst.code)
    return decision


def _decide_out(node: NodeView, state: Assessed, resumed: int, policy: SweepPolicy) -> Decision:
    """A node out of service: somebody else's is left, ours comes back when it proves itself."""
    reason = parse_reason(node.reason)
    if reason is None:
        by = node.reason_by or "somebody"
        return Left(node.name, f"drained by {by}, their reason stays: {node.reason or 'none given'}")
    if reason.code == BY_HAND:
        return Left(node.name, f"drained by hand: {reason.text or 'no reason given'}; who did it gives it back")
    if state.state not in (VerdictState.HEALTHY, VerdictState.DEGRADED) or not state.confirmed:
        return Left(node.name, f"drained by sovctl, the verdict is {state.state}")
    if node.state.base in ("ALLOCATED", "MIXED") or "COMPLETING" in node.state.flags:
        return Left(node.name, "drained by sovctl, looks healthy again, jobs still run on it")
    if not policy.retest:
        return Left(node.name, "drained by sovctl, looks healthy again; without sweep.retest_command it stays")
    if resumed >= policy.resume_limit_per_day:
        return Left(node.name, f"was given back {resumed} times within a day: a person decides")
    return Retest(node.name, reason.incident)


def _decide_stuck(node: NodeView, jobs: tuple[str, ...], budget: _Budget, now: float) -> Decision:
    said = f"{'jobs' if len(jobs) > 1 else 'job'} {', '.join(jobs[:5])}"
    if node.reason and not is_ours(node.reason):
        return Left(node.name, f"{said} hang here; it is drained by {node.reason_by or 'somebody'}: {node.reason}")
    if node.state.down:
        return Left(node.name, f"{said} hang here and it is down already")
    why = budget.spent(STUCK)
    if why or budget.total >= budget.policy.drain_limit_per_hour:
        return Nothing(why or "the budget of drains is spent", settled=False)
    budget.spend(STUCK)
    incident = incident_id(node.name, str(node.boot_time or 0), now)
    words = f"{said} would not end here" + (f" [was: {node.reason}]" if node.reason else "")
    return Free(node.name, jobs, DrainReason(incident, STUCK, words))


def _most_certain_first(node: NodeView) -> tuple[int, str]:
    """Where the budget does not reach for all, idle nodes go first: no job is asked to leave."""
    return (0 if node.state.base == "IDLE" else 1, node.name)


def _recent_by_code(nodes: Iterable[NodeView], now: float) -> Counter[str]:
    """How many nodes are out of service for each of our findings of the last hour, counted from Slurm itself."""
    codes: Counter[str] = Counter()
    for node in nodes:
        reason = parse_reason(node.reason)
        at = incident_time(reason.incident) if reason and (node.state.draining or node.state.down) else None
        if reason and at is not None and at > now - _HOUR_S:
            codes[reason.code] += 1
    return codes
