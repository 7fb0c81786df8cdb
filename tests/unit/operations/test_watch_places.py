"""A run that lost its nodes is first among the waiting, and gets its place back where another job took it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from pool_fake import FakePool, idle, ready_pool
from test_watch_cluster import suspicion
from watch_fakes import Watched

from sovctl.errors import CommandFailed
from sovctl.model.node import NodeState
from sovctl.model.pool import PoolJob, Qos
from sovctl.model.verdict import VerdictState
from sovctl.recovery.pool_place import BLOCKED

RAISED = ("sacctmgr", "-i", "modify", "qos", "limit", "set", "GrpTRES=node=5")
RESTORED = ("sacctmgr", "-i", "modify", "qos", "limit", "set", "GrpTRES=node=4")


class Pooled(Watched):
    """Six nodes, two of them spares; run 7 had four, lost n002, and job 8 took n003 meanwhile."""

    def __init__(self, *, loses: bool = True, **named: Any) -> None:
        state = ready_pool(6)
        main = replace(state.partitions["main"], qos="limit")
        state = replace(
            state,
            qos={"limit": Qos("limit", node_limit=4)},
            partitions={**state.partitions, "main": main},
        )
        views = [idle(name) for name in main.nodes]
        views[1] = replace(views[1], state=NodeState("IDLE", frozenset({"DRAIN"})))
        self.slurm = FakePool(state, views, [PoolJob("8", "RUNNING", ("n003",), ("main",), "normal")])
        self.kept_spares = {"main": 2}
        super().__init__(**named)
        self.site.runs("7", "n001", "n002", "n003", "n004")
        self.passes(2)
        if loses:
            self.site.machines["n002"] = replace(self.site.machines["n002"], state=views[1].state)
        self.wait_at_limit()

    def start(self) -> None:
        super().start()
        self.watch._places.pool = self.slurm
        self.watch._places.spares = lambda: self.kept_spares

    def wait_at_limit(self) -> None:
        self.site.waits("7", reason=BLOCKED)
        record = self.site.records["7"]
        extra = {**record.extra, "Partition": "main", "NumNodes": "4-4"}
        self.site.records["7"] = replace(record, extra=extra, excluded=("n002",))

    @property
    def limit(self) -> int | None:
        return self.slurm.pool().qos["limit"].node_limit


def test_the_limit_is_raised_until_the_run_has_started_and_no_longer() -> None:
    site = Pooled()
    site.passes(10)
    assert site.slurm.applied == [RAISED]
    assert site.site.did == [("first", "7"), ("first", "7")]
    assert site.kinds == ["first-intended", "first-done", "room-intended", "room-made"]
    site.site.runs("7", "n001", "n004", "n005", "n006")
    site.passes(10)
    assert site.slurm.applied == [RAISED, RESTORED]
    assert site.kinds[-1] == "room-restored"
    site.passes(60)
    assert len(site.slurm.applied) == 2


def test_observing_changes_nothing_and_says_the_command() -> None:
    site = Pooled(act=False)
    site.passes(10)
    assert (site.slurm.applied, site.site.did) == ([], [])
    assert any("sacctmgr -i modify qos limit set GrpTRES=node=5" in words for words in site.said)


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("no spares were set", ""),
        ("too large for the limit alone", "it asks for 4 nodes, 3 are allowed"),
        ("no nodes are left", "other jobs hold 2 of 5 nodes in service, it needs 4"),
        ("nobody is there", "enough are allowed"),
        ("no limit", "nothing caps the nodes of partition main"),
    ],
)
def test_a_limit_is_raised_for_nothing_else(why: str, words: str) -> None:
    site = Pooled()
    if why == "no spares were set":
        site.kept_spares = {}
    elif why == "too large for the limit alone":
        site.slurm.state = replace(site.slurm.state, qos={"limit": Qos("limit", node_limit=3)})
    elif why == "no nodes are left":
        site.slurm.jobs[0] = replace(site.slurm.jobs[0], nodes=("n003", "n004"))
    elif why == "nobody is there":
        site.slurm.jobs.clear()
    else:
        site.slurm.state = replace(site.slurm.state, qos={"limit": Qos("limit")})
    site.passes(20)
    assert site.slurm.applied == []
    assert "room-intended" not in site.kinds
    assert any(words in said for said in site.said) or not words


def test_what_somebody_else_set_meanwhile_stays() -> None:
    site = Pooled()
    site.passes(10)
    site.slurm.apply(["sacctmgr", "-i", "modify", "qos", "limit", "set", "GrpTRES=node=6"])
    site.site.runs("7", "n001", "n004", "n005", "n006")
    site.passes(10)
    assert site.limit == 6
    assert site.kinds[-1] == "room-restored"


def test_a_slurmdbd_that_refuses_is_asked_again() -> None:
    site = Pooled()
    site.slurm.fails_at = 0
    site.passes(4)
    assert any("the disk is full" in words for words in site.said)
    site.slurm.fails_at = None
    site.passes(4)
    assert site.slurm.applied == [RAISED]
    site.site.runs("7", "n001", "n004", "n005", "n006")
    site.passes(10)
    assert (site.limit, site.kinds[-1]) == (4, "room-restored")


def test_killed_before_any_effect_the_limit_is_as_it_was_in_the_end() -> None:
    moment, killed = 0, True
    while killed:
        moment += 1
        site = Pooled()
        killed = _live(site, moment)
        assert site.limit == 4, (moment, site.kinds)
        assert len(site.of("room-restored")) == bool(site.of("room-intended")), (moment, site.kinds)
    assert moment > 6


def test_with_one_effect_a_life_the_limit_is_raised_once_and_restored_once() -> None:
    site = Pooled()
    for _ in range(30):
        mortal(site, 2)
        with suppress(Killed):
            site.passes(20)
        if site.of("room-made") or (site.limit == 5 and site.site.did.count(("first", "7")) > 1):
            site.site.runs("7", "n001", "n004", "n005", "n006")
        site.start()
        if site.of("room-restored"):
            break
    assert (site.limit, site.slurm.applied) == (4, [RAISED, RESTORED]), site.kinds
    assert [len(site.of(kind)) for kind in ("first-intended", "first-done", "room-intended")] == [1, 1, 1]


class Killed(BaseException):
    """SIGKILL."""


def mortal(site: Pooled, moment: int) -> None:
    """The watch is killed before its `moment`-th effect from here."""
    left, apply = [moment], type(site.slurm).apply

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def applied(argv: Any) -> None:
        count()
        apply(site.slurm, argv)

    site.site.effect = site.journal.effect = count
    site.slurm.apply = applied  # type: ignore[method-assign]


def _live(site: Pooled, moment: int) -> bool:
    mortal(site, moment)
    killed = False
    for started in (False, True, True):
        if started and site.site.records["7"].pending:
            site.site.runs("7", "n001", "n004", "n005", "n006")
        try:
            site.passes(20)
        except Killed:
            killed = True
            site.start()
    return killed


def test_a_refused_priority_is_no_obstacle() -> None:
    site = Pooled()
    calls: list[str] = []

    def refuse(job_id: str) -> None:
        calls.append(job_id)
        raise CommandFailed(["scontrol"], 1, "Access denied")

    site.site.put_first = refuse  # type: ignore[method-assign]
    site.passes(3)
    assert "first-failed" in site.kinds
    assert site.slurm.applied == [RAISED]


# Who gets it


def asks_for(site: Pooled, nodes: str) -> None:
    """By its owner, while it waits."""
    job = site.site.records["7"]
    site.site.records["7"] = replace(job, extra={**job.extra, "NumNodes": nodes})


def own_words(site: Pooled) -> list[str]:
    return [words for words in site.said if "waits for its turn" in words]


def test_a_run_that_its_user_requeued_waits_for_its_turn_and_this_is_told_once() -> None:
    site = Pooled(loses=False)
    site.passes(100)
    assert (site.site.did, site.slurm.applied) == ([], [])
    assert own_words(site) == ["run 7 waits for its turn: none of the nodes it held went out of service"]


@pytest.mark.parametrize("nodes", ["5", "5-5", "2-6"])
def test_a_run_that_asks_for_more_than_it_held_waits_for_its_turn(nodes: str) -> None:
    site = Pooled()
    asks_for(site, nodes)
    site.slurm.state = replace(site.slurm.state, qos={"limit": Qos("limit", node_limit=5)})
    site.passes(100)
    assert (site.site.did, site.slurm.applied) == ([], [])
    assert own_words(site) == [f"run 7 waits for its turn: it asks for up to {nodes[-1]} nodes, and held 4"]
    asks_for(site, "4")
    site.site.changes += 1
    site.passes(12)
    assert ("first", "7") in site.site.did


def test_room_is_taken_back_from_a_run_that_asks_for_more_meanwhile() -> None:
    site = Pooled()
    site.passes(4)
    assert site.limit == 5
    asks_for(site, "6")
    site.passes(20)
    assert (site.limit, site.slurm.applied) == (4, [RAISED, RESTORED])
    assert site.kinds[-1] == "room-restored"
    assert not any("has its place again" in words for words in site.said)


def test_a_run_is_put_first_when_the_node_it_suspected_is_found_failed_though_nobody_drains_it() -> None:
    site = Pooled(loses=False, drains=False)
    site.passes(4)
    assert site.site.did == []
    site.verdicts["n002"] = VerdictState.FAILED
    site.words["7"] = [suspicion("n002", at=site.clock.time)]
    site.passes(15)
    assert site.site.did[0] == ("first", "7")
    assert site.limit == 5


def test_what_a_run_held_and_lost_outlives_the_watch() -> None:
    site = Pooled(loses=False)
    site.start()
    site.passes(2)
    assert site.site.did == []
    site.site.machines["n002"] = replace(site.site.machines["n002"], state=NodeState("DOWN"))
    site.site.changes += 1
    site.site.put_first = lambda _job_id: site.site._change("first")  # type: ignore[method-assign]
    site.passes(12)
    assert site.site.did[0] == ("first",)
    site.site.machines["n002"] = replace(site.site.machines["n002"], state=NodeState("IDLE"))
    site.site.changes += 1
    site.passes(12)
    site.site.did.clear()
    site.start()
    site.passes(2)
    assert ("first",) in site.site.did, "the node is back, and the run still waits for what it lost"


def test_a_run_has_the_nodes_of_its_last_execution_and_all_of_them() -> None:
    site = Pooled(loses=False)
    site.passes(1)
    site.site.runs("7", "n001", "n003")
    site.passes(2)
    site.site.runs("7", "n001")
    site.passes(2)
    assert site.watch._runs.last.record() == {"held": {"7": ["n001", "n003"]}, "lost": {}}
    site.wait_at_limit()
    site.passes(40)
    assert "first-intended" not in site.kinds
