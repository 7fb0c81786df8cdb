"""Which nodes the next attempt must not get. Pure.

The list never starves the job: when too few nodes would remain, the oldest exclusions are given up first, and those of
nodes that Slurm would not use anyway only where the job could never start else. The nodes just blamed come last: they
are tried again where the run cannot do without them and nobody has taken them out of service, until they have stopped
it `TRIES` times without a new checkpoint. What is then left to wait for is said in a sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sovctl.model.job import JobView
from sovctl.model.node import NodeView
from sovctl.model.site_answer import SiteWord
from sovctl.recovery.attempts import Event, names, seconds, text, whole

FORGET_AFTER_S = 7 * 24 * 3600.0
"""A node blamed longer ago than this may be tried again: by then somebody has looked at it."""
FORGET_SUSPECT_S = 6 * 3600.0
"""The same for a node that was only left out to find a culprit, or was slower than its peers."""
TRIES = 3
"""So often a node may stop a run that cannot do without it, with no new checkpoint in between."""
_NAMED = 4
"""So many nodes a sentence names."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One node blamed for a stop."""

    node: str
    since: float
    """Seconds since the epoch."""
    evidence: str = ""
    suspected: bool = False
    """Nothing speaks against it by itself; given up before any node that was blamed."""

    @property
    def until(self) -> float:
        """When the run may have it again by itself."""
        return self.since + (FORGET_SUSPECT_S if self.suspected else FORGET_AFTER_S)


@dataclass(frozen=True, slots=True)
class ExclusionList:
    """What goes into ExcNodeList, and what had to be given up."""

    nodes: tuple[str, ...]
    given_up: tuple[str, ...] = ()
    short: str = ""
    """Why too few nodes are left to start on; empty: enough are."""
    never: bool = False
    """No repair could start the job: Slurm sets it aside (BadConstraints)."""


def exclusions(events: Sequence[Event], now: float) -> list[Exclusion]:
    """Nodes a run's journal speaks against, oldest first, one entry a node with its newest date; suspects first, so
    that they are the first to be given up."""
    kept = [item for item in _newest(events, now) if now < item.until]
    return sorted(kept, key=lambda item: (not item.suspected, item.since))


def _newest(events: Sequence[Event], now: float) -> list[Exclusion]:
    """What was last said against each node, however long ago."""
    newest: dict[str, Exclusion] = {}
    for event in events:
        if event.get("kind") == "forgiven":
            for node in names(event, "nodes"):
                newest.pop(node, None)
        known = newest.get(text(event, "node")) if event.get("kind") == "site_checked" else None
        if known is not None and event.get("state") == SiteWord.CLEARED:
            # The site found nothing, and this run stopped there all the same: given up first when nodes are short.
            newest[known.node] = replace(known, suspected=True)
        for found in _against(event, now):
            known = newest.get(found.node)
            if known is None or known.suspected or not found.suspected:
                newest[found.node] = found
    return list(newest.values())


def ever_against(events: Sequence[Event]) -> set[str]:
    """Every node the journal ever spoke against; what else is excluded is the user's own wish."""
    return {found.node for event in events for found in _against(event, 0.0)}


def repaired(
    events: Sequence[Event], wanted: Sequence[Exclusion], nodes: Sequence[NodeView]
) -> tuple[list[str], list[str]]:
    """Excluded nodes that are out of service now and were not known to be, and those that were and have been given
    back since: whoever resumed them answers for them, so the run may have them again."""
    views = {node.name: node for node in nodes}
    went: dict[str, float] = {}
    for event in events:
        if event.get("kind") == "out_of_service":
            went |= dict.fromkeys(names(event, "nodes"), seconds(event, "at") or 0.0)
    out, back = [], []
    for item in wanted:
        view = views.get(item.node)
        known_out = went.get(item.node, -1.0) >= item.since
        if view is None:
            continue
        if not view.state.schedulable and not known_out:
            out.append(item.node)
        if view.state.schedulable and not view.reason and known_out:
            back.append(item.node)
    return out, back


def _against(event: Event, now: float) -> list[Exclusion]:
    at, evidence, kind = seconds(event, "at"), text(event, "evidence"), text(event, "kind")
    at = now if at is None else at
    if kind == "site_checked" and event.get("state") != SiteWord.FAILED:
        return []
    if kind in ("straggler", "node_evidence", "site_checked"):
        node, suspected = text(event, "node"), kind == "straggler"
        return [Exclusion(node, at, evidence, suspected)] if node else []
    if kind != "attempt_ended":
        return []
    culprit = text(event, "culprit")
    blamed = names(event, "blamed") if culprit in _SPEAKS_AGAINST else ()
    found = [Exclusion(node, at, evidence, suspected=culprit != "hardware") for node in blamed]
    return found + [
        Exclusion(node, at, "left out to find the culprit", suspected=True)
        for node in names(event, "suspects")
        if node not in blamed
    ]


_SPEAKS_AGAINST = frozenset({"hardware", "fabric", "storage", "unknown"})
"""Culprits with which a named node is to be avoided; a crash of the code next to a node is no word against it."""


def once_more(events: Sequence[Event]) -> frozenset[str]:
    """Nodes spoken against that a run which cannot do without them may try again."""
    stops = [event for event in events if event.get("kind") == "attempt_ended"]
    gained = _checkpoint(stops[-1]) if stops else 0
    stopped = Counter(node for stop in stops if _checkpoint(stop) >= gained for node in names(stop, "blamed"))
    return frozenset(node for node in ever_against(events) if stopped[node] < TRIES)


def _checkpoint(stop: Event) -> int:
    return whole(stop, "checkpoint_step") or 0


@dataclass(slots=True)
class _Choice:
    """A list in the making."""

    keep: list[Exclusion]
    own: frozenset[str]
    there: frozenset[str]
    """Nodes of the partition."""
    usable: frozenset[str]
    """Those of them that are in service, and not in a reservation of others."""
    closed: frozenset[str]
    """Those in service that are, or, where the job names a reservation, are in none."""
    needed: int
    given_up: list[str] = field(default_factory=list)

    def left(self, of: Collection[str]) -> int:
        """How many of these nodes the job may use."""
        return len(frozenset(of) - {item.node for item in self.keep} - self.own)

    def give_up(self, items: Iterable[Exclusion], of: Collection[str]) -> None:
        """One after the other, while fewer of these nodes are left than are needed."""
        for item in list(items):
            if self.left(of) >= self.needed:
                return
            self.let_go(item)

    def let_go(self, item: Exclusion) -> None:
        self.keep.remove(item)
        self.given_up.append(item.node)


def choose(
    wanted: Sequence[Exclusion],
    own: Sequence[str],
    nodes: Sequence[NodeView],
    partition: str,
    needed: int,
    *,
    required: Collection[str] = (),
    again: Collection[str] = (),
    in_reservation: bool = False,
) -> ExclusionList:
    """`own`: nodes the user excluded, always kept. `needed`: nodes the job asks for. `nodes`: the cluster.
    `required`: nodes without which it never starts (--nodelist). `again`: blamed nodes that may be tried again.
    `in_reservation`: it names one (--reservation)."""
    asked = frozenset(filter(None, partition.split(",")))
    there = frozenset(node.name for node in nodes if not asked or not node.partitions or asked & {*node.partitions})
    working = frozenset(node.name for node in nodes if node.name in there and node.state.schedulable)
    inside = frozenset(node.name for node in nodes if node.name in working and node.state.reserved)
    # A reservation that has not begun, or is over, leaves no mark on its nodes: which they are is then not known.
    usable = working - inside if not in_reservation else inside or working
    choice = _Choice(list(wanted), frozenset(own), there, usable, working - usable, needed)
    for item in wanted:
        if item.node in required and (item.node in again or item.node not in usable):
            choice.let_go(item)
    # The newest are the nodes just blamed, and going straight back to them is the last thing to do.
    latest = max((item.since for item in wanted), default=0.0)
    choice.give_up((item for item in choice.keep if item.node in usable and item.since < latest), usable)
    tried = [item for item in choice.keep if item.node in usable and item.node in again]
    if choice.left(usable) + len(tried) >= needed:
        choice.give_up(tried, usable)
    # A job that excludes so many nodes that it could not start on all the others is set aside for ever (BadConstraints,
    # priority 0; 22.05 to 26.05). A node that is out of service is none it could start on anyway.
    choice.give_up((item for item in choice.keep if item.node in there - usable), there)
    choice.give_up((item for item in choice.keep if item in tried), there)
    kept = frozenset(item.node for item in choice.keep)
    blocked = sorted(frozenset(required) & kept)
    never = bool(blocked) or (bool(kept & usable) and choice.left(there) < needed)
    return ExclusionList(
        tuple(dict.fromkeys([*own, *(item.node for item in choice.keep)])),
        tuple(choice.given_up),
        _asks_for(blocked, sorted(frozenset(required) & there - working)) or _short(choice, partition, never=never),
        never,
    )


def _asks_for(blocked: Sequence[str], away: Sequence[str]) -> str:
    if blocked:
        return f"--nodelist asks for {_some(blocked)}, which stopped the run {TRIES} times without a new checkpoint"
    return f"--nodelist asks for {_some(away)}, out of service" if away else ""


def _short(choice: _Choice, partition: str, *, never: bool) -> str:
    """Why the job cannot start as things are; empty: it can, as soon as the nodes are free."""
    left = choice.left(choice.usable)
    if left >= choice.needed:
        return ""
    blamed = {item.node for item in choice.keep}
    why = (
        (choice.there - choice.usable - choice.closed, "out of service"),
        (choice.closed, "kept from it by a reservation"),
        (choice.usable & choice.own, "excluded by --exclude"),
        (choice.usable & blamed - choice.own, f"blamed for {TRIES} stops in a row" if never else "blamed"),
    )
    known = "; ".join(f"{_some(sorted(names))} {words}" for names, words in why if names)
    where = f" of partition {partition}" if partition else ""
    return f"{choice.needed} nodes are needed and {left}{where} are left" + (f" ({known})" if known else "")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run's job is to exclude from now on, and what became of what it excluded."""

    chosen: ExclusionList
    out: tuple[str, ...]
    """Excluded nodes newly found out of service."""
    back: tuple[str, ...]
    """Those that were and have been given back: no longer excluded."""
    lapsed: tuple[str, ...]
    """Excluded until now, and so long ago that the run may try them again."""


def renew(
    events: Sequence[Event],
    job: JobView,
    nodes: Sequence[NodeView],
    needed: int,
    now: float,
    *,
    by_person: bool = False,
) -> Terms:
    """`by_person`: whoever lets the job go answers for the nodes it cannot do without."""
    known = {view.name for view in nodes}
    current = exclusions(events, now)
    # Slurm refuses a whole list for one node that has left the site.
    wanted = [item for item in current if item.node in known]
    out, back = repaired(events, wanted, nodes)
    # Ours are all that were ever blamed: one that was forgiven must not stay as if the user had excluded it.
    ours = ever_against(events)
    chosen = choose(
        [item for item in wanted if item.node not in back],
        [node for node in job.excluded if node not in ours],
        nodes,
        job.extra.get("Partition", ""),
        needed,
        required=job.required,
        again=ours if by_person else once_more(events),
        in_reservation=job.in_reservation,
    )
    aged = {item.node for item in _newest(events, now)} - {item.node for item in current}
    lapsed = tuple(node for node in job.excluded if node in aged)
    return Terms(chosen, tuple(out), tuple(back), lapsed)
