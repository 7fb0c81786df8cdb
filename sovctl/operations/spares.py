"""`sovctl spare`: keep nodes for preemptible jobs only, say how they are, test them, advise how many."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sovctl.errors import CommandFailed, SovctlError, TryLaterError, UsageError
from sovctl.model.pool import Change, Pool
from sovctl.ports.common import Clock, Journal, Turn
from sovctl.ports.site import RemoteAnswer, RemoteShell
from sovctl.ports.slurm import PoolSite
from sovctl.recovery.outages import Outages, outages
from sovctl.recovery.spare_count import Advice, Observed, advise
from sovctl.recovery.spare_status import PROOFS, NodeWord, SpareStatus, spare_nodes, spare_status, stale_words
from sovctl.recovery.spares import (
    Classes,
    Need,
    Obstacles,
    Plan,
    change_record,
    choose_partition,
    command,
    keep_lines,
    limit_qos,
    needs,
    set_before,
    set_up,
    undo,
)

TEST_COMMAND = "sovctl health burn-in"
"""One piece, the one that is due; it ends by itself when a job comes."""
_SHORT, _ENOUGH = "spares-short", "spares-enough"
_QOS_KNOWN_S = 10.0
"""So long slurmdbd may take to tell slurmctld of a QOS."""


@dataclass(frozen=True, slots=True)
class SparePorts:
    """The outside of `sovctl spare`."""

    site: PoolSite
    journal: Journal
    turn: Turn
    clock: Clock
    shell: RemoteShell
    node_journal: Callable[[str], Journal]


@dataclass(frozen=True, slots=True)
class SetOutcome:
    """What `spare set` did, or would do."""

    partition: str
    spares: int
    commands: tuple[tuple[str, ...], ...] = ()
    needs: tuple[Need, ...] = ()
    """Lines that slurm.conf lacks; with a blocking one nothing was done."""
    keep: tuple[str, ...] = ()
    """What slurm.conf has to say for the next start of slurmctld."""
    left: tuple[str, ...] = ()
    wait: bool = False
    done: bool = False

    @property
    def blocked(self) -> bool:
        return any(need.blocking for need in self.needs)


def set_spares(
    spares: int, partition: str, classes: Classes, ports: SparePorts, show: Callable[[str], None], *, dry_run: bool
) -> SetOutcome:
    """Keep so many spares in a partition (empty: the default one); 0: undo all of it.

    `show` gets every command before it runs. Raises UsageError, RefusedError, TryLaterError, and what a command raises;
    the same call goes on where one was broken off.
    """
    if dry_run:
        return _set(spares, partition, classes, ports, show, dry_run=True)
    with ports.turn.take():
        return _set(spares, partition, classes, ports, show, dry_run=False)


def _set(
    spares: int, partition: str, classes: Classes, ports: SparePorts, show: Callable[[str], None], *, dry_run: bool
) -> SetOutcome:
    pool = ports.site.pool()
    if spares == 0:
        return _undo(partition, classes, pool, ports, show, dry_run=dry_run)
    chosen = choose_partition(pool, classes, partition)
    plan = set_up(pool, classes, chosen, spares)
    commands = tuple(command(change, pool) for change in plan.changes)
    missing = tuple(needs(pool, classes, chosen))
    keep = () if ports.site.conf_names(limit_qos(chosen)) else tuple(keep_lines(classes, chosen))
    outcome = SetOutcome(chosen.name, spares, commands, missing, keep, plan.left)
    if outcome.blocked and not dry_run:
        return outcome
    recorded = spares_set(ports.journal.events()).get(chosen.name) == spares
    done = _apply(outcome, plan, ports, show, dry_run=dry_run, recorded=recorded)
    return SetOutcome(chosen.name, spares, commands, missing, keep, plan.left, done=done)


def _undo(
    partition: str, classes: Classes, pool: Pool, ports: SparePorts, show: Callable[[str], None], *, dry_run: bool
) -> SetOutcome:
    name = partition or choose_partition(pool, classes, "").name
    events = ports.journal.events()
    kept = set_before(events)
    found = pool.partitions.get(name)
    made = {limit_qos(found)} if found is not None else {f"sovctl-spare-{name}"}
    made |= {key.name for key, item in kept.items() if item.scope == name and key.what == "qos"}
    jobs: dict[str, list[str]] = {}
    for job in ports.site.pool_jobs():
        jobs.setdefault(job.qos, []).append(job.job_id)
    plan = undo(pool, kept, name, Obstacles(jobs, {qos for qos in made if ports.site.conf_names(qos) is not False}))
    commands = tuple(command(change, pool) for change in plan.changes)
    outcome = SetOutcome(name, 0, commands, left=plan.left, wait=plan.wait)
    recorded = not spares_set(events).get(name)
    done = _apply(outcome, plan, ports, show, dry_run=dry_run, recorded=recorded)
    return SetOutcome(name, 0, commands, left=plan.left, wait=plan.wait, done=done)


def _apply(
    outcome: SetOutcome, plan: Plan, ports: SparePorts, show: Callable[[str], None], *, dry_run: bool, recorded: bool
) -> bool:
    if dry_run:
        for argv in outcome.commands:
            show(shlex.join(argv))
        return False
    if not plan.changes and recorded:
        return True
    told = ports.journal.append(
        "spare-intended",
        partition=outcome.partition,
        spares=outcome.spares,
        changes=[change_record(change) for change in plan.changes],
        commands=[shlex.join(argv) for argv in outcome.commands],
    )
    for number, (change, argv) in enumerate(zip(plan.changes, outcome.commands, strict=True)):
        show(shlex.join(argv))
        try:
            _do(change, argv, ports)
        except SovctlError as error:
            ports.journal.append(
                "spare-failed",
                partition=outcome.partition,
                intent=told["seq"],
                applied=number,
                command=shlex.join(argv),
                error=error.message,
            )
            raise
    ports.journal.append("spare-done", partition=outcome.partition, spares=outcome.spares, intent=told["seq"])
    return True


def _do(change: Change, argv: Sequence[str], ports: SparePorts) -> None:
    """slurmctld hears of a new QOS from slurmdbd a moment later than sacctmgr."""
    deadline = ports.clock.now() + _QOS_KNOWN_S
    while True:
        try:
            ports.site.apply(argv)
            return
        except CommandFailed as error:
            early = change.setting.what == "partition" and "qos" in error.message.lower()
            if not early or ports.clock.now() >= deadline:
                raise
        ports.clock.sleep(0.25)


def spares_set(events: Iterable[dict[str, Any]]) -> dict[str, int]:
    """By partition: how many spares were set last, 0 after an undo."""
    return {
        str(event["partition"]): int(event["spares"])
        for event in events
        if event.get("kind") == "spare-done" and isinstance(event.get("spares"), int) and "partition" in event
    }


# How they are


@dataclass(frozen=True, slots=True)
class LoadedTests:
    """How often each spare is to have a loaded test."""

    every_s: float = 0.0
    """0: never."""
    after_jobs: bool = False
    """The epilog gives a node one in the gap between two jobs."""


def status(partition: str, classes: Classes, ports: SparePorts, tests: LoadedTests | None = None) -> list[SpareStatus]:
    """Each partition in which spares are kept, or the named one; with `tests` also whose last one is old. Raises
    UsageError for a partition that Slurm does not know."""
    pool, events = ports.site.pool(), _events(ports.journal)
    wanted = spares_set(events)
    names = [partition] if partition else [name for name, spares in wanted.items() if spares]
    unknown = [name for name in names if name not in pool.partitions]
    if partition and unknown:
        raise UsageError(f"Slurm knows no partition {partition}", hint="List them with `sinfo -s`.")
    chosen = [pool.partitions[name] for name in names if name not in unknown]
    if not chosen:
        return []
    views, jobs = ports.site.nodes(), ports.site.pool_jobs()
    found = []
    for item in chosen:
        # Only of these: a cluster has thousands of journals, and the watch asks each minute.
        words = {view.name: _word(view.name, events, ports) for view in spare_nodes(classes, item, views, jobs)}
        one = spare_status(pool, classes, item, views, jobs, wanted.get(item.name), words)
        found.append(_with_stale(one, events, tests or LoadedTests(), ports.clock.now()))
    return found


def _with_stale(item: SpareStatus, events: Sequence[dict[str, Any]], tests: LoadedTests, now: float) -> SpareStatus:
    own = (event for event in events if event.get("kind") == "spare-done" and event.get("partition") == item.partition)
    kept_since = next((_seconds(event.get("at")) for event in own), None)
    words = stale_words(item, kept_since, tests.every_s, now, after_jobs=tests.after_jobs)
    return replace(item, problems=(*item.problems, words)) if words else item


def _word(node: str, events: Sequence[dict[str, Any]], ports: SparePorts) -> NodeWord:
    """Its last verdict, and its last loaded test: of an idle spare, or in the epilog of a job."""
    said: dict[str, Any] = {}
    tests = _tests(node, events)
    for event in _events(ports.node_journal(node)):
        if event.get("kind") == "verdict":
            said = event
        elif event.get("kind") == "burnt-in":
            tests.append(event)
    proofs = [event for event in tests if event.get("outcome") in PROOFS]
    test = max(proofs or tests, key=lambda event: _seconds(event.get("at")) or 0.0, default={})
    return NodeWord(
        str(said.get("state", "unknown")),
        _seconds(said.get("at")),
        str(test.get("outcome", "")),
        _seconds(test.get("at")),
    )


def _tests(node: str, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event.get("kind") == "spare-tested" and event.get("node") == node]


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _events(journal: Journal) -> list[dict[str, Any]]:
    """What cannot be read says nothing: status goes on without it."""
    try:
        return journal.events()
    except SovctlError:
        return []


def tell_shortage(ports: SparePorts, classes: Callable[[], Classes]) -> tuple[str, ...]:
    """Write down once that a partition is short of spares, and once that it is not any more; in words what is new.

    The journal entry is what people are told of (`[alerts]`). `classes`: asked only where spares are kept. Raises
    SovctlError when Slurm does not answer.
    """
    events = _events(ports.journal)
    if not any(spares_set(events).values()):
        return ()
    last = {event.get("partition"): event["kind"] for event in events if event.get("kind") in (_SHORT, _ENOUGH)}
    news = []
    for item in status("", classes(), ports):
        kind = _SHORT if item.short else _ENOUGH
        if last.get(item.partition, _ENOUGH) == kind:
            continue
        words = f"partition {item.partition}: {item.left} of {item.wanted} spares left"
        words += f", out of service: {', '.join(item.out[:8])}" if item.out else ""
        if item.short:
            ports.journal.append(
                "spares-short", partition=item.partition, left=item.left, wanted=item.wanted, words=words
            )
        else:
            ports.journal.append(
                "spares-enough", partition=item.partition, left=item.left, wanted=item.wanted, words=words
            )
        news.append(words)
    return tuple(news)


# Testing them while they wait


@dataclass(frozen=True, slots=True)
class Tested:
    """A spare that was tested, or would be."""

    node: str
    outcome: str = ""
    """ok, failed, unsure, interrupted, unheard; empty: not tested."""
    why: str = ""


def test_next(ports: SparePorts, every_s: float, timeout_s: float, *, dry_run: bool = False) -> Tested | None:
    """A loaded test on the idle spare whose last one is the longest ago; None: none is due.

    What the test finds is kept on the node, whose own check then fails it. Costs one question to slurmctld while
    spares are kept, none otherwise.
    """
    events = _events(ports.journal)
    kept = {name for name, spares in spares_set(events).items() if spares}
    if not kept:
        return None
    idle = [view for view in ports.site.nodes() if str(view.state) == "IDLE" and kept & set(view.partitions)]
    latest = ports.clock.now() - every_s
    words = {view.name: _word(view.name, events, ports) for view in idle}
    due = sorted((_last_try(view.name, words[view.name], events), view.name, view.address) for view in idle)
    chosen = next((item for item in due if item[0] <= latest and words[item[1]].verdict != "failed"), None)
    if chosen is None:
        return None
    _, node, address = chosen
    if dry_run:
        return Tested(node)
    answer = ports.shell.ask({node: address}, TEST_COMMAND, timeout_s)[node]
    tested = Tested(node, _outcome(answer), _last_line(answer))
    ports.journal.append("spare-tested", node=tested.node, outcome=tested.outcome, why=tested.why)
    return tested


def _last_try(node: str, word: NodeWord, events: Sequence[dict[str, Any]]) -> float:
    """Also in vain: who is interrupted each time must not keep the others from their turn."""
    tried = (_seconds(event.get("at")) for event in _tests(node, events))
    return max((at for at in (*tried, word.tested_at) if at is not None), default=0.0)


def _outcome(answer: RemoteAnswer) -> str:
    if answer.failure is not None or answer.status is None:
        return "unheard"
    return {0: "ok", 10: "failed", 75: "interrupted"}.get(answer.status, "unsure")


def _last_line(answer: RemoteAnswer) -> str:
    said = (answer.problem or answer.stdout.decode("utf-8", "replace")).strip().splitlines()
    return said[-1][:200] if said else ""


# How many


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user of `spare advise` says himself; None: from the journal."""

    partition: str = ""
    nodes: int | None = None
    failures: int | None = None
    node_hours: float | None = None
    repair_hours: float | None = None
    spares: int | None = None


@dataclass(frozen=True, slots=True)
class Advised:
    """The advice and what it rests on."""

    advice: Advice
    observed: Observed
    nodes: int
    assumed_repair: bool
    """The repair time is no measurement."""


def advise_spares(
    asked: Asked, classes: Classes, ports: SparePorts, journals: Sequence[Journal], wanted: float, repair_hours: float
) -> Advised:
    """How many spares are enough. Slurm is asked only for what was not said.

    Raises TryLaterError where nothing was observed yet.
    """
    nodes, present, out = asked.nodes, asked.spares, frozenset[str]()
    if nodes is None or (asked.failures is None or asked.node_hours is None):
        pool = ports.site.pool()
        chosen = choose_partition(pool, classes, asked.partition)
        nodes = len(chosen.nodes) if nodes is None else nodes
        views = [view for view in ports.site.nodes() if view.name in set(chosen.nodes)]
        out = frozenset(view.name for view in views if not view.state.schedulable)
        present = spares_set(_events(ports.journal)).get(chosen.name) if present is None else present
    seen = _outages(journals, out, ports.clock.now())
    node_hours = asked.node_hours if asked.node_hours is not None else nodes * seen.observed_s / 3600.0
    if node_hours <= 0.0:
        raise TryLaterError(
            "the cluster journal is empty: nothing tells how often nodes fail here",
            hint="Say it yourself: sovctl spare advise --failures 17 --node-hours 90720 --repair-hours 72",
        )
    measured = seen.repair_s / 3600.0 if seen.repair_s is not None else None
    repair = asked.repair_hours if asked.repair_hours is not None else measured
    observed = Observed(
        asked.failures if asked.failures is not None else seen.failures,
        node_hours,
        repair if repair is not None else repair_hours,
    )
    return Advised(advise(observed, nodes, wanted, present), observed, nodes, repair is None)


def _outages(journals: Sequence[Journal], out: frozenset[str], now: float) -> Outages:
    return outages((event for journal in journals for event in _events(journal)), out, now)
