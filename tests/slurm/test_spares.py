"""Spares in the pool, on a real Slurm with slurmdbd and MariaDB: set, taken by preemption, given back, undone."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.command import CommandRunner, Completed
from sovctl.lab import cluster, faults
from sovctl.lab.training import Training, TrainingSpec
from tests.slurm.conftest import start_script
from tests.slurm.test_site import SLEEPER
from tests.slurm.test_watch_killed import Lives

pytestmark = pytest.mark.slurm

ENDLESS = TrainingSpec(steps=100_000, save_every=10, step_seconds=0.2, toy=True)
FILLER = replace(ENDLESS, nodes=1, save_every=100_000, sbatch=("--preemptible",))
"""Saves only when it is asked to stop."""


class Pool:
    """A lab, and what an administrator types."""

    def __init__(self, lab: cluster.Lab, grace_s: float = 20.0) -> None:
        self.lab = lab
        self.runner = CommandRunner(lab.environment)
        with lab.layout.site_config.open("a") as settings:
            settings.write(f"\n[spare]\ngrace_s = {grace_s}\n")

    def spare(self, *words: str) -> Completed:
        return self.runner.run([sys.executable, "-P", "-m", "sovctl", "spare", *words], timeout_s=60, check=False)

    def status(self) -> dict[str, Any]:
        return json.loads(self.spare("status", "--json").stdout)["partitions"][0]

    def slurm(self, *argv: str) -> str:
        return self.runner.run(argv, timeout_s=30).stdout

    def dump(self) -> str:
        """Everything of slurmdbd and of the partitions that may be changed. scontrol prints an empty list of denied QOS
        for one that was never set (22.05)."""
        partitions = self.slurm("scontrol", "-o", "show", "partition").replace(" DenyQos= ", " AllowQos=ALL ")
        asked = [("qos",), ("assoc",), ("account",), ("user",)]
        return partitions + "".join(self.slurm("sacctmgr", "-nP", "show", *words) for words in asked)


def _filler(pool: Pool, work_dir: Path, user: str, name: str) -> Training:
    own = work_dir / name
    own.mkdir()
    if user:
        os.chown(own, pwd.getpwnam(user).pw_uid, -1)
    run = Training(pool.lab, own, FILLER, user)
    run.submit()
    run.await_step(3)
    return run


STUBBORN = """#!/bin/bash
#SBATCH --exclusive --ntasks=1 --requeue --partition=preemptible --qos=preemptible --output=/dev/null
srun bash -c 'trap "" TERM; while :; do sleep 1; done'
"""


def test_a_run_gets_its_place_back_and_jobs_that_do_not_leave_are_ended_while_the_watch_dies_at_every_step(
    story_lab: Callable[..., cluster.Lab], work_dir: Path, user: str
) -> None:
    """Another job waits at the limit and takes the place of the run on its way through the queue; the spares are held
    by jobs that ignore SIGTERM; and each watch lives for one effect."""
    # The simplest way to reckon priorities begins high, at 0xffff0000.
    basic = {"PriorityType": "priority/basic"}
    lab = story_lab(nodes=6, gpus=2, accounting=True, preemption=True, out_limit_per_hour=20, overrides=basic)
    pool, site = Pool(lab, grace_s=5.0), Lives(lab)
    assert pool.spare("set", "2").status == 0
    run = start_script(lab, work_dir, "", SLEEPER % 2)
    other = pool.slurm("sbatch", "--parsable", "-N2", "--exclusive", "-o/dev/null", "--wrap=sleep 600").strip()
    (work_dir / "stubborn").write_text(STUBBORN)
    victims = [pool.slurm("sbatch", "--parsable", "-N1", str(work_dir / "stubborn")).strip() for _ in range(2)]
    run.await_event("attempt_started")
    run.wait("all to run", lambda: all(site.slurm.steps(job) for job in victims) and site.slurm.job(other).running, 60)
    waiting = pool.slurm("sbatch", "--parsable", "-N1", "--exclusive", "-o/dev/null", "--wrap=sleep 600").strip()
    run.wait("the limit", lambda: site.slurm.job(waiting).reason == "QOSGrpNodeLimit", 30)
    site.stop("watch")
    held = site.slurm.job(run.job_id).nodes
    faults.inject(lab, "xid:79", held[1], 1)

    def ends(kind: str) -> list[str]:
        return sorted(event["job_id"] for event in site.events(kind))

    def over() -> bool:
        return bool(site.events("room-restored")) and ends("end-done") == sorted(set(ends("end-intended")))

    site.until("the run to have its place", run.job_id, over)
    again = run.await_event("attempt_started", attempt=1)
    assert held[1] not in again["nodes"]
    assert site.slurm.job(waiting).running
    assert site.slurm.job(run.job_id).priority > site.slurm.job(other).priority
    assert [site.slurm.job(job).restarts for job in (run.job_id, other, *victims)] == [1, 0, 1, 1]
    for kind in ("first-intended", "first-done", "room-intended", "room-restored"):
        assert [event["job_id"] for event in site.events(kind)] == [run.job_id], kind
    # On a slow machine Slurm itself, which looks every 30 s, may have come first with one of them.
    assert ends("end-intended") and set(ends("end-intended")) <= set(victims)
    assert ends("end-done") == ends("end-intended")
    limits = pool.slurm("sacctmgr", "-nP", "show", "qos", "sovctl-spare-main", "format=GrpTRES")
    assert limits.strip() == "node=4"


def test_a_run_that_loses_a_node_takes_a_spare_by_preemption_and_everything_can_be_undone(
    story_lab: Callable[..., cluster.Lab], work_dir: Path, user: str
) -> None:
    pool = Pool(story_lab(nodes=6, accounting=True, preemption=True))
    if user:
        pool.slurm("sacctmgr", "-i", "add", "user", user, "account=root")
    before, conf = pool.dump(), pool.lab.layout.slurm_conf
    plain_conf = conf.read_text()

    # Set up: what is printed first is what is then done, and nothing the second time.
    shown = pool.spare("set", "2", "--dry-run")
    assert pool.dump() == before
    done = pool.spare("set", "2")
    assert (done.status, done.stdout) == (0, shown.stdout), done.stderr
    assert "sacctmgr -i modify qos sovctl-spare-main set GrpTRES=node=4" in done.stdout
    assert pool.spare("set", "2").stdout == ""

    # With the lines that were printed the limit outlives a slurm.conf that is read again.
    conf.write_text(
        plain_conf.replace(
            "PartitionName=main ", "PartitionName=main QOS=sovctl-spare-main DenyQos=preemptible "
        ).replace("PartitionName=preemptible ", "PartitionName=preemptible AllowQos=preemptible ")
    )
    pool.slurm("scontrol", "reconfigure")
    assert (pool.status()["problems"], pool.status()["limit"]) == ([], 4)

    # Four nodes train, low-priority work fills the spares, and no other job of the team gets them.
    run = Training(pool.lab, work_dir, replace(ENDLESS, nodes=4), user)
    run.submit()
    run.await_step(12)
    fillers = [_filler(pool, work_dir, user, name) for name in ("one", "two")]
    over = run.command("sbatch", "--parsable", "-N1", "--qos=high", "-o/dev/null", "--wrap=sleep 600").stdout.strip()
    run.wait("the limit", lambda: "QOSGrpNodeLimit" in pool.slurm("squeue", "-h", "-j", over, "-o", "%r"), 30)
    pool.slurm("scancel", over)
    status = pool.status()
    assert (status["left"], status["held"], status["short"]) == (2, 4, False)
    assert {job for node in status["pool"] for job in node["jobs"]} == {filler.job_id for filler in fillers}
    assert {node["free_in_s"] for node in status["pool"]} == {50.0}

    # A node fails: the run goes on with one that did other work until that second.
    held = cluster.slurm(pool.lab.layout).job(run.job_id).nodes
    fault = faults.inject(pool.lab, "xid:79", held[1], 5)
    again = run.await_event("attempt_started", attempt=1, seconds=60)
    assert held[1] not in again["nodes"]
    assert len(again["nodes"]) == 4
    print(f"fault to running again: {again['at'] - fault.at:.1f} s")
    victim = next(filler for filler in fillers if filler.events("attempt_ended"))
    ended = victim.await_event("attempt_ended", attempt=0)
    assert (ended["culprit"], ended["checkpoint_step"]) == ("preempted", ended["step"])
    assert ended["step"] > 0
    status = pool.status()
    assert (status["left"], status["short"], status["out"]) == (1, True, [held[1]])

    # The node is back, and the preempted run goes on from where it was.
    faults.heal(pool.lab, held[1])
    cluster.slurm(pool.lab.layout).resume(held[1])
    back = victim.await_event("attempt_started", attempt=1, seconds=90)
    assert back["resume_step"] == ended["step"]

    # Undone: the limit at once, a QOS when nothing needs it any more.
    undone = pool.spare("set", "0")
    assert undone.status == 75, undone.stderr
    assert "QOS preemptible stays while jobs use it" in undone.stderr
    assert "QOS sovctl-spare-main stays, without a limit, as long as slurm.conf names it" in undone.stderr
    assert "node=" not in pool.slurm("sacctmgr", "-nP", "show", "qos", "format=GrpTRES")
    for job in (run.job_id, *(filler.job_id for filler in fillers)):
        pool.slurm("scancel", job)
    run.wait("an empty queue", lambda: not pool.slurm("squeue", "-h"), 60)
    conf.write_text(plain_conf)
    pool.slurm("scontrol", "reconfigure")
    assert pool.spare("set", "0").status == 0
    assert pool.dump() == before
    assert "everything is so already" in pool.spare("set", "0").stderr
