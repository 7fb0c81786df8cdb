"""What a spare pool needs, what it changes, and how it is undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_fake import FakePool, idle, ready_pool

from sovctl.errors import RefusedError, UsageError
from sovctl.model.node import NodeState
from sovctl.model.pool import Change, Partition, Pool, PoolJob, Qos, Setting
from sovctl.recovery.spare_status import NodeWord, SpareStatus, spare_status
from sovctl.recovery.spares import (
    Classes,
    Obstacles,
    Plan,
    change_record,
    choose_partition,
    command,
    needs,
    set_before,
    set_up,
    undo,
)

CLASSES = Classes()


class Site:
    """A cluster and its journal; applies plans as the operation does."""

    def __init__(self, pool: Pool) -> None:
        self.fake = FakePool(pool)
        self.events: list[dict[str, Any]] = []

    @property
    def pool(self) -> Pool:
        return self.fake.state

    def apply(self, plan: Plan, stop_after: int | None = None) -> list[str]:
        """Returns the commands. `stop_after`: killed after so many, before it could write that it is done."""
        intent = len(self.events) + 1
        records = [change_record(change) for change in plan.changes]
        self.events.append({"seq": intent, "kind": "spare-intended", "changes": records})
        argvs = [command(change, self.pool) for change in plan.changes]
        for argv in argvs[:stop_after]:
            self.fake.apply(argv)
        if stop_after is None:
            self.events.append({"seq": intent + 1, "kind": "spare-done", "intent": intent})
        return [" ".join(argv) for argv in argvs]

    def set(
        self, spares: int, partition: str = "main", classes: Classes = CLASSES, stop_after: int | None = None
    ) -> Plan:
        plan = set_up(self.pool, classes, self.pool.partitions[partition], spares)
        self.apply(plan, stop_after)
        return plan

    def undo(self, partition: str = "main", obstacles: Obstacles | None = None) -> Plan:
        plan = undo(self.pool, set_before(self.events), partition, obstacles or Obstacles())
        self.apply(plan)
        return plan


QOS_NAMES = ("normal", "high", "preemptible", "debug")


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Sites with QOS, limits and lists of their own."""
    names = draw(st.sets(st.sampled_from(QOS_NAMES)))
    qos = {
        name: Qos(
            name,
            draw(st.sampled_from((0, 5, 5000))),
            draw(st.sampled_from((0, 30))),
            frozenset(draw(st.sets(st.sampled_from(sorted(names - {name}))))) if names - {name} else frozenset(),
            draw(st.sampled_from(("cluster", "cancel", "requeue"))),
        )
        for name in sorted(names)
    }
    own = draw(st.sampled_from(("", "site")))
    if own:
        qos[own] = Qos(own, node_limit=draw(st.sampled_from((None, 1, 5))))
    base = ready_pool()
    denied = frozenset(draw(st.sets(st.sampled_from(("debug", "preemptible")))))
    main = replace(base.partitions["main"], qos=own, deny_qos=denied)
    return replace(
        base,
        qos=qos,
        open_qos=frozenset(draw(st.sets(st.sampled_from(sorted(names))))) if names else frozenset(),
        partitions={**base.partitions, "main": main},
    )


@settings(max_examples=30)
@given(pools(), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans())
def test_whatever_was_set_is_undone_exactly(pool: Pool, counts: list[int], lower: bool) -> None:
    site = Site(pool)
    classes = replace(CLASSES, preempt_lower=lower)
    for spares in counts:
        site.set(spares, classes=classes)
        assert set_up(site.pool, classes, site.pool.partitions["main"], spares).changes == ()
        partition = site.pool.partitions["main"]
        limit = site.pool.qos[partition.qos].node_limit
        assert limit is not None and limit <= len(partition.nodes) - spares
    plan = site.undo()
    assert (plan.left, plan.wait) == ((), False)
    assert site.pool == pool
    assert set_before(site.events) == {} or site.undo().changes == ()


@settings(max_examples=30)
@given(pools(), st.integers(1, 5), st.integers(0, 20))
def test_a_set_that_was_killed_half_way_goes_on_or_is_undone(pool: Pool, spares: int, after: int) -> None:
    for go_on in (True, False):
        site = Site(pool)
        site.set(spares, stop_after=after)
        if go_on:
            site.set(spares)
            assert set_up(site.pool, CLASSES, site.pool.partitions["main"], spares).changes == ()
        site.undo()
        assert site.pool == pool


def test_the_limit_belongs_to_the_partition_and_no_node_is_named() -> None:
    site = Site(ready_pool())
    lines = site.apply(set_up(site.pool, CLASSES, site.pool.partitions["main"], 2))
    assert "sacctmgr -i modify qos sovctl-spare-main set GrpTRES=node=4" in lines
    assert lines[-3:] == [
        "scontrol update PartitionName=preemptible AllowQos=preemptible",
        "scontrol update PartitionName=main DenyQos=preemptible",
        "scontrol update PartitionName=main QOS=sovctl-spare-main",
    ]
    assert not [line for line in lines if "n00" in line]


def test_a_class_takes_nodes_from_preemptible_jobs_only_unless_the_site_wants_more() -> None:
    def preempts(lower: bool) -> dict[str, frozenset[str]]:
        site = Site(ready_pool())
        site.set(1, classes=replace(CLASSES, preempt_lower=lower))
        return {name: site.pool.qos[name].preempts for name in CLASSES.all}

    low = frozenset({"preemptible"})
    assert preempts(False) == {"high": low, "normal": low, "preemptible": frozenset()}
    assert preempts(True) == {"high": low | {"normal"}, "normal": low, "preemptible": frozenset()}


def test_priorities_in_the_wanted_order_are_the_site_s_own() -> None:
    pool = replace(
        ready_pool(), qos={"normal": Qos("normal", 20), "high": Qos("high", 70), "preemptible": Qos("preemptible", 3)}
    )
    keys = {change.setting.key for change in set_up(pool, CLASSES, pool.partitions["main"], 1).changes}
    assert "Priority" not in keys


def test_a_tighter_limit_of_the_site_stays_and_is_told() -> None:
    pool = ready_pool()
    main = replace(pool.partitions["main"], qos="site")
    pool = replace(
        pool, qos={**pool.qos, "site": Qos("site", node_limit=3)}, partitions={**pool.partitions, "main": main}
    )
    site = Site(pool)
    assert "tighter" in site.set(2).left[0]
    assert site.pool.qos["site"].node_limit == 3
    assert site.set(4).left == ()
    assert site.pool.qos["site"].node_limit == 2
    site.undo()
    assert site.pool == pool


def test_what_others_changed_since_stays_theirs() -> None:
    site = Site(ready_pool())
    site.set(2)
    site.fake.apply(("sacctmgr", "-i", "modify", "qos", "normal", "set", "Priority=42"))
    plan = site.undo()
    assert plan.left == ("Priority of QOS normal is 42 by somebody else's hand and stays so",)
    assert site.pool.qos == {"normal": Qos("normal", 42)}


def test_two_partitions_share_the_classes_until_the_last_one_is_undone() -> None:
    pool = ready_pool()
    names = pool.partitions["main"].nodes
    pool = replace(pool, partitions={**pool.partitions, "long": Partition("long", names[:4])})
    site = Site(pool)
    site.set(2)
    site.set(1, "long")
    site.undo("main")
    assert (site.pool.partitions["main"], "preemptible" in site.pool.qos) == (pool.partitions["main"], True)
    assert site.pool.qos["sovctl-spare-long"].node_limit == 3
    site.undo("long")
    assert site.pool == pool


def test_a_qos_with_jobs_stays_and_the_limit_goes_at_once() -> None:
    site = Site(ready_pool())
    site.set(2)
    plan = site.undo(obstacles=Obstacles({"preemptible": ["7", "9"], "normal": ["1"]}))
    assert plan.wait
    assert plan.left == ("QOS preemptible stays while jobs use it: 7, 9",)
    assert site.pool.partitions["main"].qos == ""
    assert site.pool.qos["preemptible"].grace_s == 120
    assert "preemptible" in site.pool.open_qos & site.pool.qos["normal"].preempts
    site.undo()
    assert site.pool == ready_pool()


def test_a_qos_that_slurm_conf_names_stays_without_a_limit() -> None:
    """slurmctld does not start when a partition names a QOS that is not there."""
    site = Site(ready_pool())
    site.set(2)
    plan = site.undo(obstacles=Obstacles(in_conf={"sovctl-spare-main"}))
    assert plan.wait
    assert "slurm.conf" in plan.left[0]
    assert site.pool.qos["sovctl-spare-main"] == Qos("sovctl-spare-main")
    site.undo()
    assert site.pool == ready_pool()


def test_a_journal_of_nonsense_undoes_nothing() -> None:
    events: list[dict[str, Any]] = [
        {},
        {"kind": "spare-intended", "changes": "x"},
        {"kind": "spare-done", "intent": []},
    ]
    events[2]["intent"] = 3
    assert set_before(events) == {}


def _lacking(**changes: str) -> list[str]:
    pool = ready_pool()
    pool = replace(pool, settings={**pool.settings, **changes})
    return [need.line for need in needs(pool, CLASSES, pool.partitions["main"])]


def test_a_ready_cluster_needs_nothing() -> None:
    assert _lacking() == []


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("AccountingStorageType", "accounting_storage/none", "AccountingStorageType=accounting_storage/slurmdbd"),
        ("AccountingStorageEnforce", "none", "AccountingStorageEnforce=associations,limits,qos"),
        ("AccountingStorageEnforce", "safe,limits", "AccountingStorageEnforce=safe,limits,associations,qos"),
        ("PreemptType", "preempt/none", "PreemptType=preempt/qos"),
        ("PreemptMode", "OFF", "PreemptMode=REQUEUE"),
        ("PriorityWeightQOS", "0", "PriorityWeightQOS=10000"),
    ],
)
def test_each_line_that_slurm_conf_lacks_is_told(key: str, value: str, line: str) -> None:
    assert _lacking(**{key: value}) == [line]


@pytest.mark.parametrize(
    ("own", "line"),
    [
        (None, "PartitionName=preemptible Nodes=ALL"),
        (Partition("preemptible", ("n001",), priority_tier=0), "PartitionName=preemptible Nodes=ALL"),
        (
            Partition("preemptible", ready_pool().partitions["main"].nodes, priority_tier=1),
            "PartitionName=preemptible ... P",
        ),
    ],
)
def test_preemptible_jobs_need_a_partition_over_all_nodes_behind_the_other(own: Partition | None, line: str) -> None:
    pool = ready_pool()
    partitions = {"main": pool.partitions["main"]} | ({"preemptible": own} if own else {})
    found = needs(replace(pool, partitions=partitions), CLASSES, pool.partitions["main"])
    assert [need.line.startswith(line) and need.blocking for need in found] == [True]


@pytest.mark.parametrize("spares", [0, 6, 7, -1])
def test_spares_are_some_of_the_nodes(spares: int) -> None:
    pool = ready_pool()
    with pytest.raises(UsageError, match="cannot be spares"):
        set_up(pool, CLASSES, pool.partitions["main"], spares)


def test_partitions_that_cannot_have_spares_are_refused() -> None:
    pool = ready_pool()
    with pytest.raises(UsageError, match="preemptible jobs themselves"):
        choose_partition(pool, CLASSES, "preemptible")
    with pytest.raises(UsageError, match="no partition nowhere"):
        choose_partition(pool, CLASSES, "nowhere")
    assert choose_partition(pool, CLASSES, "").name == "main"
    allowing = replace(pool.partitions["main"], allow_qos=frozenset({"preemptible"}))
    with pytest.raises(RefusedError, match="AllowQos"):
        set_up(pool, CLASSES, allowing, 1)
    shared = {name: replace(item, qos="both") for name, item in pool.partitions.items()}
    with pytest.raises(RefusedError, match="together"):
        set_up(replace(pool, partitions=shared), CLASSES, shared["main"], 1)


# How they are


def _status(
    jobs: Sequence[PoolJob] = (),
    out: Sequence[str] = (),
    words: dict[str, NodeWord] | None = None,
    wanted: int | None = 2,
) -> SpareStatus:
    site = Site(ready_pool())
    site.set(2)
    views = [
        replace(idle(name), state=NodeState("IDLE", frozenset({"DRAIN"}))) if name in out else idle(name)
        for name in site.pool.partitions["main"].nodes
    ]
    return spare_status(site.pool, CLASSES, site.pool.partitions["main"], views, jobs, wanted, words or {})


TRAINING = PoolJob("1", "RUNNING", ("n001", "n002", "n003", "n004"), ("main",), "normal")
FILLER = PoolJob("2", "RUNNING", ("n005",), ("preemptible",), "preemptible", user="ada")


def test_spares_are_idle_nodes_and_those_of_preemptible_jobs_soonest_first() -> None:
    status = _status([TRAINING, FILLER])
    assert [(node.name, node.free_in_s, node.jobs, node.users) for node in status.pool] == [
        ("n006", 0.0, (), ()),
        ("n005", 150.0, ("2",), ("ada",)),
    ]
    assert (status.left, status.held, status.limit, status.short, status.problems) == (2, 4, 4, False, ())


def test_each_node_out_of_service_is_a_spare_less() -> None:
    assert [_status([TRAINING], out).left for out in ((), ("n005",), ("n005", "n001"), ("n005", "n001", "n002"))] == [
        2,
        1,
        0,
        0,
    ]


def test_a_spare_known_to_be_bad_is_none_and_comes_last() -> None:
    for word in (NodeWord("failed"), NodeWord("healthy", tested="failed")):
        status = _status([TRAINING, FILLER], words={"n006": word})
        assert (status.left, status.short, status.pool[-1].name) == (1, True, "n006")


def test_what_is_wrong_with_the_pool_is_told() -> None:
    pool = ready_pool()
    bare = spare_status(pool, CLASSES, pool.partitions["main"], [], [], 2, {})
    assert "nothing limits main" in bare.problems[0]
    big = replace(TRAINING, nodes=(*TRAINING.nodes, "n005"))
    assert "hold 5 nodes, 4 are allowed" in _status([big]).problems[0]
    assert "outside partition preemptible" in _status([replace(FILLER, partitions=("main",))]).problems[0]
    assert "leaves 2 of 3 spares" in _status(wanted=3).problems[0]
    assert _status(wanted=None).wanted == 2


def test_the_words_of_a_change_are_one_command() -> None:
    pool = ready_pool()
    change = Change(Setting("qos", "site", "GrpTRES=node"), "4", "")
    assert command(change, pool)[-1] == "GrpTRES=node=-1"
    denied = replace(pool.partitions["main"], deny_qos=frozenset({"debug"}))
    both = replace(pool, partitions={"main": denied})
    change = Change(Setting("partition", "main", "DenyQos", "preemptible"), "no", "yes")
    assert command(change, both)[-1] == "DenyQos=debug,preemptible"
