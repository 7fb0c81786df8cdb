from __future__ import annotations

from copy import deepcopy

import pytest
from run_fakes import NOW, FakeChild, Run

from sovctl.errors import CommandFailed


def blamed(run: Run, *nodes: str) -> None:
    run.journal.append("attempt_ended", attempt=0, culprit="hardware", blamed=list(nodes), evidence="XID79")


def test_the_job_comes_back_away_from_the_blamed_node_in_seconds() -> None:
    run = Run()
    blamed(run, "n002")
    run.back(["n001", "n002"]).requeue(exclude_reason="XID79")
    run.slurm.leave(run.job_id)
    assert run.await_start() < 6
    assert run.job.starts == [("n001", "n002"), ("n001", "n003")]
    assert (run.job.excluded, run.job.restarts) == (("n002",), 1)
    assert run.kinds == ["attempt_ended", "requeue_intent", "epilogs_done", "requeued"]
    assert run.of("requeued")[0]["exclude"] == ["n002"]


def test_the_begin_is_ahead_when_the_last_epilog_ends() -> None:
    run = Run()
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    begin = run.of("requeued")[0]["begin"]
    assert run.clock.time < begin <= run.clock.time + 4


def test_the_begin_is_further_ahead_where_processes_wait_for_a_core() -> None:
    def begin_after(crowding: float) -> float:
        run = Run()
        back = run.back(["n001", "n002"])
        back.crowding = lambda: crowding
        back.requeue(exclude_reason="x")
        return float(run.of("requeued")[0]["begin"] - run.clock.time)

    assert begin_after(1.0) + 1 <= begin_after(20.0) <= begin_after(1.0) + 5


def test_a_drain_tells_when_the_scheduler_runs_next() -> None:
    """Its pass is over before the first look at the count: without its time the run would wait for one more."""

    def takes(drained: bool) -> float:
        run = Run()
        blamed(run, "n002")
        if drained:
            run.slurm.drain("n002", "XID79")
        run.clock.sleep(1.2)
        began = run.clock.time
        run.back(["n001", "n002"]).requeue(exclude_reason="XID79")
        return run.clock.time - began

    assert takes(drained=True) < 0.5 < 1.5 < takes(drained=False)


@pytest.mark.parametrize("for_queue", [True, False])
def test_the_pass_that_a_drain_asked_for_is_seen_while_the_script_ends(for_queue: bool) -> None:
    """It began in the second after the drain's, so the next one comes a second later too: early enough to begin by it.
    By the drain alone, which Slurm tells in whole seconds, the run would wait for that one and then for one more."""
    run = Run()
    blamed(run, "n002")
    run.slurm.scheduler_passes = lambda: 7 + sum(run.clock.time >= NOW + at for at in (1.25, 4.05))  # type: ignore[method-assign]
    run.clock.sleep(0.65)
    run.slurm.drain("n002", "XID79")
    run.clock.sleep(0.25)
    script, back = FakeChild(run.clock), run.back(["n001", "n002"])
    run.slurm.kill_steps = lambda *_args, **_named: run.clock.at(1.5, lambda: script.end(1))  # type: ignore[method-assign]
    back.kill(script, (), for_queue=for_queue)
    run.clock.sleep(NOW + 2.7 - run.clock.time)
    back.requeue(exclude_reason="XID79")
    assert (run.clock.time < NOW + 3.5) is for_queue
    assert (run.of("requeued")[0]["begin"] == NOW + 4) is for_queue


def test_a_frozen_node_is_cut_out_also_where_slurmctld_does_not_hear_the_batch_host() -> None:
    """Else the job would complete for SlurmdTimeout. The batch host lives: the supervisor is there."""
    run = Run(count=3)
    back = run.back(["n001", "n002", "n003"])
    back.kill(FakeChild(run.clock), ["n001", "n002"], for_queue=True)
    assert run.job.nodes == ("n001", "n003")
    assert (list(back.nodes), back.shrunk) == (["n001", "n003"], True)


def test_a_drain_of_long_ago_tells_nothing() -> None:
    run = Run()
    blamed(run, "n002")
    run.slurm.drain("n004", "new cable")
    run.clock.sleep(4.2)
    began = run.clock.time
    run.back(["n001", "n002"]).requeue(exclude_reason="XID79")
    assert run.clock.time - began > 1.5


def test_a_held_job_keeps_off_the_blamed_node_when_it_is_let_go() -> None:
    run = Run()
    run.job.excluded = ("n004",)
    blamed(run, "n002")
    run.back(["n001", "n002"]).hold("the same crash twice")
    run.slurm.leave(run.job_id)
    assert run.job.excluded == ("n002", "n004")
    assert run.kinds[-2:] == ["hold_intent", "held"]
    assert run.slurm.job(run.job_id).priority == 0


def test_the_users_own_exclusions_are_kept() -> None:
    run = Run()
    run.job.excluded = ("n004",)
    blamed(run, "n002")
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    assert run.job.excluded == ("n002", "n004")


def test_a_forgiven_node_is_no_longer_excluded() -> None:
    run = Run()
    run.job.excluded = ("n003", "n004")
    blamed(run, "n003")
    run.journal.append("forgiven", nodes=["n003"])
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    assert run.job.excluded == ("n004",)


def test_exclusions_that_age_out_are_written_down_when_a_requeue_drops_them() -> None:
    run = Run()
    run.job.excluded = ("n003", "n004")
    blamed(run, "n003")
    run.journal.records[0]["at"] -= 7 * 24 * 3600.0
    blamed(run, "n002")
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    assert run.job.excluded == ("n002", "n004")
    assert [record["nodes"] for record in run.of("lapsed")] == [["n003"]]


def test_a_blamed_node_that_left_the_site_does_not_spoil_the_list() -> None:
    run = Run()
    blamed(run, "n777")
    blamed(run, "n002")
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    assert run.job.excluded == ("n002",)
    assert "command_refused" not in run.kinds


def test_a_controller_that_is_away_for_a_while_is_waited_for() -> None:
    run = Run()
    blamed(run, "n002")
    run.slurm.unreachable = lambda: NOW + 0.01 < run.clock.time < NOW + 90
    run.clock.at(0.02, lambda: None)
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    assert run.kinds.count("requeue_intent") == 1
    assert "slurm_silent" in run.kinds
    run.slurm.leave(run.job_id)
    run.await_start()
    assert run.job.restarts == 1
    assert "n002" not in run.job.nodes


def test_a_cancel_before_the_requeue_is_respected() -> None:
    run = Run()
    run.slurm.cancel(run.job_id)
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    run.slurm.leave(run.job_id)
    run.clock.sleep(300)
    assert (run.slurm.job(run.job_id).state, run.job.restarts) == ("CANCELLED", 0)
    assert run.of("run_ended")[0]["outcome"] == "cancelled"
    assert "requeued" not in run.kinds


@pytest.mark.parametrize(
    ("reason", "outcome"), [("None", "cancelled"), ("TimeLimit", "timeout"), ("NodeDown", "node_fail")]
)
def test_the_end_that_slurm_gave_the_job_meanwhile_is_written_down_as_what_it_was(reason: str, outcome: str) -> None:
    for hold in (False, True):
        run = Run()
        run.slurm.cancel(run.job_id)
        run.job.reason = reason
        back = run.back(["n001", "n002"])
        back.hold("x") if hold else back.requeue(exclude_reason="x")
        (ended,) = run.of("run_ended")
        assert (ended["outcome"], ended["why"]) == (outcome, f"{outcome.replace('_', ' ')} during recovery")


def test_a_cancel_between_the_look_and_the_command_is_respected() -> None:
    run = Run()
    asked = run.slurm.requeue

    def too_late(job_id: str, *, hold: bool = False) -> None:
        run.slurm.cancel(job_id)
        asked(job_id, hold=hold)

    run.slurm.requeue = too_late  # type: ignore[method-assign]
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    assert run.job.restarts == 0
    assert run.kinds == ["requeue_intent", "run_ended"]


@pytest.mark.parametrize("after_s", [0.05, 0.3, 1.0, 2.0, 3.0])
def test_a_cancel_at_any_moment_of_the_recovery_is_respected(after_s: float) -> None:
    run = Run()
    blamed(run, "n002")
    run.clock.at(after_s, lambda: run.slurm.cancel(run.job_id))
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    run.slurm.leave(run.job_id)
    run.clock.sleep(300)
    assert run.slurm.job(run.job_id).state == "CANCELLED"
    assert len(run.job.starts) == 1
    assert len(run.of("run_ended")) + len(run.of("requeued")) == 1


@pytest.mark.parametrize("after_s", [0.1, 0.5, 1.0, 1.5, 2.0])
def test_a_controller_that_forgot_the_requeue_is_asked_again(after_s: float) -> None:
    run = Run()
    blamed(run, "n002")
    before = deepcopy(run.job)
    run.clock.at(after_s, lambda: run.slurm.roll_back(run.job_id, before))
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    if run.clock.time < NOW + after_s:
        pytest.skip("the job was back before the controller forgot")
    assert sum(request.startswith("requeue") for request in run.slurm.requests) == 2
    run.slurm.leave(run.job_id)
    run.await_start()
    assert "n002" not in run.job.nodes
    assert len(run.of("requeued")) == 1


def test_a_requeue_that_is_always_refused_ends_with_slurms_words() -> None:
    run = Run()

    def never(job_id: str, *, hold: bool = False) -> None:
        raise CommandFailed(["scontrol", "requeue"], 1, "Requested operation is presently disabled")

    run.slurm.requeue = never  # type: ignore[method-assign]
    with pytest.raises(CommandFailed, match="presently disabled"):
        run.back(["n001", "n002"]).requeue(exclude_reason="x")
    assert 2 <= run.kinds.count("command_refused") <= 10


def test_terms_that_are_always_refused_end_the_asking() -> None:
    run = Run()
    blamed(run, "n002")

    def never(job_id: str, **terms: object) -> None:
        raise CommandFailed(["scontrol", "update"], 1, "Job update not available right now")

    run.slurm.update_pending = never  # type: ignore[method-assign, assignment]
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    assert 2 <= run.kinds.count("command_refused") <= 60
    assert run.clock.time < NOW + 60
    assert run.job.restarts == 1


def test_a_held_job_stays_until_somebody_releases_it() -> None:
    run = Run()
    run.back(["n001", "n002"]).hold("the same crash at step 40 happened 2 times")
    run.slurm.leave(run.job_id)
    run.clock.sleep(1000)
    assert run.slurm.job(run.job_id).held
    assert run.kinds == ["hold_intent", "held"]
    run.slurm.release(run.job_id)
    run.await_start()
    assert run.job.restarts == 1


def test_a_cancel_instead_of_the_hold_is_respected() -> None:
    run = Run()
    run.slurm.cancel(run.job_id)
    run.back(["n001", "n002"]).hold("x")
    assert run.kinds == ["hold_intent", "run_ended"]


def test_a_requeue_by_somebody_else_is_spared_the_121_s() -> None:
    run = Run()
    back = run.back(["n001", "n002"])
    run.slurm.requeue(run.job_id)
    back.settle()
    run.slurm.leave(run.job_id)
    assert run.await_start() < 6
    assert run.job.restarts == 1


def test_a_hold_by_somebody_else_is_left_alone() -> None:
    run = Run()
    back = run.back(["n001", "n002"])
    run.slurm.requeue(run.job_id, hold=True)
    back.settle()
    run.slurm.leave(run.job_id)
    run.clock.sleep(1000)
    assert run.slurm.job(run.job_id).held
    assert run.journal.records == []


def test_a_dead_node_is_cut_out_so_that_the_job_need_not_wait_for_it() -> None:
    run = Run()
    run.slurm.version = "24.11.0"
    child = FakeChild(run.clock)
    back = run.back(["n001", "n002"])
    back.kill(child, ["n002"])
    assert run.job.nodes == ("n001",)
    assert child.status == -9


@pytest.mark.parametrize("dead", [(), ("n002",)])
def test_nobody_waits_for_the_report_of_a_dead_node(dead: tuple[str, ...]) -> None:
    run = Run()
    told: list[tuple[bool, bool]] = []

    def kill_steps(
        job_id: str, *, patience_s: float | None = None, lost_node: bool = False, looks: bool = True
    ) -> None:
        told.append((lost_node, looks))

    run.slurm.kill_steps = kill_steps  # type: ignore[method-assign]
    run.back(["n001", "n002"]).kill(FakeChild(run.clock), dead)
    # Looks end by themselves: told twice, a slurmstepd may wait a minute for itself.
    assert told == [(bool(dead), False)]


def test_a_dead_batch_host_cannot_be_cut_out() -> None:
    run = Run()
    run.back(["n001", "n002"]).kill(FakeChild(run.clock), ["n001"])
    assert run.job.nodes == ("n001", "n002")
    assert not any(request.startswith("drop") for request in run.slurm.requests)


def test_a_shrunk_job_that_takes_no_terms_is_requeued_without() -> None:
    run = Run()
    back = run.back(["n001", "n002"])
    blamed(run, "n002")
    back.kill(FakeChild(run.clock), ["n002"])
    back.requeue(exclude_reason="NODE_DEAD")
    assert run.job.restarts == 1
    assert not any(request.startswith("update") for request in run.slurm.requests)
    assert run.of("requeued")[0]["begin"] is None


def test_nothing_is_killed_before_slurmctld_is_back() -> None:
    """A step that ends without a controller keeps its nodes for a minute."""
    run = Run()
    back_at = run.clock.now() + 30
    run.slurm.unreachable = lambda: run.clock.now() < back_at
    child = FakeChild(run.clock)
    run.back(["n001", "n002"]).kill(child, [])
    assert child.status == -9
    assert run.clock.now() >= back_at
    assert run.kinds == ["slurm_silent", "killed"]


def test_a_step_known_to_be_left_on_the_books_delays_no_restart() -> None:
    """A node that does not answer keeps a dead step listed for a minute; the next restart does not wait for it."""
    run = Run(count=3)
    run.slurm.steps = lambda job_id: {f"{job_id}.0": run.clock.now()}  # type: ignore[method-assign]
    child = run.start([], {})
    back = run.back(run.job.nodes)
    began = run.clock.time
    assert not back.clear(child, ())
    assert run.clock.time - began > 5
    back.lingering = (f"{run.job_id}.0",)
    began = run.clock.time
    assert back.clear(child, ())
    assert run.clock.time - began < 1
    assert back.lingering == (f"{run.job_id}.0",)


def test_steps_of_an_earlier_attempt_on_the_books_are_the_memory_of_an_older_state() -> None:
    """slurmctld was killed, and came back without the last seconds: what ended in them never ends, and what runs is not
    listed. The queue is the only way on, and is taken at once."""
    run = Run(count=3)
    child = run.start([], {})
    back = run.back(run.job.nodes)
    back.began = run.clock.now()
    old, new = back.began - 20.0, back.began + 1.0
    for steps, least, most in (
        ({"1.0": old, "1.1": old}, 1.0, 3.0),
        ({"1.0": old, "1.2": new}, 5.0, 20.0),
        ({"1.0": 0.0}, 5.0, 20.0),
    ):
        run.slurm.steps = lambda _, steps=steps: steps  # type: ignore[method-assign, misc]
        began = run.clock.time
        assert not back.clear(child, ())
        assert least < run.clock.time - began < most, steps


def test_a_node_that_slurmctld_gave_back_to_the_job_keeps_it_from_a_restart_in_place() -> None:
    run = Run(count=3)
    child = run.start([], {})
    back = run.back(run.job.nodes)
    assert back.clear(child, ["n002"])
    assert run.job.nodes == ("n001", "n003")
    run.job.nodes = ("n001", "n002", "n003")  # an older state, in which n002 had not been cut out
    assert not back.clear(run.start([], {}), ())


def test_an_expedited_job_needs_no_begin_time() -> None:
    run = Run()
    run.job.expedited = True
    blamed(run, "n002")
    run.back(["n001", "n002"]).requeue(exclude_reason="XID79")
    assert run.of("requeued")[0]["begin"] is None
    run.slurm.leave(run.job_id)
    assert run.await_start() < 1
    assert run.job.starts[-1] == ("n001", "n003")
    assert run.clock.time < NOW + 2


def test_a_short_delay_of_slurms_own_is_not_made_longer() -> None:
    run = Run()
    run.slurm.version, run.slurm.scheduler = "26.05.5", "requeue_delay=5"
    run.slurm.own_delay_s = 6
    blamed(run, "n002")
    back = run.back(["n001", "n002"])
    # Killed after the exclusion is written, before the begin time is.
    run.slurm.requeue(run.job_id)
    run.clock.at(0.02, lambda: run.slurm.leave(run.job_id))
    back.requeue(exclude_reason="XID79")
    assert run.await_start() < 10
    begins = [request for request in run.slurm.begins if request is not None]
    assert all(begin < NOW + 20 for begin in begins)


def test_a_pass_is_asked_for_where_no_exclusion_changes() -> None:
    run = Run()
    back = run.back(["n001", "n002"])
    run.slurm.requeue(run.job_id)
    back.settle()
    assert len(run.slurm.begins) == 2
    run.slurm.leave(run.job_id)
    assert run.await_start() < 6


def test_a_begin_counts_from_when_slurmd_was_told() -> None:
    """0.8 s after it was told, slurmd has just looked; it looks again at 1.67 s, and only then is the job gone."""
    run = Run()
    back = run.back(["n001"])
    run.slurm.requeue(run.job_id)
    told = run.clock.time
    run.clock.sleep(0.8)
    back.sigterm_at = lambda: told
    back.settle()
    left = run.clock.time
    looks = [told + after for after in (0.67, 1.67, 2.67, 3.67, 4.67, 5.67) if told + after >= left]
    assert run.of("requeued")[0]["begin"] > looks[0]


def test_a_begin_time_that_a_slow_controller_took_too_late_is_given_again() -> None:
    run = Run()
    blamed(run, "n002")
    update, slow = run.slurm.update_pending, [2.0]

    def late(*args: object, **more: object) -> None:
        update(*args, **more)  # type: ignore[arg-type]
        begin = more["begin"]
        if isinstance(begin, int) and begin < run.clock.time + 20 and slow:
            run.clock.sleep(slow.pop())

    run.slurm.update_pending = late  # type: ignore[method-assign]
    run.back(["n001", "n002"]).requeue(exclude_reason="XID79")
    begin = run.of("requeued")[0]["begin"]
    assert not slow
    assert begin > run.clock.time, "the second it was first given is over"
    run.slurm.leave(run.job_id)
    assert run.await_start() < 15


@pytest.mark.parametrize("others_s", [10.8, 11.5, 12.9, 14.0, 16.4, 18.0, 19.0])
def test_a_seldom_look_of_slurmd_is_not_missed(others_s: float) -> None:
    """The other nodes took longer than 10 s: slurmd looks 20.67 s after the requeue whether the supervisor has left,
    and then not before KillWait."""
    run = Run()
    blamed(run, "n002")
    run.slurm._epilog_s = others_s
    run.back(["n001", "n002"]).requeue(exclude_reason="x")
    look = NOW + 20.67
    assert NOW + others_s < run.clock.time < look
    begin = run.slurm.begins[-1]
    assert begin is not None
    assert look < begin < look + 2.5


def leave(run: Run, epilog_s: float = 0.3) -> None:
    """The supervisor is gone; the batch host's own epilog is a short one, whatever the other nodes took."""
    run.slurm._epilog_s = epilog_s
    run.slurm.leave(run.job_id)


def test_ranks_that_save_until_kill_wait_cost_no_more_than_that() -> None:
    """SIGTERM does not end the script: slurmd kills it and its supervisor 30 s after the requeue."""
    run = Run()
    run.slurm._epilog_s = 30.2
    script = FakeChild(run.clock)
    back = run.back(["n001", "n002"])
    run.slurm.requeue(run.job_id)
    back.stand_by()
    back.settle(script)
    assert run.clock.time < NOW + 29, "SIGKILL would have come first"
    run.clock.at(30.1, lambda: leave(run))
    run.await_start()
    assert run.clock.time < NOW + 45


@pytest.mark.parametrize("others_s", [24.0, 26.5, 27.5])
def test_nothing_is_waited_for_beyond_kill_wait(others_s: float) -> None:
    """The other nodes are done just in time; the pass to align with would come too late."""
    run = Run()
    run.slurm._epilog_s = others_s
    run.slurm.scheduler_passes = lambda: 7  # type: ignore[method-assign]
    back = run.back(["n001", "n002"])
    back.sigterm_at = lambda: NOW
    run.slurm.requeue(run.job_id)
    back.settle()
    assert NOW + others_s < run.clock.time < NOW + 29
    leave(run)
    run.await_start()
    assert run.clock.time < NOW + 35


def test_a_save_within_kill_wait_is_waited_for_and_no_epilog() -> None:
    run = Run()
    run.slurm.epilog = "/etc/slurm/epilog.sh"
    run.slurm._epilog_s = 15.3
    script = FakeChild(run.clock)
    run.clock.at(15.0, lambda: script.end(0))
    back = run.back(["n001", "n002"])
    run.slurm.requeue(run.job_id)
    back.sigterm_at = lambda: NOW
    back.settle(script)
    leave(run)
    run.await_start()
    assert NOW + 20.67 < run.clock.time < NOW + 30, "slurmd's next look, an epilog of 2 s, and the next second"


@pytest.mark.parametrize("known", [True, False])
def test_a_step_that_waits_for_a_dead_node_costs_its_minute_and_no_more(known: bool) -> None:
    run = Run()
    run.slurm._epilog_s = 50.0
    back = run.back(["n001", "n002"])
    run.slurm.requeue(run.job_id)
    back.lingers_until = NOW + 50.0 if known else 0.0
    back.settle()
    leave(run, 50.0 - (run.clock.time - NOW))
    run.await_start()
    assert run.clock.time < NOW + (60 if known else 100)


@pytest.mark.parametrize("before_s", [0.7, 3.2, 10.9])
def test_a_requeue_by_somebody_else_under_our_hands_counts_from_then(before_s: float) -> None:
    """It came while a recovery of our own was under way: slurmd's looks are a second apart, later ten."""
    run = Run()
    blamed(run, "n002")
    back = run.back(["n001", "n002"])
    run.slurm.requeue(run.job_id)
    told = run.clock.time
    back.ran_at = told - 0.4
    run.clock.sleep(before_s)
    back.requeue(exclude_reason="XID79")
    left = run.clock.time
    looks = [0.67 + second for second in range(11)] + [20.67, 29.67]
    assert run.of("requeued")[0]["begin"] > min(told + look for look in looks if told + look >= left)
    run.slurm.leave(run.job_id)
    assert run.await_start() < 25


def test_slurms_own_delay_is_over_before_anything_else_is_done() -> None:
    run = Run()
    back = run.back(["n001", "n002"])
    run.slurm.requeue(run.job_id)
    back.stand_by()
    assert run.clock.time < NOW + 1
    assert run.job.excluded == ()
    # Killed here: nobody sets its terms.
    run.slurm.leave(run.job_id)
    assert run.await_start() < 100


def test_nobody_gives_a_begin_to_a_held_job() -> None:
    run = Run()
    back = run.back(["n001", "n002"])
    run.slurm.requeue(run.job_id, hold=True)
    back.stand_by()
    assert run.slurm.begins == []
