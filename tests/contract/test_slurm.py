"""What JobControl, NodeControl and ClusterView promise, kept by the fake and by real Slurm."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from slurm_fake import FakeSlurm

from sovctl.adapters.clock import SystemClock
from sovctl.adapters.command import CommandRunner, Completed
from sovctl.adapters.slurm.api import SlurmApi
from sovctl.adapters.slurm.cli import SlurmCli
from sovctl.adapters.slurm.parse import fold
from sovctl.errors import (
    EXIT_TRY_LATER,
    CommandFailed,
    CommandMissing,
    JobNotFound,
    NotPermitted,
    SlurmConfMissing,
    SlurmUnreachable,
    SovctlError,
    TryLaterError,
)
from sovctl.lab import cluster
from sovctl.model.job import JobView
from sovctl.model.reservation import Reservation
from sovctl.recovery.reserved import kept_from
from sovctl.recovery.slurm_hold import cause, held

REASON = "sovctl:20261122-1a2b XID79 GPU 5 fell off the bus"
Eventually = Callable[..., Any]


class Site(Protocol):
    """A cluster of four nodes, and what a test does besides the contract."""

    slurm: Any

    def submit(self, count: int, *, held: bool = False, steps: int = 0) -> str: ...
    def steps(self, job_id: str) -> int: ...
    def tasks(self, job_id: str) -> int: ...
    def close(self) -> None: ...


class FakeSite:
    def __init__(self) -> None:
        self.slurm = FakeSlurm(SystemClock())

    def submit(self, count: int, *, held: bool = False, steps: int = 0) -> str:
        return self.slurm.submit(count, held=held, steps=steps)

    def steps(self, job_id: str) -> int:
        return self.slurm.records[job_id].steps

    def tasks(self, job_id: str) -> int:
        return self.steps(job_id) * len(self.slurm.records[job_id].nodes)

    def close(self) -> None:
        return


class RealSite:
    def __init__(self, lab: cluster.Lab, directory: Path) -> None:
        self._runner = CommandRunner(lab.environment)
        self._directory = directory
        self.jobs: list[str] = []
        self.slurm: SlurmCli = cluster.slurm(lab.layout)

    def submit(self, count: int, *, held: bool = False, steps: int = 0, **sbatch: str) -> str:
        """`sbatch`: further options by their long names."""
        task = "srun sh -c 'echo up; exec sleep 600' &\n"
        script = "#!/bin/sh\n" + task * steps + "sleep 600\n"
        options = [f"--nodes={count}", "--exclusive", "--overcommit", f"--output={self._directory}/%j.out"]
        options += ["--hold"] if held else []
        options += [f"--{name}={value}" for name, value in sbatch.items()]
        argv = ["sbatch", "--parsable", *options]
        job_id = self._runner.run(argv, timeout_s=20, input=script).stdout.strip()
        self.jobs.append(job_id)
        return job_id

    def steps(self, job_id: str) -> int:
        listed = self._runner.run(["squeue", "-h", "-s", "-j", job_id, "-o", "%i"], timeout_s=20, check=False).stdout
        return sum(bool(re.search(r"\.\d+$", line)) for line in listed.split())

    def tasks(self, job_id: str) -> int:
        """Those of its steps that began."""
        output = self._directory / f"{job_id}.out"
        return output.read_text().splitlines().count("up") if output.exists() else 0

    def close(self) -> None:
        if self.jobs:
            self._runner.run(["scancel", "-Q", *self.jobs], timeout_s=20, check=False)
        deadline = time.monotonic() + 60
        while any(node.state.base != "IDLE" or node.state.flags for node in self.slurm.nodes()):
            assert time.monotonic() < deadline, f"not idle again: {[str(node.state) for node in self.slurm.nodes()]}"
            for node in self.slurm.nodes():
                if node.state.down or node.state.draining:
                    self.slurm.resume(node.name)
            time.sleep(0.05)


class ApiSite(RealSite):
    """The same cluster through pyslurm, where there is one that fits."""

    def __init__(self, lab: cluster.Lab, directory: Path) -> None:
        super().__init__(lab, directory)
        self.slurm = self.api = SlurmApi(CommandRunner(lab.environment))
        if self.api.unusable:
            self.api.close()
            pytest.skip(self.api.unusable)

    def close(self) -> None:
        super().close()
        # The commands stand in for a pyslurm that fails: without this the suite would not tell.
        assert self.api.answered > 0 and not self.api.unusable
        self.api.close()


_SITES = {"real": RealSite, "pyslurm": ApiSite}


@pytest.fixture(params=["fake", *(pytest.param(name, marks=pytest.mark.slurm) for name in _SITES)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made: Site = (
        FakeSite() if request.param == "fake" else _SITES[request.param](request.getfixturevalue("lab"), tmp_path)
    )
    yield made
    made.close()


@pytest.fixture
def running(site: Site, eventually: Eventually) -> str:
    return started(site, eventually, site.submit(2))


def started(site: Site, eventually: Eventually, job_id: str) -> str:
    eventually(lambda: site.slurm.job(job_id).running, f"job {job_id} runs")
    return job_id


def refused(act: Callable[[], None]) -> None:
    """It is refused for good, not for now."""
    with pytest.raises(SovctlError) as caught:
        act()
    assert not isinstance(caught.value, TryLaterError)


def settled(site: Site, eventually: Eventually, job_id: str) -> JobView:
    """The job once it has left its nodes."""
    eventually(lambda: not site.slurm.job(job_id).completing, "the job has left its nodes", 60.0)
    return site.slurm.job(job_id)


# Jobs


def test_a_running_job(site: Site, running: str) -> None:
    job = site.slurm.job(running)
    assert (job.job_id, job.restarts, job.requeue, job.over) == (running, 0, True, False)
    assert len(job.nodes) == 2
    assert job.batch_host == job.nodes[0]
    assert job.started_at is not None
    assert job.extra["Partition"] == "main"


def test_a_held_job_is_pending_without_nodes(site: Site) -> None:
    job = site.slurm.job(site.submit(1, held=True))
    assert (job.pending, job.held, job.running, job.nodes, job.batch_host) == (True, True, False, (), "")


def test_a_released_job_runs(site: Site, eventually: Eventually) -> None:
    job_id = site.submit(1, held=True)
    site.slurm.release(job_id)
    started(site, eventually, job_id)


def test_a_cancelled_job_is_over_and_still_known(site: Site, running: str, eventually: Eventually) -> None:
    site.slurm.cancel(running)
    assert eventually(lambda: site.slurm.job(running).over, "the job is over")
    assert site.slurm.job(running).state == "CANCELLED"


def test_an_unknown_job(site: Site) -> None:
    for act in (site.slurm.job, site.slurm.requeue):
        with pytest.raises(JobNotFound, match="98765432"):
            act("98765432")


# Requeue


def test_a_requeue_keeps_the_id_and_raises_the_restarts(site: Site, running: str, eventually: Eventually) -> None:
    site.slurm.requeue(running)
    assert site.slurm.job(running).restarts == 1
    job = settled(site, eventually, running)
    assert (job.job_id, job.pending, job.held, job.nodes, job.restarts) == (running, True, False, (), 1)


def test_without_a_begin_time_a_requeued_job_waits_121_s(site: Site, running: str, eventually: Eventually) -> None:
    before = int(time.time())
    site.slurm.requeue(running)
    eligible = settled(site, eventually, running).eligible_at
    assert before + 121 <= eligible <= time.time() + 122


def test_a_begin_time_ahead_is_kept_through_the_requeue(site: Site, running: str, eventually: Eventually) -> None:
    site.slurm.requeue(running)
    begin = int(time.time()) + 60
    site.slurm.update_pending(running, exclude=None, begin=begin)
    assert settled(site, eventually, running).eligible_at == begin


def test_a_begin_time_just_ahead_starts_the_job_soon(site: Site, running: str, eventually: Eventually) -> None:
    site.slurm.requeue(running)
    settled(site, eventually, running)
    site.slurm.update_pending(running, exclude=[], begin=int(time.time()) + 1)

    def runs() -> bool:
        job = site.slurm.job(running)
        if job.pending and job.eligible_at is not None and time.time() > job.eligible_at + 2:
            # The scheduler's last pass was before the begin time; any update asks for another. It may have come since.
            with suppress(CommandFailed):
                site.slurm.update_pending(running, exclude=[], begin=None)
        return bool(job.running)

    eventually(runs, "the job runs again", 15.0)
    assert site.slurm.job(running).restarts == 1


def test_exclusions_can_be_given_while_the_job_completes(site: Site, running: str, eventually: Eventually) -> None:
    old = site.slurm.job(running).nodes
    site.slurm.requeue(running)
    site.slurm.update_pending(running, exclude=old, begin=int(time.time()) + 2)
    assert sorted(settled(site, eventually, running).excluded) == sorted(old)
    eventually(lambda: site.slurm.job(running).running, "the job runs again")
    assert not set(site.slurm.job(running).nodes) & set(old)


def test_exclusions_are_replaced_and_can_be_emptied(site: Site) -> None:
    job_id = site.submit(1, held=True)
    for exclude in (["n002"], ["n001", "n003"], []):
        site.slurm.update_pending(job_id, exclude=exclude, begin=None)
        assert sorted(site.slurm.job(job_id).excluded) == exclude


def test_terms_of_a_running_job_cannot_be_changed(site: Site, running: str) -> None:
    refused(lambda: site.slurm.update_pending(running, exclude=["n004"], begin=int(time.time()) + 50))
    assert (site.slurm.job(running).running, site.slurm.job(running).excluded) == (True, ())


def test_an_exclusion_of_a_node_there_is_not_is_refused(site: Site) -> None:
    job_id = site.submit(1, held=True)
    refused(lambda: site.slurm.update_pending(job_id, exclude=["nowhere7"], begin=None))


def test_a_cancelled_job_is_not_brought_back(site: Site, running: str, eventually: Eventually) -> None:
    site.slurm.cancel(running)
    site.slurm.requeue(running)
    eventually(lambda: site.slurm.job(running).over, "the job is over")
    site.slurm.requeue(running, hold=True)
    assert (site.slurm.job(running).state, site.slurm.job(running).restarts) == ("CANCELLED", 0)


def test_a_cancel_during_the_requeue_ends_the_job(site: Site, running: str, eventually: Eventually) -> None:
    site.slurm.requeue(running)
    site.slurm.cancel(running)
    eventually(lambda: site.slurm.job(running).over, "the job is over")


def test_a_pending_job_is_not_requeued(site: Site) -> None:
    job_id = site.submit(1, held=True)
    site.slurm.requeue(job_id)
    assert (site.slurm.job(job_id).restarts, site.slurm.job(job_id).pending) == (0, True)


def test_a_requeue_with_hold_waits_for_a_person(site: Site, running: str, eventually: Eventually) -> None:
    site.slurm.requeue(running, hold=True)
    job = settled(site, eventually, running)
    assert (job.pending, job.held, job.restarts) == (True, True, 1)


# Nodes and steps of a running job


def test_a_job_told_not_to_come_back_does_not(site: Site, running: str, eventually: Eventually) -> None:
    site.slurm.forbid_requeue(running)
    job = site.slurm.job(running)
    assert (job.requeue, job.running) == (False, True)


def test_a_job_shrinks_but_keeps_its_batch_host(site: Site, running: str) -> None:
    first, second = site.slurm.job(running).nodes
    refused(lambda: site.slurm.drop_nodes(running, [second]))
    assert site.slurm.job(running).nodes == (first, second)
    site.slurm.drop_nodes(running, [first])
    assert (site.slurm.job(running).nodes, site.slurm.job(running).running) == ((first,), True)


@pytest.mark.parametrize("lost_node", [False, True])
def test_killing_the_steps_leaves_the_batch_script(site: Site, eventually: Eventually, lost_node: bool) -> None:
    job_id = started(site, eventually, site.submit(2, steps=1))
    # On both nodes: a step that is still on its way to one of them does not die there.
    eventually(lambda: site.tasks(job_id) == 2, "the step runs")
    assert site.steps(job_id) == 1
    (began,) = site.slurm.steps(job_id).values()
    assert began >= (site.slurm.job(job_id).started_at or 0.0) > 0.0
    site.slurm.kill_steps(job_id, lost_node=lost_node)
    eventually(lambda: site.steps(job_id) == 0, "the step is gone")
    assert site.slurm.job(job_id).running
    site.slurm.kill_steps(job_id)
    assert site.slurm.job(job_id).running, "no steps is no error"


# The cluster


def test_all_nodes_or_the_named(site: Site) -> None:
    assert [node.name for node in site.slurm.nodes()] == ["n001", "n002", "n003", "n004"]
    assert [node.name for node in site.slurm.nodes(["n003", "n002"])].count("n003") == 1
    assert len(site.slurm.nodes(["n003", "n002"])) == 2
    node = site.slurm.node("n002")
    assert (node.state.schedulable, node.reason, node.partitions, node.port > 0) == (True, "", ("main",), True)


def test_a_drain_keeps_its_reason_and_leaves_the_job_alone(site: Site, running: str) -> None:
    name = site.slurm.job(running).nodes[1]
    site.slurm.drain(name, REASON)
    node = site.slurm.node(name)
    assert (node.state.draining, node.state.down, node.state.schedulable) == (True, False, False)
    assert (node.reason, bool(node.reason_by)) == (REASON, True)
    assert site.slurm.job(running).running
    site.slurm.resume(name)
    # 24.11 and 25.11 keep the words of a drain that is over until the next job comes; 22.05 and 26.05 do not.
    assert (site.slurm.node(name).state.draining, site.slurm.node(name).state.down) == (False, False)
    assert site.slurm.node(name).reason in ("", REASON)


def test_active_jobs_with_their_partition(site: Site, running: str) -> None:
    found = {job.job_id: job for job in site.slurm.pool_jobs()}[running]
    assert (found.nodes, found.partitions, found.holds_nodes) == (site.slurm.job(running).nodes, ("main",), True)
    # 24.11 and newer print `(null)` where 22.05 prints the name.
    assert site.slurm.settings()["PreemptType"] in ("preempt/none", "(null)")


@pytest.mark.slurm
@pytest.mark.parametrize("kind", _SITES.values(), ids=_SITES)
@pytest.mark.parametrize("flags", ["", "Flags=MAINT"])
def test_reserved_nodes_and_who_may_have_them(
    lab: cluster.Lab, tmp_path: Path, eventually: Eventually, kind: type[RealSite], flags: str
) -> None:
    runner, site = CommandRunner(lab.environment), kind(lab, tmp_path)
    made = ["ReservationName=ours", "Users=root", "StartTime=now", "Duration=10", "Nodes=n002,n004"]
    runner.run(["scontrol", "create", *made, *filter(None, [flags])], timeout_s=20)
    try:
        eventually(lambda: site.slurm.node("n002").state.reserved, "Slurm marks the nodes of the reservation")
        assert [node.name for node in site.slurm.nodes() if node.state.open_to(False)] == ["n001", "n003"]
        assert [node.name for node in site.slurm.nodes() if node.state.open_to(True)] == ["n002", "n004"]
        job, other = site.submit(1, reservation="ours"), site.submit(1)
        assert site.slurm.job(started(site, eventually, job)).nodes[0] in ("n002", "n004")
        assert site.slurm.job(started(site, eventually, other)).nodes[0] in ("n001", "n003")
        assert (site.slurm.job(job).in_reservation, site.slurm.job(other).in_reservation) == (True, False)
    finally:
        runner.run(["scancel", "-Q", *site.jobs], timeout_s=20, check=False)
        eventually(lambda: not site.slurm.jobs_on(["n002", "n004"]), "the reservation is free of jobs", 60.0)
        runner.run(["scontrol", "delete", "ReservationName=ours"], timeout_s=20)
        site.close()
    assert not any(node.state.reserved for node in cluster.slurm(lab.layout).nodes())


@pytest.mark.slurm
@pytest.mark.parametrize("kind", _SITES.values(), ids=_SITES)
def test_a_job_whose_reservation_is_over_is_held_until_it_is_released(
    lab: cluster.Lab, tmp_path: Path, eventually: Eventually, kind: type[RealSite]
) -> None:
    """Its state is printed as RESV_DEL_HOLD in place of PENDING, in every release from 22.05 to 26.05."""
    runner, site = CommandRunner(lab.environment), kind(lab, tmp_path)
    made = ["ReservationName=soon-over", "Users=root", "StartTime=now", "Duration=60", "Nodes=n001"]
    runner.run(["scontrol", "create", *made], timeout_s=20)
    try:
        job = site.submit(1, reservation="soon-over", begin="now+1hour")
        assert site.slurm.job(job).pending
        ends = int(time.time()) + 2
        runner.run(["scontrol", "update", "ReservationName=soon-over", f"EndTime=uts{ends}"], timeout_s=20)
        waits = eventually(lambda: (view := site.slurm.job(job)).held and view, "Slurm ends the reservation", 90.0)
        (listed,) = [item for item in site.slurm.own_jobs() if item.job_id == job]
        assert (waits.pending, waits.held, held(waits), held(listed)) == (True, True, True, True)
        assert "the reservation it waited for was deleted" in cause(waits)
        site.slurm.release(job)
        waits = site.slurm.job(job)
        (listed,) = [item for item in site.slurm.own_jobs() if item.job_id == job]
        assert (waits.pending, waits.held, held(waits), held(listed)) == (True, False, False, False)
    finally:
        site.close()
        runner.run(["scontrol", "delete", "ReservationName=soon-over"], timeout_s=20, check=False)


@pytest.mark.slurm
def test_a_persons_own_filters_hide_nothing(
    lab: cluster.Lab, tmp_path: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = RealSite(lab, tmp_path)
    try:
        job = started(site, eventually, site.submit(1, steps=1))
        eventually(lambda: site.tasks(job) == 1, "its step runs")
        for name in ("PARTITION", "NAMES", "USERS", "QOS", "ACCOUNT", "STATES", "LICENSES", "FORMAT", "SORT"):
            monkeypatch.setenv(f"SQUEUE_{name}", "suspended" if name == "STATES" else "-i" if name == "SORT" else "man")
        monkeypatch.setenv("SINFO_PARTITION", "other")
        monkeypatch.setenv("SCONTROL_FUTURE", "1")
        assert [item.job_id for item in site.slurm.own_jobs()].count(job) == 1
        assert job in [item.job_id for item in site.slurm.jobs()]
        assert job in [item.job_id for item in site.slurm.jobs_on(site.slurm.job(job).nodes)]
        assert list(site.slurm.steps(job)) == [f"{job}.0"]
        site.slurm.kill_steps(job)
        eventually(lambda: site.steps(job) == 0, "its step is killed")
    finally:
        monkeypatch.undo()
        site.close()


@pytest.mark.slurm
@pytest.mark.parametrize(
    "names",
    [
        ["n1", "n2", "n10"],
        ["n08", "n09", "n10"],
        ["n1-ib", "n2-ib", "n10-ib"],
        ["n1.cluster", "n2.cluster"],
        ["r4c2n04", "r4c3n04", "r10c3n06"],
        ["x1000c0s0b0n0", "x1000c0s0b0n1", "x1001c0s0b0n1"],
    ],
)
def test_slurm_reads_the_hostlists_that_are_written(lab: cluster.Lab, names: list[str]) -> None:
    runner = CommandRunner(lab.environment)
    said = runner.run(["scontrol", "show", "hostnames", fold(names)], timeout_s=20).stdout
    assert sorted(said.split()) == sorted(names)


def test_without_reservations_there_are_none(site: Site) -> None:
    assert site.slurm.reservations() == ()


@pytest.mark.slurm
@pytest.mark.parametrize("kind", _SITES.values(), ids=_SITES)
def test_slurm_starts_no_job_where_a_reservation_begins_before_it_is_over(
    lab: cluster.Lab, tmp_path: Path, eventually: Eventually, kind: type[RealSite]
) -> None:
    runner, site, begins = CommandRunner(lab.environment), kind(lab, tmp_path), int(time.time()) + 3600
    made = ["ReservationName=soon", "Users=root", f"StartTime=uts{begins}", "Duration=60", "Nodes=n[002-004]"]
    runner.run(["scontrol", "create", *made, "Flags=MAINT"], timeout_s=20)
    try:
        (soon,) = site.slurm.reservations()
        assert soon == Reservation("soon", ("n002", "n003", "n004"), begins, begins + 3600, over_others=True)
        assert not any(node.state.reserved for node in site.slurm.nodes()), "no node's state tells of it"
        long = site.submit(2, time="2:00:00")
        waits = eventually(lambda: (job := site.slurm.job(long)).reason and job, "the scheduler has looked at it")
        assert (waits.pending, waits.limit_s) == (True, 7200.0), "with all four nodes idle"
        assert kept_from(waits, (soon,), time.time()) == {"n002", "n003", "n004"}
        site.slurm.cancel(long)
        short = site.slurm.job(started(site, eventually, site.submit(2, time="0:30:00")))
        assert short.limit_s == 1800.0
        assert kept_from(short, (soon,), time.time()) == frozenset()
    finally:
        runner.run(["scontrol", "delete", "ReservationName=soon"], timeout_s=20)
        site.close()


def test_a_node_set_down_gives_its_job_back(site: Site, running: str, eventually: Eventually) -> None:
    name = site.slurm.job(running).nodes[1]
    site.slurm.set_down(name, REASON)
    assert (site.slurm.node(name).state.down, site.slurm.node(name).reason) == (True, REASON)
    job = settled(site, eventually, running)
    assert (job.pending, job.restarts) == (True, 1)


def test_jobs_on_nodes(site: Site, running: str) -> None:
    job = site.slurm.job(running)
    idle = [node.name for node in site.slurm.nodes() if node.name not in job.nodes]
    assert [found.job_id for found in site.slurm.jobs_on([job.nodes[1]])] == [running]
    assert site.slurm.jobs_on([job.nodes[1]])[0].nodes == job.nodes
    assert site.slurm.jobs_on(idle) == ()


def test_settings_that_recovery_reads(site: Site) -> None:
    settings = site.slurm.settings()
    assert settings["KillWait"].startswith("30")
    assert settings.get("Epilog", "") in ("", "(null)")
    assert {"SchedulerParameters", "AccountingStorageType", "SLURM_VERSION"} <= settings.keys()


def test_scheduler_passes_only_grow(site: Site, eventually: Eventually) -> None:
    before = site.slurm.scheduler_passes()
    assert before is not None
    site.submit(1)
    eventually(lambda: site.slurm.scheduler_passes() > before, "a pass of the scheduler")


# When Slurm cannot answer


def test_a_silent_controller_is_something_for_later_in_the_fake() -> None:
    slurm = FakeSlurm(SystemClock())
    slurm.unreachable = lambda: True
    with pytest.raises(SlurmUnreachable):
        slurm.nodes()


@pytest.fixture
def conf_of_nobody(lab: cluster.Lab, tmp_path: Path) -> Path:
    """The lab's slurm.conf with a port where no controller listens."""
    text = lab.layout.slurm_conf.read_text("utf-8")
    conf = tmp_path / "slurm.conf"
    conf.write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=1", text), "utf-8")
    return conf


@pytest.mark.slurm
def test_a_controller_that_is_down_is_something_for_later(lab: cluster.Lab, conf_of_nobody: Path) -> None:
    slurm = SlurmCli(CommandRunner({**lab.environment, "SLURM_CONF": str(conf_of_nobody)}), timeout_s=3.0)
    acts: list[Callable[[], object]] = [
        lambda: slurm.job("1"),
        slurm.nodes,
        slurm.settings,
        slurm.scheduler_passes,
        lambda: slurm.jobs_on(["n001"]),
        lambda: slurm.requeue("1"),
        lambda: slurm.kill_steps("1"),
        lambda: slurm.update_pending("1", exclude=[], begin=None),
        lambda: slurm.drain("n001", REASON),
    ]
    for act in acts:
        with pytest.raises(SlurmUnreachable) as caught:
            act()
        assert caught.value.exit_code == EXIT_TRY_LATER
        assert caught.value.hint


@pytest.mark.slurm
def test_no_slurm_conf_is_said_at_once(lab: cluster.Lab, tmp_path: Path) -> None:
    slurm = SlurmCli(CommandRunner({**lab.environment, "SLURM_CONF": str(tmp_path / "none.conf")}))
    began = time.monotonic()
    with pytest.raises(SlurmConfMissing):
        slurm.nodes()
    assert time.monotonic() - began < 5


def test_no_slurm_commands(tmp_path: Path) -> None:
    slurm = SlurmCli(CommandRunner(), bin_dir=str(tmp_path))
    with pytest.raises(CommandMissing):
        slurm.nodes()


class AsNobody(CommandRunner):
    """Runs commands as an ordinary user."""

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **more: Any) -> Completed:
        return super().run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *argv], env=env, **more)


@pytest.mark.slurm
@pytest.mark.parametrize("site", ["real"], indirect=True)
def test_an_ordinary_user_may_not_change_what_is_not_his(lab: cluster.Lab, site: Site, running: str) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to become another user")
    other = SlurmCli(AsNobody(lab.environment))
    assert other.node("n001").name == "n001"
    for act in (
        lambda: other.drain("n001", REASON),
        lambda: other.set_down("n001", REASON),
        lambda: other.requeue(running),
        lambda: other.drop_nodes(running, ["n001"]),
        lambda: other.cancel(running),
    ):
        with pytest.raises(NotPermitted) as caught:
            act()
        assert caught.value.exit_code == 3
    assert site.slurm.job(running).running
    assert not site.slurm.node("n001").state.draining
