"""What the watch on the controller does on a real cluster: suspects of honest and of hostile users, a job that does
not end, a rack that falls silent, and a fail-over of slurmctld in the middle of a recovery."""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.journal import FileJournal
from sovctl.lab import cluster, faults, processes
from sovctl.lab.training import Training
from sovctl.model.reason import parse_reason
from sovctl.model.site_answer import SiteWord, answers_from_record
from tests.slurm.conftest import TOY, start_script, wait
from tests.slurm.test_stories import assert_record_whole, nodes_of, start_run

pytestmark = pytest.mark.slurm
SLEEPER = "#!/bin/bash\n#SBATCH --nodes=%d --exclusive\nsrun sleep 1000\n"


class Site:
    """A lab and what its watch does."""

    def __init__(self, lab: cluster.Lab) -> None:
        self.lab = lab
        self.slurm = cluster.slurm(lab.layout)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.journal.events() if event["kind"] == kind]

    @property
    def journal(self) -> FileJournal:
        return FileJournal(self.lab.layout.journal_dir / "watch.jsonl")

    def restart_watch(self, **settings: str) -> None:
        """SIGKILL, and a new one."""
        lab = cluster.load(self.lab.layout.root)
        old = [item for item in lab.processes if item.role == "watch"]
        processes.kill(item.pid for item in old)
        processes.gone_within(old, 5.0)
        fresh = cluster.start_watch(lab.layout, **settings)
        cluster.save(replace(lab, processes=(*(item for item in lab.processes if item.role != "watch"), fresh)))

    def stop(self, role: str) -> None:
        marks = [item for item in cluster.load(self.lab.layout.root).processes if item.role == role]
        processes.kill(item.pid for item in marks)
        processes.gone_within(marks, 5.0)


@pytest.fixture(scope="module")
def site(new_root: Callable[[], Path]) -> Iterator[Site]:
    lab = cluster.up(cluster.Request(new_root(), nodes=10, gpus=2, out_limit_per_hour=20))
    try:
        yield Site(lab)
    finally:
        cluster.down(lab.layout.root)


def sleeper(site: Site, work_dir: Path, user: str, name: str, nodes: int) -> Training:
    """A run of the user's that only sleeps."""
    own = work_dir / name
    own.mkdir()
    if user:
        os.chown(own, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    run = start_script(site.lab, own, user, SLEEPER % nodes)
    run.await_event("attempt_started")
    return run


def suspect(run: Training, *nodes: str) -> None:
    """What a supervisor writes of a slow rank, by the run's owner."""
    journal = FileJournal(run.run_dir / "events.jsonl")
    for node in nodes:
        journal.append("straggler", attempt=0, node=node, rank=1, ratio=1.5, evidence="1.5 times its peers")


def test_suspects_are_checked_and_hostile_users_get_nothing(site: Site, work_dir: Path, user: str) -> None:
    honest, link, pipe, huge = (sleeper(site, work_dir, user, name, 2) for name in ("honest", "link", "pipe", "huge"))
    bad, foreign = nodes_of(honest, 0)[1], nodes_of(link, 0)[0]
    own = nodes_of(link, 0)[1]
    # Only root could read what this link leads to, and it names the link's own node.
    secret = site.lab.layout.root / "secret.jsonl"
    FileJournal(secret).append("straggler", node=own, evidence="a secret of root")
    secret.chmod(0o600)
    for run, make in ((link, lambda path: path.symlink_to(secret)), (pipe, os.mkfifo)):
        path = run.run_dir / "events.jsonl"
        path.unlink()
        make(path)
    with (huge.run_dir / "events.jsonl").open("ab") as events:
        events.write(b"[" * 100_000 + b'{"seq": 1, "kind": "straggler", "node": "%s"\n' % own.encode())
        events.truncate(200 << 20)
    # A fault that the node's own watcher would have found first.
    site.stop(f"watcher:{bad}")
    faults.inject(site.lab, "xid:79", bad, 1)
    suspect(honest, foreign, "n999", "n[001-010]", bad)
    wait("the suspected node to be drained", lambda: site.slurm.node(bad).state.draining)
    reason = parse_reason(site.slurm.node(bad).reason)
    assert reason is not None
    assert reason.code == "XID79"
    told = wait("the run to be told", lambda: honest.events("site_checked"))
    assert (told[0]["node"], told[0]["state"]) == (bad, "failed")
    assert {event["node"] for event in site.events("suspected")} == {bad}
    assert "secret" not in site.journal.path.read_text("utf-8")
    for node in site.slurm.nodes():
        assert node.state.draining == (node.name == bad), node
    # The honest one would come back on nodes that the next tests need.
    for run in (honest, link, pipe, huge):
        site.slurm.cancel(run.job_id)


def test_a_healthy_suspect_is_cleared_where_only_the_site_can_write(site: Site, work_dir: Path, user: str) -> None:
    run = sleeper(site, work_dir, user, "cleared", 1)
    (node,) = nodes_of(run, 0)
    suspect(run, node)
    path = site.lab.layout.journal_dir / "suspects" / f"{run.job_id}.json"
    wait("the answer", path.exists)
    (answer,) = answers_from_record(json.loads(path.read_text("utf-8")))
    assert (answer.node, answer.state) == (node, SiteWord.CLEARED)
    assert path.stat().st_mode & 0o022 == 0
    assert path.stat().st_uid == os.geteuid()
    told = wait("the run to be told", lambda: run.events("site_checked"))
    assert told[0]["state"] == "cleared"
    kept = [(event["uid"], event["directory"]) for event in site.events("records-at")]
    assert kept.count((run.run_dir.stat().st_uid, str(run.run_dir.parent))) == 1
    assert not site.slurm.node(node).state.draining
    run.sovctl("run", "stop", run.job_id)


@contextmanager
def kept_from_ending(site: Site, nodes: int = 1) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A cancelled job, and its nodes, whose slurmds stand still."""
    words = ["sbatch", "--parsable", f"-N{nodes}", "-o", "/dev/null", "--wrap", "sleep 1000"]
    job = CommandRunner(site.lab.environment).run(words, timeout_s=30).stdout.strip()
    held = wait("the job to run", lambda: site.slurm.job(job).running and site.slurm.job(job).nodes)
    stand_still(site, held)
    try:
        site.slurm.cancel(job)
        yield job, held
    finally:
        stand_still(site, held, signal.SIGCONT)


def stand_still(site: Site, nodes: Sequence[str], signum: int = signal.SIGSTOP) -> None:
    for item in site.lab.processes:
        if item.role in [f"slurmd:{node}" for node in nodes]:
            os.kill(item.pid, signum)


def test_a_job_that_two_nodes_keep_from_ending_costs_none_until_it_is_one(site: Site) -> None:
    """What several nodes share is a person's to find; the one that is left in the end is set down."""
    site.restart_watch(SOVCTL_SWEEP_COMPLETING_S="3")
    with kept_from_ending(site, 2) as (job, (first, last)):
        left = lambda: [event for event in site.events("noted") if f"job {job} completes for" in event["words"]]  # noqa: E731
        wait("the note", left)
        assert "2 nodes: a shared cause" in left()[0]["words"]
        assert not any(site.slurm.node(node).state.down for node in (first, last))
        stand_still(site, [first], signal.SIGCONT)
        wait("the last node to be set down", lambda: site.slurm.node(last).state.down, 90.0)
    assert not site.slurm.node(first).state.down
    wait("the job to be over", lambda: not site.slurm.job(job).completing)
    site.slurm.resume(last)


def test_a_job_that_one_node_keeps_from_ending_is_freed(site: Site) -> None:
    site.restart_watch(SOVCTL_SWEEP_COMPLETING_S="5")
    with kept_from_ending(site) as (job, (node,)):
        wait("the node to be set down", lambda: site.slurm.node(node).state.down, 90.0)
    reason = parse_reason(site.slurm.node(node).reason)
    assert reason is not None
    assert reason.code == "STUCK_COMPLETING"
    wait("the job to be over", lambda: not site.slurm.job(job).completing)


def test_a_second_watch_refuses_and_a_rack_that_falls_silent_costs_no_node(site: Site) -> None:
    second = CommandRunner(site.lab.environment).run(
        [sys.executable, "-P", "-m", "sovctl", "watch", "--once"],
        timeout_s=30,
        check=False,
    )
    assert second.status == 3
    assert "runs already" in second.stderr
    rack = [node.name for node in site.slurm.nodes() if not node.state.down and not node.state.draining][:4]
    before = len(site.events("down-intended"))
    for node in rack:
        faults.inject(site.lab, "node-dead", node)
    wait("the alarm", lambda: [event for event in site.events("alarm") if "silent at once" in event["words"]])
    assert len(site.events("down-intended")) == before
    assert not any(site.slurm.node(node).state.down for node in rack)


@pytest.mark.skipif(os.geteuid() != 0, reason="two controllers on one machine take root")
@pytest.mark.parametrize("when", ["before it is noticed", "in the middle of its take-over"])
def test_fail_over_of_slurmctld_while_a_batch_host_dies(
    when: str, story_lab: Callable[..., cluster.Lab], work_dir: Path, user: str, undisturbed_toy: dict[int, str]
) -> None:
    """And the watch is killed meanwhile. Afterwards the hour's limit, by default one death in so small a cluster, holds
    for the next node, also under the other controller and the other watch."""
    lab = story_lab(nodes=6, backup=True)
    site = Site(lab)
    run = start_run(lab, work_dir, user, spec=TOY)
    victim = nodes_of(run, 0)[0]
    if when == "before it is noticed":
        site.stop("slurmctld")
        faults.inject(lab, "node-dead", victim)
    else:
        faults.inject(lab, "node-dead", victim)
        wait("the node to be set down", lambda: site.events("down-done"))
        site.stop("slurmctld")
    site.restart_watch()
    end = run.await_end()
    assert end["outcome"] == "finished", end
    assert_record_whole(run, 2)
    assert victim not in nodes_of(run, 1)
    assert run.loss_curve() == undisturbed_toy
    # Once more where slurmctld had not saved it.
    assert {event["node"] for event in site.events("down-done")} == {victim}
    second = next(node.name for node in site.slurm.nodes() if node.name not in nodes_of(run, 1) and node.name != victim)
    faults.inject(lab, "node-dead", second)
    wait("the alarm", lambda: [event for event in site.events("alarm") if "within the hour" in event["words"]])
    assert not site.slurm.node(second).state.down
    assert {event["node"] for event in site.events("down-intended")} == {victim}
