"""The watch on the controller, pass by pass, on a site in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from watch_fakes import RUN, SPARED, Watched

from sovctl.errors import CommandFailed, NotPermitted, SlurmUnreachable
from sovctl.health.death import DeathLimits
from sovctl.model.node import NodeState
from sovctl.model.reservation import Reservation
from sovctl.model.site_answer import SiteAnswer, SiteWord
from sovctl.model.verdict import VerdictState
from sovctl.operations.watch.runs import RunTakeOver
from sovctl.ports.site import RemoteAnswer, SshFailure

LOOSE = DeathLimits(per_hour=4, share_per_hour=1.0)

# Dead nodes


def slow_controller(site: Watched, seconds: float) -> None:
    """Every reading of the queue takes so long from now on."""
    read = site.site.jobs

    def slowly() -> Any:
        site.clock.sleep(seconds)
        return read()

    site.site.jobs = slowly  # type: ignore[method-assign]


def test_a_silent_node_is_set_down_once_within_20_seconds() -> None:
    site = Watched()
    site.passes(2)
    site.kill_node("n002")
    began = site.clock.time
    site.passes(40)
    assert site.site.did == [("down", "n002")]
    assert site.kinds == ["down-intended", "down-done"]
    (intended,) = site.of("down-intended")
    assert intended["at"] - began < 20
    assert began <= intended["silent_since"] <= began + 1, "its mark changed last when it died"
    assert "SSH silent" in site.site.machines["n002"].reason


def test_a_slurmd_that_restarts_and_a_watcher_that_died_are_no_dead_nodes() -> None:
    site = Watched()
    site.silent_slurmds = {"n001"}
    site.silent_watchers = {"n002"}
    site.passes(30)
    assert site.site.did == []


def test_a_node_that_answers_over_ssh_is_not_dead_whatever_the_others_say() -> None:
    site = Watched()
    site.passes(2)
    site.kill_node("n002")
    del site.shell["n002"]
    site.passes(30)
    assert site.site.did == []
    assert site.said == ["n002 looks dead and is left as it is: slurmd is silent, but the node answers over SSH"]
    site.start()
    site.passes(30)
    assert len(site.said) == 2
    assert [event["words"] for event in site.of("noted")] == site.said[:1], "people are told once"


@pytest.mark.parametrize("failure", [SshFailure.REFUSED, SshFailure.FLOOD])
def test_a_node_that_does_not_let_us_in_lives(failure: SshFailure) -> None:
    site = Watched()
    site.passes(2)
    site.kill_node("n002")
    site.shell["n002"] = RemoteAnswer(failure=failure, problem="no")
    site.passes(30)
    assert site.site.did == []


def test_a_node_that_booted_anew_is_dead() -> None:
    site = Watched()
    site.passes(2)
    site.kill_node("n002")
    site.shell["n002"] = "boot-2"
    site.passes(30)
    assert site.site.did == [("down", "n002")]
    assert "booted anew" in site.site.machines["n002"].reason


@pytest.mark.parametrize(
    "answer",
    [
        RemoteAnswer(failure=SshFailure.HOST_KEY, problem="no host key of n002 is in known_hosts"),
        RemoteAnswer(failure=SshFailure.UNREACHABLE, problem="n002 port 22: Temporary failure in name resolution"),
    ],
)
def test_where_ssh_is_no_witness_another_one_is_needed(answer: RemoteAnswer) -> None:
    for watcher, power_off, down in ((True, False, True), (False, False, False), (False, True, True)):
        site = Watched()
        site.passes(2)
        site.kill_node("n002")
        site.shell["n002"] = answer
        if not watcher:
            site.without_watcher = {"n002"}
            site.site.machines["n002"] = replace(
                site.site.machines["n002"], state=NodeState("ALLOCATED", frozenset({"NOT_RESPONDING"}))
            )
        if power_off:
            site.power_off = {"n002"}
        site.passes(30)
        assert bool(site.site.did) == down, (watcher, power_off)
        assert down or "no second witness" in site.said[0]


def test_nodes_that_slurm_switched_off_are_not_expected_to_answer() -> None:
    site = Watched()
    state = NodeState("IDLE", frozenset({"POWERED_DOWN"}))
    site.site.machines["n002"] = replace(site.site.machines["n002"], state=state)
    site.passes(2)
    site.kill_node("n002")
    site.passes(30)
    assert site.site.did == []


def test_a_node_that_stands_still_is_set_down_once_slurm_cannot_reach_it_either() -> None:
    site = Watched()
    site.passes(2)
    site.kill_node("n002")
    site.silent_slurmds.clear()
    site.passes(30)
    assert site.site.did == []
    stands_still = NodeState("ALLOCATED", frozenset({"NOT_RESPONDING"}))
    site.site.machines["n002"] = replace(site.site.machines["n002"], state=stands_still)
    site.site.changes += 1
    site.passes(5)
    assert site.site.did == [("down", "n002")]


@pytest.mark.parametrize(("watcher", "down"), [(True, True), (False, False)])
def test_a_node_that_died_while_slurmctld_was_restarted_is_set_down_if_it_ever_was_there(
    watcher: bool, down: bool
) -> None:
    site = Watched()
    site.passes(2)
    site.kill_node("n002")
    site.without_watcher = set() if watcher else {"n002"}
    unknown = NodeState("UNKNOWN", frozenset({"NOT_RESPONDING"}))
    site.site.machines["n002"] = replace(site.site.machines["n002"], state=unknown)
    site.passes(30)
    assert site.site.did == ([("down", "n002")] if down else [])


def test_observing_changes_nothing_and_says_the_command_once() -> None:
    site = Watched(act=False)
    site.passes(2)
    site.kill_node("n002")
    site.passes(30)
    assert site.site.did == []
    assert len(site.said) == 1
    assert site.said[0].startswith("would set n002 down: scontrol update NodeName=n002 State=DOWN 'Reason=sovctl:")


def test_a_rack_that_falls_silent_costs_not_one_node() -> None:
    site = Watched(nodes=40, limits=LOOSE)
    site.passes(2)
    site.kill_node("n001", "n002")
    site.passes(1)
    site.kill_node(*(f"n{number:03d}" for number in range(3, 9)))
    site.passes(30)
    assert site.site.did == []
    assert [event["words"][:7] for event in site.of("alarm")] == ["STOPPED"]
    assert len(site.said) == 1
    assert site.said[0].startswith("ALARM: STOPPED declaring nodes dead: 8 look dead now")


def test_a_machine_that_hears_nobody_distrusts_itself() -> None:
    site = Watched(nodes=12, limits=DeathLimits(per_hour=100, share_per_hour=1.0))
    site.passes(2)
    site.kill_node(*(f"n{number:03d}" for number in range(1, 8)))
    site.passes(30)
    assert site.site.did == []
    assert site.asked == []
    assert "Either this machine is cut off" in site.of("alarm")[0]["words"]


def test_the_share_an_hour_is_kept_over_single_deaths_and_a_restart_of_the_watch() -> None:
    site = Watched(nodes=20)
    site.passes(2)
    for number in range(1, 5):
        site.kill_node(f"n{number:03d}")
        site.passes(20)
        site.start()
    assert site.site.did == [("down", "n001"), ("down", "n002")]
    assert "2 may be" in site.of("alarm")[0]["words"]
    site.clock.sleep(3600)
    site.start()
    site.passes(30)
    assert len(site.site.did) == 4


def test_nodes_that_were_given_back_within_the_hour_count_too() -> None:
    site = Watched(nodes=20)
    site.passes(2)
    healthy = dict(site.site.machines)
    for number in range(1, 21):
        name = f"n{number:03d}"
        site.kill_node(name)
        site.passes(20)
        site.silent_slurmds.clear()
        site.silent_watchers.clear()
        site.shell.clear()
        site.site.machines[name] = healthy[name]
        site.site.changes += 1
        if number % 2:
            site.start()
    assert site.site.did == [("down", "n001"), ("down", "n002")]
    assert {event["words"].partition(":")[0] for event in site.of("alarm")} == {"STOPPED declaring nodes dead"}
    assert len(site.of("alarm")) == 1, "once an hour, however often the watch starts"
    assert sum(words.startswith("ALARM") for words in site.said) > 1


def test_a_node_that_slurm_will_not_set_down_does_not_stop_the_rest() -> None:
    site = Watched(nodes=20)
    site.passes(2)
    site.kill_node("n001")
    site.kill_node("n002")

    def refuse() -> None:
        site.site.effect = lambda: None
        raise NotPermitted("node n001")

    site.site.effect = refuse
    site.passes(20)
    assert site.site.did == [("down", "n002")]
    assert site.kinds.count("down-failed") == 1
    site.passes(30)
    assert site.site.did == [("down", "n002"), ("down", "n001")]


def test_witnesses_that_take_their_time_are_waited_for_and_no_longer() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n003")
    site.slow_s = 5.0
    site.passes(2)
    site.kill_node("n002")
    site.passes(8)
    site.silent_slurmds.clear()
    site.silent_watchers.clear()
    site.passes(3)
    site.words["7"] = [suspicion("n003", at=site.clock.time)]
    site.passes(20)
    assert site.site.did == []
    assert ("check", "n003") in site.asked
    site.kill_node("n002")
    began = site.clock.time
    site.passes(30)
    assert site.site.did == [("down", "n002")]
    assert site.of("down-intended")[0]["at"] - began < 20
    site.slow_s = 1000.0
    site.kill_node("n004")
    site.passes(100)
    assert len([command for command, *nodes in site.asked if nodes == ["n004"]]) >= 3


# Runs that lost a node


def test_a_run_that_lost_its_batch_host_comes_back_without_the_node_and_without_the_wait() -> None:
    site = Watched()
    site.site.runs("7", "n002", "n003")
    site.passes(2)
    site.kill_node("n002")
    site.passes(16)
    assert site.site.did == [("down", "n002"), ("terms", "7", ("n002",), 2)]


def test_a_run_with_spares_is_parted_from_the_node_before() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002", script=SPARED)
    site.passes(2)
    site.kill_node("n002")
    site.passes(20)
    assert site.site.did == [("drop", "7", ("n001",)), ("down", "n002")]
    assert site.kinds == ["down-intended", "drop-intended", "dropped-from-job", "down-done"]


def test_a_run_whose_supervisor_cut_the_dead_node_out_before_is_remembered() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    site.kill_node("n002")
    site.passes(3)
    site.site.runs("7", "n001")
    site.passes(1)
    site.site.requeued("7")
    site.passes(16)
    assert site.site.records["7"].excluded == ("n002",)


def test_what_the_supervisor_arranged_stays() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    site.site.machines["n002"] = replace(site.site.machines["n002"], state=NodeState("DOWN"))
    site.site.requeued("7", wait_s=2)
    site.site.records["7"] = replace(site.site.records["7"], excluded=("n002",))
    site.passes(2)
    assert site.site.did == []


def asks_for(site: Watched, nodes: str, *excluded: str) -> None:
    """Job 7, at its next start."""
    job = site.site.records["7"]
    site.site.records["7"] = replace(job, excluded=excluded, extra={**job.extra, "NumNodes": nodes})


def test_a_run_that_lost_its_batch_host_keeps_nodes_enough_to_start_on() -> None:
    """It asks for 11 of 12 nodes: with all of its exclusions slurmctld would set it aside for ever."""
    site = Watched()
    site.site.runs("7", "n001", "n002", "n003")
    asks_for(site, "11", "n004")
    site.words = {"7": [{"seq": 1, "at": "?", "kind": "attempt_ended", "culprit": "hardware", "blamed": ["n004", 7]}]}
    site.passes(8)
    site.kill_node("n002")
    site.passes(16)
    assert site.site.did == [("down", "n002"), ("terms", "7", ("n002",), 2)]


@pytest.mark.parametrize("key", ["TRES", "ReqTRES"])
def test_a_run_that_was_shrunk_asks_for_more_than_its_number_of_nodes_says(key: str) -> None:
    """22.05 goes on to show the nodes that a requeued job held last."""
    site = Watched()
    site.site.runs("7", "n001", "n002", "n003")
    asks_for(site, "3", "n004")
    job = site.site.records["7"]
    site.site.records["7"] = replace(job, extra={**job.extra, key: "cpu=11,mem=2750G,node=11,billing=11"})
    site.words = {"7": [{"seq": 1, "at": "?", "kind": "attempt_ended", "culprit": "hardware", "blamed": ["n004"]}]}
    site.passes(8)
    site.kill_node("n002")
    site.passes(16)
    assert site.site.did == [("down", "n002"), ("terms", "7", ("n002",), 2)]


def test_a_run_that_slurm_set_aside_is_let_go() -> None:
    """Its exclusions leave it too few nodes: Slurm holds it (BadConstraints), and nobody else would ever release it."""
    site = Watched()
    site.site.runs("7", "n001")
    said = {"seq": 1, "at": site.clock.time, "kind": "attempt_ended", "culprit": "hardware"}
    site.words = {
        "7": [{**said, "blamed": ["n002"]}, {**said, "seq": 2, "at": said["at"] + 1, "blamed": ["n003"]}],
    }
    site.passes(8)
    site.site.requeued("7", wait_s=2)
    asks_for(site, "11", "n002", "n003")
    aside = replace(site.site.records["7"], reason="BadConstraints", priority=0, eligible_at=None)
    site.site.records["7"] = aside
    site.site.changes += 1
    site.passes(16)
    assert site.site.did == [("pass", "7", ("n003",)), ("release", "7")]


@pytest.mark.parametrize("reason", ["JobHeldUser", "JobHeldAdmin"])
def test_a_run_that_a_person_holds_stays_held(reason: str) -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.passes(2)
    site.site.requeued("7", wait_s=2)
    asks_for(site, "12", "n002")
    site.site.records["7"] = replace(site.site.records["7"], reason=reason, priority=0, eligible_at=None)
    site.site.changes += 1
    site.passes(16)
    assert site.site.did == []


WITH_SIZE = SPARED.replace("--name x", "--name x --nodes 8")


@pytest.mark.parametrize(
    ("broken", "script", "reason", "did"),
    [
        (3, WITH_SIZE, "ReqNodeNotAvail, UnavailableNodes:n[001-003]", [("size", "7", 9, 18, 36)]),
        (4, WITH_SIZE, "Resources", [("size", "7", 8, 16, 32)]),
        (5, WITH_SIZE, "Resources", []),
        (2, WITH_SIZE, "Resources", []),
        (3, SPARED, "Resources", []),
        (3, WITH_SIZE, "Dependency", []),
    ],
)
def test_a_requeued_run_does_not_wait_for_spares(broken: int, script: str, reason: str, did: list[Any]) -> None:
    """It asks for ten nodes, and eight will do."""
    site = Watched()
    site.site.runs("7", "n012", script=script)
    site.passes(1)
    site.site.requeued("7", wait_s=2)
    job = site.site.records["7"]
    size = {"TRES": "cpu=20,mem=4G,node=10,billing=20", "NumTasks": "20", "NumCPUs": "40"}
    site.site.records["7"] = replace(job, reason=reason, eligible_at=None, extra={**job.extra, **size})
    for number, (name, view) in enumerate(list(site.site.machines.items())):
        site.site.machines[name] = replace(view, state=NodeState("DOWN" if number < broken else "IDLE"))
    site.site.changes += 1
    site.passes(9)
    assert site.site.did == []
    site.passes(6)
    assert site.site.did == did


def test_a_requeued_run_does_not_wait_for_spares_that_a_maintenance_will_take() -> None:
    site = Watched()
    site.site.reserved.append(Reservation("maint", ("n011", "n012"), int(site.clock.time) + 3600, None))
    site.site.runs("7", "n012", script=WITH_SIZE)
    site.passes(1)
    site.site.requeued("7", wait_s=2)
    job = site.site.records["7"]
    size = {"TRES": "cpu=20,mem=4G,node=10,billing=20", "NumTasks": "20", "NumCPUs": "40"}
    site.site.records["7"] = replace(job, reason="Resources", eligible_at=None, extra={**job.extra, **size})
    for name, view in list(site.site.machines.items()):
        site.site.machines[name] = replace(view, state=NodeState("DOWN" if name == "n001" else "IDLE"))
    site.site.changes += 1
    site.passes(15)
    assert site.site.did == [("size", "7", 9, 18, 36)]


@pytest.mark.parametrize(
    ("down", "reason", "act", "did"),
    [
        # Ten are needed of twelve; n002 was blamed first, n003 last.
        (("n004",), "ReqNodeNotAvail, UnavailableNodes:n004", True, [("pass", "7", ("n003",))]),
        (("n004",), "ReqNodeNotAvail, UnavailableNodes:n004", False, []),
        # Busy nodes come free by themselves, and the node blamed last is never run on.
        ((), "Resources", True, []),
        (("n004", "n005"), "Resources", True, [("pass", "7", ("n003",))]),
        (("n004",), "Dependency", True, []),
    ],
)
def test_a_requeued_run_is_not_starved_by_its_exclusions(
    down: tuple[str, ...], reason: str, act: bool, did: list[Any]
) -> None:
    site = Watched(act=act)
    site.site.runs("7", "n001")
    said = {"at": site.clock.time, "kind": "attempt_ended", "culprit": "hardware"}
    site.words = {
        "7": [{**said, "seq": 1, "blamed": ["n002"]}, {**said, "seq": 2, "at": said["at"] + 1, "blamed": ["n003"]}]
    }
    site.passes(8)
    site.site.requeued("7", wait_s=2)
    asks_for(site, "10", "n002", "n003")
    site.site.records["7"] = replace(site.site.records["7"], reason=reason, eligible_at=None)
    for name in down:
        site.site.machines[name] = replace(site.site.machines[name], state=NodeState("IDLE", frozenset({"DRAIN"})))
    site.site.changes += 1
    site.passes(9)
    assert site.site.did == []
    site.passes(6)
    assert [deed for deed in site.site.did if deed[0] != "down"] == did
    assert bool(site.of("exclusions-let-go")) == bool(did)
    told = [words for words in site.said if "no longer excluded" in words]
    assert bool(told) == (bool(did) or not act)


def test_what_a_user_excluded_is_not_given_up_for_a_dead_node() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002", "n003")
    asks_for(site, "11", "n004")
    site.passes(8)
    site.kill_node("n002")
    site.passes(16)
    assert site.site.did == [("down", "n002"), ("terms", "7", ("n004",), 2)]


def test_a_requeued_run_is_spared_the_wait_also_without_a_dead_node() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.passes(1)
    site.site.requeued("7")
    site.passes(2)
    assert site.site.did == [("terms", "7", (), 2)]


def test_a_run_on_its_way_out_of_its_nodes_is_followed_where_slurm_is_read_seldom() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.passes(2)
    slow_controller(site, 3.0)
    site.site.records["7"] = replace(site.site.records["7"], state="COMPLETING")
    site.site.changes += 1
    site.passes(2)
    reads = site.site.reads
    site.site.requeued("7", wait_s=90)
    site.passes(2)
    assert site.site.did == [("terms", "7", (), 2)]
    assert site.site.reads == reads, "it is not yet time to read all of it again"


def test_a_run_that_missed_the_scheduler_is_given_another_pass() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.passes(2)
    site.site.requeued("7", wait_s=2)
    site.passes(2)
    assert site.site.did == []
    site.passes(3)
    assert site.site.did == [("pass", "7", ())]
    site.passes(5)
    assert site.site.did == [("pass", "7", ())] * 2


def test_jobs_that_sovctl_does_not_supervise_are_left_alone() -> None:
    site = Watched()
    site.site.runs("8", "n001", script="#!/bin/sh\nsrun train\n")
    site.passes(1)
    site.site.requeued("8")
    site.passes(20)
    assert site.site.did == []


def test_a_users_own_begin_time_is_kept_and_asked_about_once() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.site.requeued("7", wait_s=3600)
    site.site.records["7"] = replace(site.site.records["7"], restarts=0)
    asked: list[str] = []
    answer = site.site.job
    site.site.job = lambda job_id: (asked.append(job_id), answer(job_id))[1]  # type: ignore[method-assign]
    site.passes(60)
    assert site.site.did == []
    assert asked == ["7"]


def requeued_to_wait(auth: str, wait_s: int) -> Watched:
    """Run 7 ran and waits for so long by now; `auth`: what of AuthInfo says how long Slurm's own requeue lets it."""
    site = Watched()
    site.site.settings = lambda: {"ClusterName": "Lab", "AuthInfo": auth}  # type: ignore[method-assign]
    site.site.runs("7", "n001")
    site.passes(2)
    site.site.requeued("7", wait_s=wait_s)
    return site


@pytest.mark.parametrize(("auth", "wait_s"), [("", 3600), ("", 135), ("cred_expire=600", 615)])
def test_a_begin_time_that_somebody_gave_a_requeued_run_stays(auth: str, wait_s: int) -> None:
    """`scontrol update StartTime`: no requeue of Slurm's or of a supervisor makes a job wait for so long."""
    site = requeued_to_wait(auth, wait_s)
    asked: list[str] = []
    answer = site.site.job
    site.site.job = lambda job_id: (asked.append(job_id), answer(job_id))[1]  # type: ignore[method-assign]
    site.passes(60)
    assert site.site.did == []
    assert asked == ["7", "7"], "once about its terms, once about its place"


@pytest.mark.parametrize(("auth", "wait_s"), [("", 121), ("cred_expire=600", 601)])
def test_a_begin_time_that_slurm_gave_a_requeued_run_does_not(auth: str, wait_s: int) -> None:
    site = requeued_to_wait(auth, wait_s)
    site.passes(2)
    assert site.site.did == [("terms", "7", (), 2)]


def test_a_run_that_somebody_let_wait_is_looked_at_again_once_it_ran_or_waits_no_more() -> None:
    for runs in (True, False):
        site = Watched()
        site.site.runs("7", "n001")
        site.passes(2)
        site.site.requeued("7", wait_s=3600)
        site.passes(10)
        if runs:
            site.site.runs("7", "n001")
        else:
            site.site.records["7"] = replace(site.site.records["7"], reason="Priority")
        site.site.changes += 1
        site.passes(10)
        site.site.requeued("7")
        site.passes(2)
        assert site.site.did == [("terms", "7", (), 2)], runs


def test_a_run_that_somebody_lets_wait_is_kept_off_its_dead_node_and_waits_on() -> None:
    site = Watched()
    site.site.runs("7", "n002", "n003")
    site.passes(2)
    set_down = site.site.set_down

    def down(node: str, reason: str) -> None:
        set_down(node, reason)
        site.site.requeued("7", wait_s=3600)

    site.site.set_down = down  # type: ignore[method-assign]
    update = site.site.update_pending

    def exclude(job_id: str, **terms: Any) -> None:
        update(job_id, **terms)
        site.site.records["7"] = replace(site.site.records["7"], excluded=tuple(terms["exclude"]))

    site.site.update_pending = exclude  # type: ignore[method-assign]
    site.kill_node("n002")
    site.passes(40)
    assert site.site.did == [("down", "n002"), ("pass", "7", ("n002",))]
    assert not any("begin now" in words for words in site.said)


@pytest.mark.parametrize(
    ("reason", "told"),
    [("JobHoldMaxRequeue", 1), ("JobHeldUser", 0), ("JobHeldAdmin", 0)],
)
def test_a_run_that_slurm_holds_after_it_lost_its_node_is_told_once(reason: str, told: int) -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.site.runs("8", "n001", "n003", script="#!/bin/sh\n")
    site.passes(2)
    site.kill_node("n001")

    def hold() -> None:
        for job_id in ("7", "8"):
            site.site.records[job_id] = replace(site.site.records[job_id], priority=0, reason=reason)

    while ("down", "n001") not in site.site.did:
        site.passes(1)
    hold()
    site.passes(30)
    site.start()
    site.passes(30)
    held = site.of("run-held-by-slurm")
    assert [event["job_id"] for event in held] == ["7"] * told
    assert all("n001" in event["why"] and reason in event["why"] for event in held)


def held_by_launch(site: Watched, job_id: str = "7") -> None:
    """slurmctld came back with an older state and launched the job anew where it still ran."""
    job = site.site.records[job_id]
    site.site.changes += 1
    held = replace(job, state="PENDING", nodes=(), restarts=job.restarts + 1, priority=0)
    site.site.records[job_id] = replace(held, reason="launch_failed_requeued_held")


def test_a_run_whose_launch_failed_is_let_go_a_few_times_an_hour() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.site.runs("8", "n003", script="#!/bin/sh\n")
    for _ in range(4):
        site.passes(2)
        held_by_launch(site)
        held_by_launch(site, "8")
        site.passes(10)
        site.start()
    assert [what for what in site.site.did if what[0] == "release"] == [("release", "7")] * 3
    assert site.site.records["7"].held
    assert [event["why"] for event in site.of("run-held-by-slurm")] == [
        "launch_failed_requeued_held, 3 times within an hour"
    ]
    site.clock.sleep(3600)
    site.passes(10)
    assert not site.site.records["7"].held


def test_a_run_that_was_let_go_begins_at_once() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    held_by_launch(site)
    site.site.records["7"] = replace(site.site.records["7"], eligible_at=int(site.clock.time) + 121)
    site.passes(10)
    assert [what[0] for what in site.site.did] == ["release", "terms"]
    assert site.kinds[:2] == ["launch-again-intended", "launch-again-done"]


def test_an_observing_watch_lets_no_run_go() -> None:
    site = Watched(act=False)
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    held_by_launch(site)
    site.passes(20)
    assert site.site.did == []
    assert len([words for words in site.said if "would act: job 7 is let go again" in words]) == 1


def test_a_node_that_slurm_forgot_was_set_down_is_set_down_again() -> None:
    """slurmctld was killed before it saved that; the hour's limit is for nodes, and this is the same one."""
    site = Watched(nodes=6, limits=DeathLimits(per_hour=1))
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    site.kill_node("n001")
    while ("down", "n001") not in site.site.did:
        site.passes(1)
    site.site.machines["n001"] = replace(site.site.machines["n001"], state=NodeState("ALLOCATED"), reason="")
    site.site.changes += 1
    site.start()
    site.passes(30)
    assert [what for what in site.site.did if what[0] == "down"] == [("down", "n001")] * 2
    site.kill_node("n002")
    site.passes(30)
    assert ("down", "n002") not in site.site.did


def test_a_node_that_was_set_down_twice_costs_other_nodes_one_place_of_the_hour() -> None:
    site = Watched(nodes=6, limits=DeathLimits(per_hour=2, share_per_hour=1.0))
    site.passes(2)
    site.kill_node("n001")
    site.passes(20)
    site.site.machines["n001"] = replace(site.site.machines["n001"], state=NodeState("IDLE"), reason="")
    site.site.changes += 1
    site.passes(30)
    site.kill_node("n002")
    site.passes(30)
    assert site.site.did == [("down", "n001"), ("down", "n001"), ("down", "n002")]
    site.start()
    site.kill_node("n003")
    site.passes(30)
    assert ("down", "n003") not in site.site.did, "two nodes within the hour, also for a watch that starts anew"


def test_a_held_run_stays_held() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.site.requeued("7")
    site.site.records["7"] = replace(site.site.records["7"], priority=0)
    site.passes(20)
    assert site.site.did == []


# Suspects


def suspicion(*nodes: str, seq: int = 9, at: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"kind": "attempt_ended", "seq": seq, "at": at, "culprit": "hardware", "blamed": list(nodes), **fields}


def test_a_suspected_node_that_is_at_fault_is_drained_and_the_run_is_told() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.verdicts["n002"] = VerdictState.FAILED
    site.words["7"] = [suspicion("n002", at=site.clock.time, evidence="rank 3\nstands apart")]
    site.passes(30)
    assert site.site.did == [("drain", "n002")]
    assert site.kinds == ["suspected", "drain-intended", "drain-done", "suspect-checked"]
    assert site.of("suspected")[0]["why"] == "rank 3 stands apart"
    (answer,) = site.answers["7"]
    assert (answer.node, answer.state, answer.seq, answer.drained) == ("n002", SiteWord.FAILED, 9, True)
    assert site.asked == [("check", "n002")]


def test_a_drain_that_slurm_refuses_is_tried_again() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.verdicts["n002"] = VerdictState.FAILED
    site.passes(2)
    site.words["7"] = [suspicion("n002", at=site.clock.time)]

    def refuse() -> None:
        site.site.effect = lambda: None
        raise SlurmUnreachable

    site.site.effect = refuse
    site.passes(30)
    assert site.site.did == [("drain", "n002")]
    assert site.kinds.count("drain-failed") == 1
    assert [item.drained for item in site.answers["7"]] == [True]


def test_a_suspected_node_that_is_healthy_is_cleared_and_kept_in_service() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.words["7"] = [suspicion("n002", at=site.clock.time)]
    site.passes(30)
    assert site.site.did == []
    assert [(item.node, item.state) for item in site.answers["7"]] == [("n002", SiteWord.CLEARED)]


@pytest.mark.parametrize("seq", [3, 9])
def test_an_answer_to_an_earlier_run_with_the_same_job_id_is_none_to_this_one(seq: int) -> None:
    """slurmctld began to count anew: the events of the new run have low numbers, and it is not known."""
    site = Watched()
    site.answers["7"] = (SiteAnswer("n002", SiteWord.FAILED, site.clock.time - 86400, 9),)
    site.site.runs("7", "n001", "n002")
    site.words["7"] = [suspicion("n002", seq=seq, at=site.clock.time)]
    site.passes(30)
    assert site.asked == [("check", "n002")]
    assert [(item.state, item.seq) for item in site.answers["7"]] == [(SiteWord.CLEARED, seq)]


def test_a_word_that_was_answered_needs_no_second_answer_after_a_restart() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.words["7"] = [suspicion("n002", at=site.clock.time)]
    site.passes(30)
    site.start()
    site.passes(30)
    assert site.asked == [("check", "n002")]


def test_an_answer_to_a_task_of_an_array_is_written_down_after_a_restart() -> None:
    """It was saved under the raw id of the task, and the journal knows the task by the id that people see."""
    site = Watched()
    site.site.runs("12_3", "n001", "n002")
    site.site.records["12_3"] = replace(site.site.records["12_3"], extra={"GroupId": "users(100)", "JobId": "41"})
    site.words["12_3"] = [suspicion("n002", at=site.clock.time)]
    site.passes(30)
    assert [item.node for item in site.answers["41"]] == ["n002"]
    assert site.journal.records.pop()["kind"] == "suspect-checked"
    site.start()
    site.passes(30)
    assert [(event["node"], event["job_id"]) for event in site.of("suspect-checked")] == [("n002", "12_3")]
    assert site.asked == [("check", "n002")]


def test_a_suspected_node_that_is_not_heard_is_neither() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.shell["n002"] = RemoteAnswer(failure=SshFailure.TIMEOUT, problem="no answer within 20 s")
    site.words["7"] = [suspicion("n002", at=site.clock.time)]
    site.passes(30)
    assert site.site.did == []
    assert site.answers["7"][0].state is SiteWord.UNKNOWN


def test_nobody_can_name_nodes_of_others_or_have_a_node_asked_all_the_time() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.site.runs("8", "n003")
    site.verdicts = dict.fromkeys(site.site.machines, VerdictState.FAILED)
    for seq in range(1, 60):
        site.words["7"] = [suspicion("n003", "n004", "n1 000", seq=seq, at=site.clock.time), 7, None, "x", []]
        site.passes(1)
    assert site.site.did == []
    assert site.asked == []
    del site.verdicts["n002"]
    for seq in range(60, 200):
        site.words["7"] = [suspicion("n002", seq=seq, at=site.clock.time)]
        site.passes(1)
    assert site.asked == [("check", "n002")]


def test_many_suspects_stay_within_the_budget_of_drains() -> None:
    site = Watched(nodes=40)
    names = [f"n{number:03d}" for number in range(1, 13)]
    site.site.runs("7", *names)
    site.verdicts = dict.fromkeys(names, VerdictState.FAILED)
    site.words["7"] = [suspicion(*names, at=site.clock.time)]
    site.passes(30)
    assert [what for what, _ in site.site.did] == ["drain"] * 4
    assert site.of("alarm")
    assert len(site.answers["7"]) == 12


def test_a_node_without_a_watcher_is_suspected_by_its_run() -> None:
    site = Watched()
    site.without_watcher = {"n002"}
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    site.kill_node("n002")
    event = {"kind": "detected", "seq": 4, "at": site.clock.time, "nodes": ["n002"], "evidence": "slurmd is silent"}
    site.words["7"] = [event]
    site.passes(20)
    assert ("down", "n002") in site.site.did


def test_observing_checks_a_suspect_and_says_what_it_would_do() -> None:
    site = Watched(act=False)
    site.site.runs("7", "n001", "n002")
    site.verdicts["n002"] = VerdictState.FAILED
    site.words["7"] = [suspicion("n002", at=site.clock.time)]
    site.passes(30)
    assert site.site.did == []
    would = "n002: would drain: scontrol update NodeName=n002 State=DRAIN"
    assert sum(words.startswith(would) for words in site.said) == 1
    assert sum(event["words"].startswith(would) for event in site.of("noted")) == 1


def test_observing_writes_down_every_command_and_alarm_it_says() -> None:
    site = Watched(nodes=40, act=False)
    names = [f"n{number:03d}" for number in range(1, 13)]
    site.site.runs("7", *names)
    site.verdicts = dict.fromkeys(names, VerdictState.FAILED)
    site.words["7"] = [suspicion(*names, at=site.clock.time)]
    site.site.stuck("9", "n030")
    site.passes(2)
    site.kill_node("n020")
    site.passes(1000)
    assert site.site.did == []
    noted = [event["words"] for event in site.of("noted")]
    assert any("would set n020 down: scontrol" in words for words in noted)
    assert any("n030: would free 9 by setting it down: scontrol" in words for words in noted)
    assert sum("would drain: scontrol" in words for words in noted) == 4
    assert [event["words"][:16] for event in site.of("alarm")] == ["STOPPED draining"]
    said = [words for words in site.said if "scontrol" in words or words.startswith("ALARM: ")]
    written = [*noted, *(f"ALARM: {event['words']}" for event in site.of("alarm"))]
    assert set(said) <= set(written)


def test_jobs_are_freed_also_where_nodes_are_not_to_be_drained() -> None:
    site = Watched(drains=False)
    site.site.stuck("9", "n005")
    site.site.runs("7", "n001", "n002")
    site.verdicts["n002"] = VerdictState.FAILED
    site.words["7"] = [suspicion("n002", at=site.clock.time)]
    site.passes(1000)
    assert site.site.did == [("down", "n005")]
    assert any(event["words"].startswith("n002: would drain") for event in site.of("noted"))


def test_spares_are_counted_once_a_minute_and_slurm_away_is_told_once() -> None:
    site = Watched()
    counted: list[float] = []

    def shortage() -> tuple[str, ...]:
        counted.append(site.clock.time)
        if len(counted) in (2, 3):
            raise SlurmUnreachable
        return ("partition main: 0 of 2 spares left",) if len(counted) == 1 else ()

    site.shortage = shortage
    site.start()
    site.passes(240)
    assert 4 <= len(counted) <= 5
    assert site.said[0] == "partition main: 0 of 2 spares left"
    assert sum(words.startswith("spares were not counted") for words in site.said) == 1


# Jobs that one node keeps from ending


def test_a_job_that_completes_for_too_long_on_one_node_is_freed_and_the_node_kept_out() -> None:
    site = Watched()
    site.site.stuck("9", "n005")
    site.passes(600)
    assert site.site.did == []
    site.passes(400)
    assert site.site.did == [("down", "n005")]
    assert "STUCK_COMPLETING" in site.site.machines["n005"].reason
    assert site.kinds == ["down-intended", "down-done"]


def test_a_job_that_completes_on_many_nodes_has_another_cause() -> None:
    site = Watched()
    site.site.stuck("9", "n005", "n006")
    site.passes(1000)
    assert site.site.did == []
    assert len(site.said) == 1
    assert "a shared cause" in site.said[0]


# Economy, and Slurm away


def test_slurm_is_read_only_when_something_changed_or_goes_on() -> None:
    site = Watched()
    site.passes(300)
    assert site.site.reads <= 8
    before = site.site.reads
    site.site.runs("7", "n001")
    site.passes(2)
    assert site.site.reads == before + 1


@pytest.mark.parametrize("why", ["a job waits", "a watcher is silent", "a node has no watcher"])
def test_slurm_is_read_every_10_s_where_something_depends_on_what_it_does_not_save(why: str) -> None:
    site = Watched()
    if why == "a job waits":
        site.site.runs("7", "n001")
        site.site.requeued("7", wait_s=0)
        site.site.records["7"] = replace(site.site.records["7"], reason="Priority", restarts=0)
    elif why == "a watcher is silent":
        site.passes(1)
        site.silent_watchers = {"n002"}
    else:
        site.without_watcher = {"n002"}
    site.passes(20)
    before = site.site.reads
    site.passes(100)
    assert 9 <= site.site.reads - before <= 12


def test_an_idle_node_without_a_watcher_is_asked_once_a_round_and_found_dead() -> None:
    site = Watched(nodes=20)
    site.without_watcher = {"n003", "n007", "n011"}
    site.passes(605)
    assert {name: site.pinged.count(name) for name in site.pinged} == dict.fromkeys(("n003", "n007", "n011"), 10)
    site.kill_node("n007")
    died = site.clock.time
    site.passes(80)
    assert site.site.did == [("down", "n007")]
    assert site.of("down-intended")[0]["at"] - died <= 60 + 20


def test_a_node_without_a_watcher_whose_slurmd_restarts_or_that_is_drained_is_left() -> None:
    site = Watched()
    site.without_watcher = {"n002", "n003"}
    drained = NodeState("IDLE", frozenset({"DRAIN"}))
    site.site.machines["n003"] = replace(site.site.machines["n003"], state=drained, reason="a new fan")
    site.kill_node("n003")
    site.silent_slurmds.add("n002")
    while "n002" not in site.pinged:
        site.passes(1)
    site.silent_slurmds.discard("n002")
    site.passes(60)
    assert (site.site.did, site.said) == ([], [])
    assert "n003" not in site.pinged


def test_nobody_is_asked_where_the_site_does_not_want_it() -> None:
    site = Watched(ask_unwatched_s=0.0)
    site.without_watcher = {"n002"}
    site.kill_node("n002")
    site.passes(200)
    assert (site.pinged, site.site.did) == ([], [])


def test_the_larger_the_cluster_the_less_often_it_is_read() -> None:
    site = Watched()
    read = site.site.jobs

    def slowly() -> Any:
        site.clock.sleep(0.5)
        site.site.changes += 1
        return read()

    site.site.jobs = slowly  # type: ignore[method-assign]
    site.passes(100)
    assert site.site.reads <= 12


def test_one_reading_that_waited_for_slurmctld_does_not_blind_the_watch() -> None:
    """scontrol waits by itself for a controller that is being restarted; runs have to be brought back right after."""
    site = Watched()
    site.passes(2)
    read, waits = site.site.jobs, [12.0]

    def waiting() -> Any:
        site.clock.sleep(waits.pop() if waits else 0.0)
        return read()

    site.site.jobs = waiting  # type: ignore[method-assign]
    site.site.changes += 1
    site.passes(1)
    before = site.site.reads
    site.site.changes += 1
    site.passes(1)
    assert (waits, site.site.reads) == ([], before + 1)


def test_a_slow_controller_is_told_only_once_that_a_node_is_down() -> None:
    site = Watched(limits=LOOSE)
    site.passes(2)
    slow_controller(site, 0.5)
    site.site.runs("7", "n002", "n003")
    site.passes(12)
    site.kill_node("n002")
    site.passes(60)
    assert site.site.did == [("down", "n002"), ("terms", "7", ("n002",), 2)]


def test_a_person_who_drains_the_node_first_is_left_alone() -> None:
    site = Watched()
    site.passes(2)
    site.kill_node("n002")
    taken = site.site.nodes

    def changed(names: Any = ()) -> Any:
        if names == ["n002"]:
            state = NodeState("ALLOCATED", frozenset({"DRAIN"}))
            site.site.machines["n002"] = replace(site.site.machines["n002"], state=state, reason="new fan, kim")
        return taken(names)

    site.site.nodes = changed  # type: ignore[method-assign]
    site.passes(30)
    assert site.site.did == []
    assert "new fan" in site.said[0]


def test_a_controller_that_is_away_is_waited_out_and_nothing_is_forgotten() -> None:
    site = Watched()
    site.site.runs("7", "n002", "n003")
    site.passes(12)
    site.kill_node("n002")
    site.site.away = True
    stops = iter([False] * 20 + [True])
    site.watch.run(lambda: next(stops))
    assert len(site.said) == 1
    assert site.site.did == []
    site.site.away = False
    site.passes(20)
    assert site.site.did == [("down", "n002"), ("terms", "7", ("n002",), 2)]


# Jobs that do not leave their nodes


def completes(site: Watched, job_id: str, *nodes: str) -> None:
    site.site.runs(job_id, *nodes)
    record = replace(site.site.records[job_id], state="COMPLETING", restarts=1, extra={"JobId": "41"})
    site.site.records[job_id] = record


def test_nodes_of_a_run_that_completes_too_long_are_freed_by_their_watchers() -> None:
    site = Watched()
    completes(site, "12_3", "n001", "n003")
    site.passes(3)
    assert site.freed == []
    site.passes(3)
    assert site.freed == [("41", ("n001", "n003"))]
    assert site.kinds == ["free-asked"]
    site.passes(10)
    assert len(site.freed) == 2


def test_nodes_of_a_run_that_lost_one_just_before_are_freed_as_soon_as_it_completes() -> None:
    site = Watched()
    site.site.runs("12_3", "n001", "n002", "n003")
    site.passes(2)
    site.site.runs("12_3", "n001", "n003")
    site.passes(2)
    assert site.freed == []
    completes(site, "12_3", "n001", "n003")
    site.passes(1)
    assert site.freed == [("41", ("n001", "n003"))]


def test_a_run_that_lost_a_node_long_ago_completes_like_any_other() -> None:
    site = Watched()
    site.site.runs("12_3", "n001", "n002", "n003")
    site.passes(2)
    site.site.runs("12_3", "n001", "n003")
    site.passes(70)
    completes(site, "12_3", "n001", "n003")
    site.passes(2)
    assert site.freed == []


def lingers(site: Watched, steps: list[Any], *, seq: int = 4) -> dict[str, Any]:
    return {"seq": seq, "at": site.clock.time, "kind": "restarted", "lingering": steps}


def test_steps_that_a_run_left_behind_are_ended_before_it_may_have_to_leave_its_nodes() -> None:
    site = Watched()
    site.site.runs("12_3", "n001", "n003")
    record = site.site.records["12_3"]
    site.site.records["12_3"] = replace(record, extra={**record.extra, "JobId": "41"})
    site.words["12_3"] = [lingers(site, ["12_3.9"], seq=3), lingers(site, ["12_3.0", "12_3.2"])]
    site.passes(6)
    assert site.freed_steps == [("41", ("n001", "n003"), (0, 2))]
    assert [(event["nodes"], event["steps"]) for event in site.of("free-asked")] == [(["n001", "n003"], [0, 2])]
    site.passes(30)
    assert len(site.freed_steps) == 1, "the same word again"
    site.words["12_3"].append(lingers(site, ["12_3.5"], seq=9))
    site.passes(6)
    assert site.freed_steps[1:] == [("41", ("n001", "n003"), (5,))]


@pytest.mark.parametrize("steps", [["7.batch", "7.4294967291", "8", 3, None, {}, "7.0/../1"], "7.0", [], None])
def test_what_is_no_step_of_the_job_is_asked_of_nobody(steps: Any) -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.words["7"] = [lingers(site, steps)]
    site.passes(20)
    assert site.freed_steps == []


def test_a_run_that_says_so_all_the_time_is_heard_seldom() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    for seq in range(1, 61):
        site.words["7"] = [lingers(site, ["7.0"], seq=seq)]
        site.passes(1)
    assert 1 <= len(site.freed_steps) <= 7


def test_steps_left_behind_are_ended_at_once_where_the_run_leaves_its_nodes_after_all() -> None:
    site = Watched()
    site.site.runs("12_3", "n001", "n003")
    site.passes(7)
    completes(site, "12_3", "n001", "n003")
    site.words["12_3"] = [lingers(site, ["12_3.0"])]
    site.passes(6)
    assert site.freed_steps == [("41", ("n001", "n003"), (0,))]
    assert site.freed == [("41", ("n001", "n003"))], "and what else stays is asked about when it completes too long"


def test_an_old_word_or_a_watch_that_observes_frees_nothing() -> None:
    old, watched = Watched(), Watched(act=False)
    for site in (old, watched):
        site.site.runs("7", "n001")
        site.words["7"] = [lingers(site, ["7.0"])]
    old.words["7"][0]["at"] -= 61
    old.passes(10)
    watched.passes(10)
    assert old.freed_steps == watched.freed_steps == []
    assert any(words.startswith("would ask n001 to be freed from step 7.0") for words in watched.said)


@pytest.mark.parametrize(("act", "script"), [(False, SPARED), (True, "#!/bin/sh\n")])
def test_nobody_is_freed_by_a_watch_that_observes_nor_from_jobs_of_others(act: bool, script: str) -> None:
    site = Watched(act=act)
    completes(site, "7", "n001")
    site.site.scripts["7"] = script
    site.passes(20)
    assert site.freed == []


def test_ten_jobs_without_a_script_keep_no_run_from_being_heard() -> None:
    site = Watched()
    asked: list[str] = []

    def batch_script(job_id: str) -> str:
        asked.append(job_id)
        if job_id != "99":
            raise CommandFailed(["scontrol", "write", "batch_script", job_id], 1, "error: job script retrieval failed")
        return RUN

    site.site.batch_script = batch_script  # type: ignore[method-assign]
    for number in range(1, 13):
        site.site.runs(str(number), "n002")
    site.site.runs("99", "n001", "n003")
    site.words["99"] = [lingers(site, ["99.0"])]
    site.passes(12)
    assert site.freed_steps == [("99", ("n001", "n003"), (0,))]
    assert all(asked.count(job_id) == 1 for job_id in set(asked)), "they are asked about seldom"


def test_ten_jobs_that_wait_keep_no_run_from_giving_up_its_spares() -> None:
    """Of the waiting jobs those are looked at whose turn it is."""
    site = Watched()
    for number in range(1, 13):
        site.site.runs(str(number), "n002", script="#!/bin/sh\n")
        site.site.requeued(str(number), wait_s=0)
        site.site.records[str(number)] = replace(site.site.records[str(number)], reason="ReqNodeNotAvail")
    site.site.runs("99", "n001", "n003")
    site.site.requeued("99", wait_s=0)
    site.site.records["99"] = replace(site.site.records["99"], reason="Resources")
    looked, script = list[str](), site.site.batch_script

    def batch_script(job_id: str) -> str:
        looked.append(job_id)
        return script(job_id)

    site.site.batch_script = batch_script  # type: ignore[method-assign]
    site.passes(14)
    assert "99" in looked


def test_a_record_that_cannot_be_understood_ends_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Watched()
    for job_id, node in (("7", "n001"), ("8", "n003")):
        site.site.runs(job_id, node)
    site.words["7"], site.words["8"] = [lingers(site, ["7.0"])], [lingers(site, ["8.0"])]
    hear = RunTakeOver.hear

    def breaks(self: RunTakeOver, job_id: str, events: Sequence[Any]) -> None:
        if job_id == "7":
            raise OverflowError("int too large to convert to float")
        hear(self, job_id, events)

    monkeypatch.setattr(RunTakeOver, "hear", breaks)
    site.passes(12)
    assert [job for job, *_ in site.freed_steps] == ["8"]
    assert sum("the record of run 7 is passed over" in words for words in site.said) == 1


def test_a_clock_that_is_set_back_blinds_the_watch_for_no_hour() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.passes(30)
    site.clock.time -= 3600.0
    site.verdicts["n002"] = VerdictState.FAILED
    site.words["7"] = [suspicion("n002", at=site.clock.time)]
    site.passes(30)
    assert site.site.did == [("drain", "n002")]
