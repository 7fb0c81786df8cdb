"""Spares in the pool: K nodes of a partition that only preemptible jobs may use, whichever nodes they are. Pure.

The partition gets a QOS with GrpTRES=node=N-K. Slurm counts a job against the QOS of the partition it runs in, whatever
its own QOS (acct_policy_set_qos_order, 22.05 to 26.05), so all classes together never hold more than N-K nodes.
Preemptible jobs must not count there: they run in a partition of their own over the same nodes, behind in priority
tier, so that a preempted job cannot take the node again before the one it was preempted for. A run of N-K nodes that
lost one still fits below the limit: what it lacks it takes from a preemptible job.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sovctl.errors import RefusedError, UsageError
from sovctl.model.pool import Change, Partition, Pool, Setting

_YES, _NO = "yes", "no"
_EXISTS = "exists"
_NODE_LIMIT = "GrpTRES=node"
_PRIORITY_STEP = 1000


@dataclass(frozen=True, slots=True)
class Classes:
    """The team's priority classes; each is a QOS."""

    above: tuple[str, ...] = ("high", "normal")
    """Those that take nodes from preemptible jobs, most important first."""
    preemptible: str = "preemptible"
    partition: str = "preemptible"
    """Where preemptible jobs run."""
    grace_s: int = 120
    preempt_lower: bool = False
    """Every class may take nodes from every class below it, not only from the last."""

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.above, self.preemptible)


@dataclass(frozen=True, slots=True)
class Need:
    """A line of slurm.conf that has to be there first."""

    line: str
    why: str
    blocking: bool = True


@dataclass(frozen=True, slots=True)
class Kept:
    """What was set, as the journal tells it."""

    original: str
    ours: frozenset[str]
    """Every value written since; one that is there now and not among them is somebody else's."""
    scope: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to change, and what stays although it was asked for."""

    changes: tuple[Change, ...] = ()
    left: tuple[str, ...] = ()
    """In words: what is left as it is, and why."""
    wait: bool = False
    """Some of it can be done later: the same command again."""


# Setting up


def needs(pool: Pool, classes: Classes, partition: Partition) -> list[Need]:
    """What slurm.conf lacks for spares by preemption, each line as it has to be there."""
    settings, found = pool.settings, []
    if settings.get("AccountingStorageType") != "accounting_storage/slurmdbd":
        found.append(Need("AccountingStorageType=accounting_storage/slurmdbd", "limits of QOS are kept by slurmdbd"))
    enforced = [word for word in settings.get("AccountingStorageEnforce", "").split(",") if word not in ("", "none")]
    if "all" not in enforced and not {"limits", "qos"} <= set(enforced):
        words = ",".join(dict.fromkeys([*enforced, "associations", "limits", "qos"]))
        found.append(Need(f"AccountingStorageEnforce={words}", "without it no limit of a QOS is looked at"))
    if settings.get("PreemptType") != "preempt/qos":
        found.append(Need("PreemptType=preempt/qos", "a QOS says which others its jobs may take nodes from"))
    if settings.get("PreemptMode", "OFF").upper() == "OFF":
        found.append(Need("PreemptMode=REQUEUE", "what is preempted goes back into the queue"))
    found += _partition_needs(pool, classes, partition)
    if settings.get("PriorityWeightQOS", "0") == "0" or settings.get("PriorityType") != "priority/multifactor":
        words = "without it the classes above preemptible wait in the order they came"
        found.append(Need("PriorityWeightQOS=10000", words, blocking=False))
    return found


def _partition_needs(pool: Pool, classes: Classes, partition: Partition) -> list[Need]:
    own = pool.partitions.get(classes.partition)
    line = f"PartitionName={classes.partition} Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=0"
    if own is None:
        return [Need(line, "preemptible jobs run here: in the other partition they would count against its limit")]
    if missing := set(partition.nodes) - set(own.nodes):
        return [Need(line, f"{len(missing)} nodes of {partition.name} are not in {own.name}: nothing could use them")]
    if own.priority_tier >= partition.priority_tier:
        words = f"a preempted job would otherwise take its nodes again ({partition.name} has {partition.priority_tier})"
        tier = max(partition.priority_tier, 1)
        raised = "" if partition.priority_tier else f", and PartitionName={partition.name} ... PriorityTier={tier}"
        return [Need(f"PartitionName={own.name} ... PriorityTier={tier - 1}{raised}", words)]
    return []


def limit_qos(partition: Partition) -> str:
    """The QOS that carries the limit: the partition's own where it has one."""
    return partition.qos or f"sovctl-spare-{partition.name}"


def keep_lines(classes: Classes, partition: Partition) -> list[str]:
    """What slurm.conf has to say of the partitions, or the next restart of slurmctld forgets it."""
    denied = f" DenyQos={classes.preemptible}" if partition.allow_qos is None else ""
    return [
        f"PartitionName={partition.name} ... QOS={limit_qos(partition)}{denied}",
        f"PartitionName={classes.partition} ... AllowQos={classes.preemptible}",
    ]


def choose_partition(pool: Pool, classes: Classes, name: str) -> Partition:
    """The named partition, else the default one. Raises UsageError."""
    chosen = [item for item in pool.partitions.values() if (item.name == name if name else item.default)]
    if not chosen:
        said = f"Slurm knows no partition {name}" if name else "no partition is the default one"
        known = ", ".join(sorted(pool.partitions))
        named = f"Name one with --partition; there are {known}."
        raise UsageError(said, hint=named if known else "See what there is: scontrol show partition")
    if chosen[0].name == classes.partition:
        raise UsageError(
            f"{name} is the partition of the preemptible jobs themselves",
            hint="Name the one whose jobs the spares are for with --partition.",
        )
    return chosen[0]


def set_up(pool: Pool, classes: Classes, partition: Partition, spares: int) -> Plan:
    """Everything between the cluster as it is and `spares` nodes that only preemptible jobs may use.

    Raises UsageError where so many cannot be, RefusedError where a QOS of the site stands in the way.
    """
    _check(pool, classes, partition, spares)
    changes = [*_class_changes(pool, classes), *_limit_changes(pool, classes, partition, spares)]
    return Plan(tuple(change for change in changes if change.before != change.after), _tighter(pool, partition, spares))


def _check(pool: Pool, classes: Classes, partition: Partition, spares: int) -> None:
    if not 0 < spares < len(partition.nodes):
        raise UsageError(
            f"{partition.name} has {len(partition.nodes)} nodes; {spares} of them cannot be spares",
            hint=f"1 to {len(partition.nodes) - 1} can; `sovctl spare advise` says how many are enough.",
        )
    shared = [item.name for item in pool.partitions.values() if partition.qos and item.qos == partition.qos]
    if len(shared) > 1:
        raise RefusedError(
            f"the QOS {partition.qos} limits the partitions {', '.join(sorted(shared))} together",
            hint=f"Give {partition.name} a QOS of its own in slurm.conf.",
        )
    if partition.allow_qos is not None and classes.preemptible in partition.allow_qos:
        raise RefusedError(
            f"AllowQos of {partition.name} names {classes.preemptible}, whose jobs would count against its limit",
            hint=f"Take {classes.preemptible} out of that list in slurm.conf.",
        )


def _class_changes(pool: Pool, classes: Classes) -> list[Change]:
    changes = [_change(pool, Setting("qos", name, _EXISTS), _YES) for name in classes.all]
    if not _ordered(pool, classes):
        for rank, name in enumerate(reversed(classes.all)):
            changes.append(_change(pool, Setting("qos", name, "Priority"), str(rank * _PRIORITY_STEP)))
    changes.append(_change(pool, Setting("qos", classes.preemptible, "GraceTime"), str(classes.grace_s)))
    changes.append(_change(pool, Setting("qos", classes.preemptible, "PreemptMode"), "requeue"))
    for index, name in enumerate(classes.above):
        below = classes.all[index + 1 :] if classes.preempt_lower else (classes.preemptible,)
        changes += [_change(pool, Setting("qos", name, "Preempt", other), _YES) for other in below]
    return changes + [_change(pool, Setting("account", "root", "QOS", name), _YES) for name in classes.all]


def _ordered(pool: Pool, classes: Classes) -> bool:
    """Whether the site has them in this order already; its own numbers then stay."""
    known = [pool.qos[name].priority for name in classes.all if name in pool.qos]
    return len(known) == len(classes.all) and all(a > b for a, b in pairwise(known))


def _limit_changes(pool: Pool, classes: Classes, partition: Partition, spares: int) -> list[Change]:
    name, scope = limit_qos(partition), partition.name
    wanted = len(partition.nodes) - spares
    limit = min(_site_limit(pool, partition) or wanted, wanted)
    changes = [
        _change(pool, Setting("qos", name, _EXISTS), _YES, scope),
        _change(pool, Setting("qos", name, _NODE_LIMIT), str(limit), scope),
        _change(pool, Setting("partition", classes.partition, "AllowQos"), classes.preemptible),
    ]
    if partition.allow_qos is None:
        changes.append(_change(pool, Setting("partition", scope, "DenyQos", classes.preemptible), _YES, scope))
    return [*changes, _change(pool, Setting("partition", scope, "QOS"), name, scope)]


def _site_limit(pool: Pool, partition: Partition) -> int | None:
    """A limit on a QOS of the site is the site's; ours is only on a QOS of our name."""
    found = pool.qos.get(partition.qos)
    return None if found is None or found.name == f"sovctl-spare-{partition.name}" else found.node_limit


def _tighter(pool: Pool, partition: Partition, spares: int) -> tuple[str, ...]:
    limit = _site_limit(pool, partition)
    if limit is None or limit >= len(partition.nodes) - spares:
        return ()
    return (f"the site's own limit of {limit} nodes on QOS {partition.qos} is tighter and stays",)


def _change(pool: Pool, setting: Setting, after: str, scope: str = "") -> Change:
    return Change(setting, current(pool, setting), after, scope)


# What is there


def current(pool: Pool, setting: Setting) -> str:
    """The value now, as Change has it."""
    if setting.what == "account":
        return _yes(setting.item in pool.open_qos)
    if setting.what == "partition":
        return _of_partition(pool, setting)
    found = pool.qos.get(setting.name)
    if setting.key == _EXISTS:
        return _yes(found is not None)
    if setting.key == "Preempt":
        return _yes(found is not None and setting.item in found.preempts)
    if found is None:
        return _FRESH[setting.key]
    limit = "" if found.node_limit is None else str(found.node_limit)
    return {
        "Priority": str(found.priority),
        "GraceTime": str(found.grace_s),
        "PreemptMode": found.preempt_mode,
        _NODE_LIMIT: limit,
    }[setting.key]


_FRESH = {"Priority": "0", "GraceTime": "0", "PreemptMode": "cluster", _NODE_LIMIT: ""}
"""What sacctmgr gives a new QOS."""


def _of_partition(pool: Pool, setting: Setting) -> str:
    found = pool.partitions.get(setting.name, Partition(setting.name))
    if setting.key == "QOS":
        return found.qos
    if setting.key == "DenyQos":
        return _yes(setting.item in found.deny_qos)
    return "ALL" if found.allow_qos is None else ",".join(sorted(found.allow_qos))


def _yes(true: bool) -> str:
    return _YES if true else _NO


# The commands


def command(change: Change, pool: Pool) -> tuple[str, ...]:
    """The literal command that makes a change."""
    setting, after = change.setting, change.after
    if setting.what == "partition":
        return ("scontrol", "update", f"PartitionName={setting.name}", _partition_word(change, pool))
    if setting.what == "account":
        sign = "+" if after == _YES else "-"
        where = (f"cluster={pool.cluster}",) if pool.cluster else ()
        return ("sacctmgr", "-i", "modify", "account", setting.name, *where, "set", f"qos{sign}={setting.item}")
    if setting.key == _EXISTS:
        return ("sacctmgr", "-i", "add" if after == _YES else "delete", "qos", setting.name)
    if setting.key == "Preempt":
        word = f"Preempt{'+' if after == _YES else '-'}={setting.item}"
    else:
        # -1 clears a limit (sacctmgr(1)).
        word = f"{setting.key}={after or '-1'}"
    return ("sacctmgr", "-i", "modify", "qos", setting.name, "set", word)


def _partition_word(change: Change, pool: Pool) -> str:
    setting = change.setting
    if setting.key != "DenyQos":
        return f"{setting.key}={change.after}"
    # scontrol replaces the whole list.
    there = pool.partitions.get(setting.name, Partition(setting.name)).deny_qos
    denied = there | {setting.item} if change.after == _YES else there - {setting.item}
    return f"DenyQos={','.join(sorted(denied))}"


# Undoing


@dataclass(frozen=True, slots=True)
class Obstacles:
    """What keeps a QOS from being deleted."""

    jobs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Active jobs by QOS: without it they could never start."""
    in_conf: Collection[str] = ()
    """QOS whose name is in slurm.conf, or might be: slurmctld does not start when a partition names one that is not
    there (read_config.c, 22.05)."""


def set_before(events: Sequence[Mapping[str, Any]]) -> dict[Setting, Kept]:
    """What was set and has not been undone, from the journal, oldest first."""
    kept: dict[Setting, Kept] = {}
    intents: dict[Any, list[Change]] = {}
    for event in events:
        if event.get("kind") == "spare-intended":
            intents[event.get("seq")] = changes = _read_changes(event)
            for change in changes:
                first = kept.get(change.setting, Kept(change.before, frozenset(), change.scope))
                kept[change.setting] = Kept(first.original, first.ours | {change.after}, first.scope)
        elif event.get("kind") == "spare-done":
            for change in intents.get(event.get("intent"), ()):
                if change.setting in kept and change.after == kept[change.setting].original:
                    _forget(kept, change.setting)
    return kept


def _forget(kept: dict[Setting, Kept], setting: Setting) -> None:
    """It is as it was; with a QOS that was deleted goes what was set on it."""
    del kept[setting]
    if setting.key == _EXISTS:
        for other in [key for key in kept if key.what == "qos" and key.name == setting.name]:
            del kept[other]


def change_record(change: Change) -> dict[str, str]:
    """A change as the journal has it."""
    setting = change.setting
    return {
        "what": setting.what,
        "name": setting.name,
        "key": setting.key,
        "item": setting.item,
        "before": change.before,
        "after": change.after,
        "scope": change.scope,
    }


def _read_changes(event: Mapping[str, Any]) -> list[Change]:
    found = event.get("changes")
    records = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    changes = []
    for record in records:
        fields = ("what", "name", "key", "item", "before", "after", "scope")
        what, name, key, item, before, after, scope = (str(record.get(word, "")) for word in fields)
        changes.append(Change(Setting(what, name, key, item), before, after, scope))
    return changes


def undo(pool: Pool, kept: Mapping[Setting, Kept], partition: str, obstacles: Obstacles) -> Plan:
    """Everything back to what it was before the first `set`, in the opposite order.

    What others have changed since stays theirs; what another partition with spares needs stays too.
    """
    others = {item.scope for item in kept.values()} - {"", partition}
    mine = [(key, item) for key, item in kept.items() if item.scope == partition or (not item.scope and not others)]
    busy = {name for name, jobs in obstacles.jobs.items() if jobs and _deleted(kept, name)}
    pinned = {name for name in obstacles.in_conf if _deleted(kept, name)} - busy
    gone = {name for name in {key.name for key, _ in mine} if _deleted(kept, name)} - busy - pinned
    changes, left = [], []
    for setting, item in reversed(mine):
        if _stays(setting, item, busy, pinned) or (
            setting.what == "qos" and setting.key != _EXISTS and setting.name in gone
        ):
            # What is set on a QOS goes with it.
            continue
        change = Change(setting, current(pool, setting), item.original, item.scope)
        if change.before == change.after:
            continue
        if change.before not in item.ours:
            left.append(f"{words(setting)} is {change.before or 'not set'} by somebody else's hand and stays so")
            continue
        changes.append(change)
    named = {setting.item or setting.name for setting, _ in mine}
    left += [_busy_words(name, obstacles.jobs[name]) for name in sorted(busy & named)]
    left += [
        f"QOS {name} stays, without a limit, as long as slurm.conf names it or cannot be read here"
        for name in sorted(pinned & named)
    ]
    return Plan(tuple(changes), tuple(left), wait=bool((busy | pinned) & named))


def _stays(setting: Setting, item: Kept, busy: Collection[str], pinned: Collection[str]) -> bool:
    """Whether a QOS that cannot go yet needs this."""
    if setting.what == "partition":
        return setting.item in busy or (setting.key == "AllowQos" and bool(item.ours & set(busy)))
    return setting.item in busy or setting.name in busy or (setting.key == _EXISTS and setting.name in pinned)


def _deleted(kept: Mapping[Setting, Kept], name: str) -> bool:
    """Whether a QOS goes because it was made by us."""
    item = kept.get(Setting("qos", name, _EXISTS))
    return item is not None and item.original == _NO


def _busy_words(name: str, jobs: Sequence[str]) -> str:
    shown = ", ".join(jobs[:5]) + (f" and {len(jobs) - 5} more" if len(jobs) > 5 else "")
    return f"QOS {name} stays while jobs use it: {shown}"


def words(setting: Setting) -> str:
    """A setting for people."""
    if setting.what == "account":
        return f"QOS {setting.item} of account {setting.name}"
    if setting.key == _EXISTS:
        return f"QOS {setting.name}"
    kind = "QOS" if setting.what == "qos" else "partition"
    return f"{setting.key}{f' {setting.item}' if setting.item else ''} of {kind} {setting.name}"
