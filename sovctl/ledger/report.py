"""The figures of a period: how often it failed, how long it took to come back, and what that cost. Pure."""

from __future__ import annotations

import bisect
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sovctl.ledger.incident import (
    Chain,
    Incident,
    NodeEvent,
    Outcome,
    ProbeCount,
    RunAccount,
    SiteAccount,
    Source,
    Span,
)
from sovctl.ledger.intervals import MeanTime, mean_time
from sovctl.ledger.stamps import Stamp, steps
from sovctl.model.blame import Culprit

_BUCKETS = 12
_SAME_INCIDENT_S = 600.0
_TOP = 10


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several durations in seconds."""

    count: int
    median: float
    p90: float
    mean: float
    worst: float


@dataclass(frozen=True, slots=True)
class StageFigure:
    """One stage: from the last known stamp before it until this one."""

    stamp: Stamp
    spread: Spread
    earlier_median: float | None
    """Of the first half of the incidents; None below four."""
    later_median: float | None


@dataclass(frozen=True, slots=True)
class Bucket:
    """A part of the period."""

    begin: float
    end: float
    failures: int
    restart_median_s: float | None
    """From the fault to the first step, or where that is not told to the script."""


@dataclass(frozen=True, slots=True)
class RunFigure:
    """One run in the period."""

    run: str
    job_id: str
    user: str
    name: str
    source: Source
    wall_s: float
    productive_s: float
    ettr: float | None
    """Of a job without a record the most it can have been: nobody knows what it did twice."""
    failures: int
    steps_lost: int
    gpu_seconds_lost: float


@dataclass(frozen=True, slots=True)
class ChainFigure:
    """How often the tries after a failure led on."""

    chains: int
    successes: int
    open: int
    retries: int
    interval_median_s: float | None
    interval_p90_s: float | None

    @property
    def share(self) -> float | None:
        done = self.chains - self.open
        return self.successes / done if done else None


@dataclass(frozen=True, slots=True)
class NamedCount:
    """A node or a GPU with its incidents."""

    name: str
    incidents: int
    share: float
    last_at: float
    last: str
    """The newest finding."""
    where: str = ""
    """Of a GPU: the node."""


@dataclass(frozen=True, slots=True)
class ProbeFigure:
    """One probe over the site."""

    name: str
    count: ProbeCount
    drained: int
    """Nodes it took out in the period."""
    cleared: int
    """Of these: passed the loaded test in the same boot, so nothing was wrong."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything `sovctl report` shows."""

    since: float
    until: float
    runs: tuple[RunFigure, ...]
    incidents: tuple[Incident, ...]
    """Newest last."""
    by_culprit: tuple[tuple[Culprit, int], ...]
    mttf: MeanTime
    """Hours of training per failure."""
    mttf_hardware: MeanTime
    node_days: MeanTime
    """Days of a node in training per hardware failure."""
    ettr: float | None
    gpu_seconds_lost: float
    gpu_seconds_unknown: float
    """Seconds that runs lost of which nobody told how many GPUs they have: in none of the two others."""
    gpu_seconds: float
    steps_lost: int
    restart: Spread | None
    """MTTR: from the fault to the first step (or the script), of those that came back by themselves."""
    caught_up: Spread | None
    stages: tuple[StageFigure, ...]
    buckets: tuple[Bucket, ...]
    outcomes: tuple[tuple[Outcome, int], ...]
    chains: ChainFigure
    hardware_chains: ChainFigure
    nodes: tuple[NamedCount, ...]
    gpus: tuple[NamedCount, ...]
    probes: tuple[ProbeFigure, ...]


def make_report(accounts: Sequence[RunAccount], site: SiteAccount, since: float, until: float) -> Report:
    """The figures of `since` to `until`, in seconds since the epoch."""
    incidents = sorted(
        (item for account in accounts for item in account.incidents if since <= item.at <= until),
        key=lambda item: item.at,
    )
    failures = [item for item in incidents if item.failure]
    hardware = [item for item in failures if item.culprit is Culprit.HARDWARE]
    spans = [span for account in accounts for span in account.spans]
    hours = sum(_inside(span, since, until) for span in spans) / 3600
    days = sum(_inside(span, since, until) * span.nodes for span in spans) / 86400
    runs = [found for account in accounts if (found := _run(account, since, until)) is not None]
    back = [item for item in failures if item.outcome is Outcome.RECOVERED]
    node_events = [item for item in site.node_events if since <= item.at <= until]
    chains = [chain for account in accounts for chain in account.chains if since <= chain.at <= until]
    return Report(
        since=since,
        until=until,
        runs=tuple(sorted(runs, key=lambda item: -item.wall_s)),
        incidents=tuple(incidents),
        by_culprit=tuple(Counter(item.culprit for item in incidents).most_common()),
        mttf=mean_time(len(failures), hours),
        mttf_hardware=mean_time(len(hardware), hours),
        node_days=mean_time(len(hardware), days),
        ettr=_ettr(accounts, since, until),
        gpu_seconds_lost=round(sum(item.gpu_seconds_lost or 0.0 for item in incidents), 1),
        gpu_seconds_unknown=round(sum(item.lost_s or 0.0 for item in incidents if item.gpus is None), 1),
        gpu_seconds=round(sum(_inside(span, since, until) * (span.gpus or 0) for span in spans), 1),
        steps_lost=sum(item.steps_lost or 0 for item in incidents),
        restart=spread([took for item in back if (took := restart_s(item)) is not None]),
        caught_up=spread([item.lost_s for item in back if item.lost_s is not None]),
        stages=tuple(_stages(back)),
        buckets=tuple(_buckets(failures, since, until)),
        outcomes=tuple(Counter(item.outcome for item in failures).most_common()),
        chains=_chains(chains),
        hardware_chains=_chains([item for item in chains if item.culprit is Culprit.HARDWARE]),
        nodes=tuple(_nodes(failures, node_events)),
        gpus=tuple(_gpus(failures, site, since, until)),
        probes=tuple(_probes(site, node_events)),
    )


def restart_s(item: Incident) -> float | None:
    """From the fault to the first step, or to the script where the ranks tell nothing."""
    first = item.seconds_to(Stamp.FIRST_STEP)
    return first if first is not None else item.seconds_to(Stamp.STARTED)


def spread(values: Sequence[float]) -> Spread | None:
    """None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(0, -(-len(ordered) * 9 // 10) - 1)
    return Spread(
        len(ordered),
        round(statistics.median(ordered), 3),
        round(ordered[rank], 3),
        round(statistics.fmean(ordered), 3),
        round(ordered[-1], 3),
    )


def _stages(back: Sequence[Incident]) -> Iterable[StageFigure]:
    taken: dict[Stamp, list[float]] = defaultdict(list)
    for item in back:
        for stamp, took in steps(item.stamps):
            taken[stamp].append(took)
    for stamp in Stamp:
        values = taken.get(stamp, [])
        figure = spread(values)
        if figure is not None:
            half = len(values) // 2
            enough = len(values) >= 4
            yield StageFigure(
                stamp,
                figure,
                round(statistics.median(values[:half]), 3) if enough else None,
                round(statistics.median(values[half:]), 3) if enough else None,
            )


def _buckets(failures: Sequence[Incident], since: float, until: float) -> Iterable[Bucket]:
    width = (until - since) / _BUCKETS
    if width <= 0:
        return
    parts: list[list[Incident]] = [[] for _ in range(_BUCKETS)]
    for item in failures:
        parts[min(_BUCKETS - 1, int((item.at - since) / width))].append(item)
    for index, part in enumerate(parts):
        again = [item for item in part if item.outcome is Outcome.RECOVERED]
        took = [seconds for item in again if (seconds := restart_s(item)) is not None]
        median = round(statistics.median(took), 3) if took else None
        yield Bucket(since + index * width, since + (index + 1) * width, len(part), median)


# Time


def _inside(span: Span, since: float, until: float) -> float:
    return max(0.0, min(span.ended_at, until) - max(span.began_at, since))


def _productive(span: Span, since: float, until: float) -> float:
    length = span.ended_at - span.began_at
    return span.productive_s * _inside(span, since, until) / length if length > 0 else 0.0


def _wall(account: RunAccount, since: float, until: float) -> float:
    """From its first start to its end, with every wait in between."""
    if not account.spans:
        return 0.0
    return max(0.0, min(account.ended_at, until) - max(account.started_at, since))


def _run(account: RunAccount, since: float, until: float) -> RunFigure | None:
    wall = _wall(account, since, until)
    own = [item for item in account.incidents if since <= item.at <= until]
    if wall <= 0 and not own:
        return None
    productive = sum(_productive(span, since, until) for span in account.spans)
    return RunFigure(
        account.run,
        account.job_id,
        account.user,
        account.name,
        account.source,
        round(wall, 1),
        round(productive, 1),
        round(min(1.0, productive / wall), 4) if wall > 0 else None,
        sum(item.failure for item in own),
        sum(item.steps_lost or 0 for item in own),
        round(sum(item.gpu_seconds_lost or 0.0 for item in own), 1),
    )


def _ettr(accounts: Sequence[RunAccount], since: float, until: float) -> float | None:
    """Over all runs with a record of their own, each weighted with its nodes: what share of the time they had was
    training that counted."""
    had = used = 0.0
    for account in accounts:
        if account.source is not Source.RECORD:
            continue
        nodes = max((span.nodes for span in account.spans), default=0)
        had += _wall(account, since, until) * nodes
        used += sum(_productive(span, since, until) for span in account.spans) * nodes
    return round(min(1.0, used / had), 4) if had > 0 else None


# Counts


def _chains(chains: Sequence[Chain]) -> ChainFigure:
    gaps = sorted(gap for chain in chains for gap in chain.intervals_s)
    found = spread(gaps)
    return ChainFigure(
        len(chains),
        sum(chain.success is True for chain in chains),
        sum(chain.success is None for chain in chains),
        sum(chain.retries for chain in chains),
        found.median if found else None,
        found.p90 if found else None,
    )


def _nodes(failures: Sequence[Incident], drained: Sequence[NodeEvent]) -> list[NamedCount]:
    """Blamed by a run, or taken out of service: both for one fault are one incident."""
    seen: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for item in failures:
        for node in item.nodes:
            seen[node].append((item.at, item.code or item.culprit.value))
    for entries in seen.values():
        entries.sort()
    for event in sorted(drained, key=lambda item: item.at):
        entries = seen[event.node]
        after = bisect.bisect_left(entries, (event.at - _SAME_INCIDENT_S,))
        if after == len(entries) or entries[after][0] > event.at + _SAME_INCIDENT_S:
            entries.insert(after, (event.at, event.code))
    return _ranked({node: (entries, "") for node, entries in seen.items()})


def _gpus(failures: Sequence[Incident], site: SiteAccount, since: float, until: float) -> list[NamedCount]:
    seen: dict[str, tuple[list[tuple[float, str]], str]] = {}
    faults = [fault for fault in site.gpu_faults if since <= fault.at <= until]
    for fault in sorted(faults, key=lambda item: item.at):
        entries, _ = seen.get(fault.serial, ([], ""))
        seen[fault.serial] = ([*entries, (fault.at, fault.what)], fault.node)
    for item in failures:
        for serial in item.serials:
            entries, node = seen.get(serial, ([], item.nodes[0] if item.nodes else ""))
            if not any(abs(at - item.at) <= _SAME_INCIDENT_S for at, _ in entries):
                seen[serial] = ([*entries, (item.at, item.code)], node)
    return _ranked(seen)


def _ranked(seen: dict[str, tuple[list[tuple[float, str]], str]]) -> list[NamedCount]:
    total = sum(len(entries) for entries, _ in seen.values())
    found = [
        NamedCount(name, len(entries), round(len(entries) / total, 4), *max(entries), where)
        for name, (entries, where) in seen.items()
        if entries
    ]
    return sorted(found, key=lambda item: (-item.incidents, -item.last_at, item.name))[:_TOP]


def _probes(site: SiteAccount, drained: Sequence[NodeEvent]) -> list[ProbeFigure]:
    taken = Counter(name for event in drained for name in event.probes)
    cleared = Counter(name for event in drained if event.cleared for name in event.probes)
    names = {name for name, count in site.probes.items() if count != ProbeCount()} | set(taken)
    found = [
        ProbeFigure(name, site.probes.get(name, ProbeCount()), taken[name], cleared[name]) for name in sorted(names)
    ]
    return sorted(found, key=lambda item: (-item.drained, -item.count.hits, item.name))
