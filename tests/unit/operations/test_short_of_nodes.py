"""Runs that cannot do without a node that was blamed: they wait for it, try it again, or are held with the reason."""

from __future__ import annotations

from run_fakes import XID79, Run

FAULTY = "n002"


def full(nodes: int, count: int) -> Run:
    run = Run(nodes=nodes, count=count)
    # Without slurmdbd a shrunk job takes no terms (22.05).
    run.slurm.accounting = "accounting_storage/slurmdbd"
    return run


def later(run: Run) -> None:
    """Slurm has had all the time it wants."""
    for _ in range(2):
        run.slurm.job(run.job_id)
        run.clock.sleep(500)


def stops_on(run: Run, at: float = 10.0) -> None:
    """Its slurmd and its ranks fall silent, and nobody takes it out of service."""
    began = run.clock.time - run.began
    attempt = len(run.of("attempt_started"))
    run.clock.at(began + at, lambda: run.steps(12, attempt=attempt))
    run.clock.at(began + at + 0.1, lambda: run.silent_slurmds.add(FAULTY))
    run.attempt()
    run.silent_slurmds.clear()


def test_a_run_that_needs_every_node_tries_the_blamed_one_again_and_is_held_in_the_end() -> None:
    run = full(4, 4)
    for time in (1, 2):
        stops_on(run)
        assert run.of("requeued")[-1]["given_up"] == [FAULTY]
        assert run.await_start() < 6
        assert FAULTY in run.job.nodes, time
    assert "held" not in run.kinds
    assert "misplaced" not in run.kinds
    stops_on(run)
    later(run)
    assert run.slurm.job(run.job_id).held
    why = run.of("held")[0]["why"]
    assert why == f"4 nodes are needed and 3 of partition main are left ({FAULTY} blamed for 3 stops in a row)"
    assert f"{why}; the run is held" in run.said
    assert [record["action"] for record in run.of("attempt_ended")] == ["restart"] * 3


def test_once_it_is_released_a_held_run_may_have_the_node_it_cannot_do_without() -> None:
    run = full(4, 4)
    for _ in range(3):
        stops_on(run)
        if not run.of("held"):
            run.await_start()
    run.slurm.release(run.job_id)
    run.await_start()
    assert len(run.job.nodes) == 4
    run.on_start = lambda child: child.end(0)
    run.attempt()
    assert "misplaced" not in run.kinds
    assert run.of("run_ended")[0]["outcome"] == "finished"


def test_with_fewer_nodes_it_goes_on_without_the_blamed_one() -> None:
    run = full(4, 4)
    run.clock.at(10.0, lambda: run.steps(12))
    run.clock.at(10.1, lambda: run.silent_slurmds.add(FAULTY))
    run.on_start = lambda child: run.clock.at(60.0, lambda: child.end(0))
    run.attempt(size=4, least=3)
    assert [record["how"] for record in run.of("restarted")] == ["fewer-nodes"]
    assert "requeued" not in run.kinds


def test_a_drained_node_that_the_run_needs_is_waited_for_and_that_is_said() -> None:
    run = full(4, 4)
    run.clock.at(20.0, lambda: run.slurm.drain(FAULTY, XID79))
    run.attempt()
    short = run.of("requeued")[0]["short"]
    assert short == f"4 nodes are needed and 3 of partition main are left ({FAULTY} out of service)"
    assert f"{short}; the run waits for that to change" in run.said
    later(run)
    job = run.slurm.job(run.job_id)
    assert (job.state, job.reason, job.excluded) == ("PENDING", "Resources", ())
    run.slurm.resume(FAULTY)
    assert run.await_start() < 6
    run.on_start = lambda child: child.end(0)
    run.attempt()
    assert "misplaced" not in run.kinds


def test_a_node_that_nodelist_names_is_tried_again_though_others_are_free() -> None:
    run = full(6, 2)
    run.job.required = (FAULTY,)
    for _ in (1, 2):
        stops_on(run)
        assert run.await_start() < 6
        assert FAULTY in run.job.nodes
    stops_on(run)
    later(run)
    assert run.slurm.job(run.job_id).held
    assert run.of("held")[0]["why"] == (
        f"--nodelist asks for {FAULTY}, which stopped the run 3 times without a new checkpoint"
    )


def test_a_requeue_from_outside_never_leaves_a_run_that_slurm_sets_aside() -> None:
    run = full(4, 4)
    for _ in (1, 2):
        stops_on(run)
        run.await_start()
    run.journal.append("attempt_ended", attempt=2, culprit="hardware", blamed=[FAULTY], evidence="XID79")
    back = run.back(run.job.nodes)
    run.slurm.requeue(run.job_id)
    back.settle()
    run.slurm.leave(run.job_id)
    assert run.await_start() < 6
