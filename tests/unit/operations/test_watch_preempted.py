"""Preempted jobs that do not leave: ended the second their grace time is over, and only where a run waits for that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from watch_fakes import Watched

from sovctl.errors import CommandFailed


def waiting_run(*, act: bool = True) -> Watched:
    """Run 7 was requeued without n002 and waits; 9 was preempted for it on n003."""
    site = Watched(act=act)
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    site.site.waits("7")
    site.site.records["7"] = replace(site.site.records["7"], excluded=("n002",))
    site.site.preempt("9", "n003", grace_s=20)
    return site


def test_it_is_ended_when_its_grace_time_is_over_and_not_a_second_before() -> None:
    site = waiting_run()
    told = site.clock.time
    site.passes(20)
    assert site.site.did == []
    assert site.ended == []
    site.passes(3)
    assert site.site.did == [("requeue", "9")]
    assert site.ended == [("9", ("n003",))]
    assert site.kinds == ["end-intended", "end-asked", "end-done"]
    intended = site.of("end-intended")[0]
    assert (intended["run"], intended["nodes"]) == ("7", ["n003"])
    assert intended["at"] > told + 20
    site.passes(60)
    assert site.kinds == ["end-intended", "end-asked", "end-done"]


def test_observing_says_what_it_would_do() -> None:
    site = waiting_run(act=False)
    site.passes(30)
    assert (site.site.did, site.ended) == ([], [])
    words = "would end job 9 on n003, preempted and past its grace time: run 7 waits"
    assert [said for said in site.said if "job 9" in said] == [words]


@pytest.mark.parametrize(
    "why", ["no run waits", "another job waits too", "told before", "an excluded node", "of another class", "gone"]
)
def test_a_job_that_may_not_have_been_preempted_for_a_run_is_left_to_slurm(why: str) -> None:
    site = waiting_run()
    records = site.site.records
    if why == "no run waits":
        records["7"] = replace(records["7"], reason="Priority")
    elif why == "another job waits too":
        records["8"] = replace(records["7"], job_id="8")
    elif why == "told before":
        records["7"] = replace(records["7"], submitted_at=int(site.clock.time) + 1)
    elif why == "an excluded node":
        records["9"] = replace(records["9"], nodes=("n002",))
    elif why == "of another class":
        site.site.qos["9"] = "high"
    else:
        del records["9"]
    site.site.changes += 1
    site.passes(60)
    assert (site.site.did, site.ended) == ([], [])


def test_a_watch_that_was_away_when_the_run_lost_its_nodes_ends_it_too() -> None:
    site = waiting_run()
    site.kept = None
    site.start()
    site.site.runs("5", "n009")
    # Somebody's job that waits for its first start is asked about once.
    site.site.waits("5")
    site.site.records["5"] = replace(site.site.records["5"], restarts=0, reason="QOSGrpNodeLimit")
    site.passes(25)
    assert site.site.did == [("requeue", "9")]
    assert site.ended == [("9", ("n003",))]


@pytest.mark.parametrize("act", [True, False])
def test_one_that_slurm_requeued_itself_is_ended_all_the_same_and_not_before_its_grace_time_is_over(act: bool) -> None:
    site = waiting_run(act=act)
    site.watch._preempted.grace_s = {"preemptible": 20}.get
    told = site.clock.time
    site.passes(3)
    # Its record tells no times any more.
    site.site.records["9"] = replace(site.site.records["9"], state="COMPLETING", preempted_at=None, ends_at=None)
    site.passes(15)
    assert (site.ended, site.of("end-intended")) == ([], [])
    site.passes(5)
    assert (site.site.did, site.ended) == ([], [("9", ("n003",))] if act else [])
    assert not act or site.of("end-asked")[0]["at"] > told + 20


def test_a_watch_that_was_killed_still_knows_whom_slurm_told_to_leave() -> None:
    site = waiting_run()
    site.watch._preempted.grace_s = {"preemptible": 20}.get
    site.passes(3)
    # Slurm requeues it while no watch lives: its record then tells nothing of a grace time.
    site.site.records["9"] = replace(site.site.records["9"], state="COMPLETING", preempted_at=None, ends_at=None)
    site.start()
    site.watch._preempted.grace_s = {"preemptible": 20}.get
    site.passes(15)
    assert site.ended == []
    site.passes(6)
    assert site.ended == [("9", ("n003",))]


@pytest.mark.parametrize("told", [None, [], {"9": None}, {"9": ["7"]}, {"9": ["7", "x", 1]}, {"9": [7, 1, None, 2]}])
def test_a_memory_that_was_tampered_with_is_no_memory(told: object) -> None:
    site = waiting_run()
    site.watch._preempted.restore({"told": told})
    assert not site.watch._preempted.busy


def test_one_that_leaves_by_itself_is_left_alone() -> None:
    site = waiting_run()
    site.passes(10)
    site.site.records["9"] = replace(site.site.records["9"], state="COMPLETED")
    site.passes(30)
    assert (site.site.did, site.ended) == ([], [])


def test_what_slurm_does_not_requeue_is_left_to_its_own_preemption() -> None:
    site = waiting_run()

    def refuse() -> None:
        site.site.effect = lambda: None
        raise CommandFailed(["scontrol"], 1, "Requested operation is presently disabled")

    site.passes(20)
    site.site.effect = refuse
    site.passes(10)
    assert site.kinds == ["end-intended", "end-failed"]
    assert site.site.did == []
    # Slurm's own preemption comes later; what is left then is ended all the same.
    site.site.records["9"] = replace(site.site.records["9"], state="COMPLETING", preempted_at=None)
    site.passes(5)
    assert site.ended == [("9", ("n003",))]


def test_one_that_does_not_go_is_asked_for_again_and_given_up_in_the_end() -> None:
    site = waiting_run()
    site.watch._preempted.ask_to_end = lambda job_id, nodes: site.ended.append((job_id, tuple(nodes)))
    site.passes(200)
    assert 25 < len(site.ended) < 35
    assert site.kinds[-1] == "end-done"
    assert site.site.did == [("requeue", "9")]
