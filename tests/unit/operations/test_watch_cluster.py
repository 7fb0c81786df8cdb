"""The watch on the controller, pass by pass, on a site in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from run_fakes import FakeClock

from sovctl.errors import SlurmUnreachable, SovctlError
from sovctl.model.job import JobView
from sovctl.model.node import NodeState, NodeView
from sovctl.operations.watch_cluster import ClusterWatch, WatchPorts, WatchSettings

RUN = "#!/bin/bash\nexec '/venv/bin/python' -P -m sovctl supervise --submitted 1 -- 3<<'X'\n"


class FakeSite:
    """Slurm as the watch sees it; commands are recorded and do what they say."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.machines = {name: NodeView(name, NodeState("ALLOCATED")) for name in ("n001", "n002", "n003")}
        self.records: dict[str, JobView] = {}
        self.scripts: dict[str, str] = {}
        self.did: list[tuple[Any, ...]] = []
        self.away = False

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        if self.away:
            raise SlurmUnreachable
        return tuple(self.machines.values())

    def jobs(self) -> tuple[JobView, ...]:
        return tuple(self.records.values())

    def job(self, job_id: str) -> JobView:
        return self.records[job_id]

    def batch_script(self, job_id: str) -> str:
        return self.scripts.get(job_id, "#!/bin/sh\n")

    def set_down(self, node: str, reason: str) -> None:
        self.did.append(("down", node))
        self.machines[node] = replace(self.machines[node], state=NodeState("DOWN"), reason=reason)

    def update_pending(self, job_id: str, *, exclude: Sequence[str] | None, begin: int | None) -> None:
        assert exclude is not None
        if begin is None:
            self.did.append(("pass", job_id, tuple(exclude)))
            return
        self.did.append(("terms", job_id, tuple(exclude), begin - int(self.clock.now())))
        self.records[job_id] = replace(self.records[job_id], excluded=tuple(exclude), eligible_at=begin)

    def runs(self, job_id: str, *nodes: str) -> None:
        self.records[job_id] = JobView(job_id, "", "", 1000, "RUNNING", nodes=nodes, batch_host=nodes[0])
        self.scripts[job_id] = RUN

    def requeued(self, job_id: str, *, wait_s: int = 121) -> None:
        self.records[job_id] = replace(
            self.records[job_id],
            state="PENDING",
            reason="BeginTime",
            nodes=(),
            restarts=1,
            priority=1,
            eligible_at=int(self.clock.now()) + wait_s,
        )


class Ping:
    def __init__(self) -> None:
        self.gone: set[str] = set()

    def silent(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        return frozenset(node.name for node in nodes if node.name in self.gone)


class MemoryJournal:
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.records.append({"kind": kind, **fields})
        return self.records[-1]

    def events(self) -> list[dict[str, Any]]:
        return list(self.records)


class Watched:
    """A watch with everything around it."""

    def __init__(self, *, act: bool = True, limit: int = 4) -> None:
        self.clock = FakeClock()
        self.site = FakeSite(self.clock)
        self.ping = Ping()
        self.journal = MemoryJournal()
        self.alive = dict.fromkeys(self.site.machines, self.clock.now())
        self.said: list[str] = []
        self.freed: list[tuple[str, tuple[str, ...]]] = []
        ports = WatchPorts(
            self.site,
            self.ping,
            lambda: self.alive,
            self.journal,
            self.clock,
            lambda job_id, nodes: self.freed.append((job_id, tuple(nodes))),
        )
        self.watch = ClusterWatch(ports, WatchSettings(act=act, dead_limit_per_hour=limit), self.said.append)

    def passes(self, seconds: int, *, watchers_silent: Sequence[str] = ()) -> None:
        """One pass a second; the watchers of the other nodes report."""
        for _ in range(seconds):
            self.clock.sleep(1.0)
            now = self.clock.now()
            self.alive |= {name: now for name in self.alive if name not in watchers_silent}
            self.watch.turn()


def test_two_silent_witnesses_set_a_node_down_once() -> None:
    site = Watched()
    site.ping.gone = {"n002"}
    site.passes(20, watchers_silent=["n002"])
    assert site.site.did == [("down", "n002")]
    assert [event["kind"] for event in site.journal.records] == ["down-intended", "down-done"]


def test_a_slurmd_that_restarts_and_a_watcher_that_died_are_no_dead_nodes() -> None:
    site = Watched()
    site.ping.gone = {"n001"}
    site.passes(30, watchers_silent=["n002"])
    assert site.site.did == []


def test_a_node_that_stands_still_is_set_down_once_slurm_cannot_reach_it_either() -> None:
    world = Watched()
    world.passes(30, watchers_silent=["n002"])
    assert world.site.did == []
    stands_still = NodeState("ALLOCATED", frozenset({"NOT_RESPONDING"}))
    world.site.machines["n002"] = replace(world.site.machines["n002"], state=stands_still)
    world.passes(3, watchers_silent=["n002"])
    assert world.site.did == [("down", "n002")]


def test_observing_changes_nothing_and_says_it_once() -> None:
    site = Watched(act=False)
    site.ping.gone = {"n002"}
    site.passes(30, watchers_silent=["n002"])
    assert site.site.did == []
    assert len(site.said) == 1
    assert "would set n002 down" in site.said[0]


def test_a_run_that_lost_its_batch_host_comes_back_without_the_node_and_without_the_wait() -> None:
    site = Watched()
    site.site.runs("7", "n002", "n003")
    site.passes(2)
    site.ping.gone = {"n002"}
    site.passes(10, watchers_silent=["n002"])
    site.site.requeued("7")
    site.passes(3, watchers_silent=["n002"])
    assert site.site.did == [("down", "n002"), ("terms", "7", ("n002",), 2)]


def test_a_run_whose_supervisor_cut_the_dead_node_out_before_is_remembered() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    site.ping.gone = {"n002"}
    site.passes(3, watchers_silent=["n002"])
    site.site.runs("7", "n001")
    site.passes(1, watchers_silent=["n002"])
    site.site.requeued("7")
    site.passes(10, watchers_silent=["n002"])
    assert ("terms", "7", ("n002",), 2) in site.site.did


def test_what_the_supervisor_arranged_stays() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    site.ping.gone = {"n002"}
    site.passes(10, watchers_silent=["n002"])
    site.site.requeued("7", wait_s=2)
    site.site.records["7"] = replace(site.site.records["7"], excluded=("n002",))
    site.passes(2, watchers_silent=["n002"])
    assert site.site.did == [("down", "n002")]


def test_a_requeued_run_is_spared_the_wait_also_without_a_dead_node() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.passes(1)
    site.site.requeued("7")
    site.passes(2)
    assert site.site.did == [("terms", "7", (), 2)]


def test_jobs_that_sovctl_does_not_supervise_are_left_alone() -> None:
    site = Watched()
    site.site.runs("8", "n001")
    site.site.scripts["8"] = "#!/bin/sh\nsrun train\n"
    site.passes(1)
    site.site.requeued("8")
    site.passes(20)
    assert site.site.did == []


def test_a_users_own_begin_time_is_kept() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.site.requeued("7", wait_s=3600)
    site.site.records["7"] = replace(site.site.records["7"], restarts=0)
    site.passes(20)
    assert site.site.did == []


def test_a_held_run_stays_held() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.site.requeued("7")
    site.site.records["7"] = replace(site.site.records["7"], priority=0)
    site.passes(20)
    assert site.site.did == []


def test_a_switch_failure_is_no_mass_drain() -> None:
    site = Watched(limit=2)
    site.ping.gone = {"n001", "n002", "n003"}
    site.passes(30, watchers_silent=["n001", "n002", "n003"])
    assert site.site.did == []
    assert any("a person has to look" in words for words in site.said)


def test_a_controller_that_is_away_is_waited_out() -> None:
    site = Watched()
    stops = iter([False, False, False, True])
    site.site.away = True
    site.watch.run(lambda: next(stops))
    assert len(site.said) == 1
    site.site.away = False
    site.passes(1)
    assert not isinstance(site.said[0], SovctlError)


def test_a_run_that_missed_the_scheduler_is_given_another_pass() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.passes(2)
    site.site.requeued("7", wait_s=2)
    site.passes(2)
    assert site.site.did == []
    site.passes(4)
    assert site.site.did == [("pass", "7", ())]
    site.passes(4)
    assert site.site.did == [("pass", "7", ())] * 2


def completes(site: Watched, job_id: str, *nodes: str) -> None:
    site.site.runs(job_id, *nodes)
    record = replace(site.site.records[job_id], state="COMPLETING", restarts=1, extra={"JobId": "41"})
    site.site.records[job_id] = record


def test_nodes_of_a_run_that_completes_too_long_are_freed_by_their_watchers() -> None:
    site = Watched()
    completes(site, "12_3", "n001", "n003")
    site.passes(3)
    assert site.freed == []
    site.passes(2)
    assert site.freed == [("41", ("n001", "n003"))]
    assert [event["kind"] for event in site.journal.records] == ["free-asked"]
    site.passes(10)
    assert len(site.freed) == 2


@pytest.mark.parametrize(("act", "ours"), [(False, True), (True, False)])
def test_nobody_is_freed_by_a_watch_that_observes_nor_from_jobs_of_others(act: bool, ours: bool) -> None:
    site = Watched(act=act)
    completes(site, "7", "n001")
    if not ours:
        site.site.scripts["7"] = "#!/bin/sh\n"
    site.passes(20)
    assert site.freed == []
