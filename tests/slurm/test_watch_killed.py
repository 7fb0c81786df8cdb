"""`sovctl watch --act` on a real cluster, killed between any two of its effects: nothing is done twice, nothing is
forgotten.

Each watch lives for one effect (a record, a request to Slurm, its memory, the limit of the pool) and is killed before
the next.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.lab import cluster, faults
from sovctl.lab.training import Training
from tests.slurm.conftest import wait
from tests.slurm.test_site import Site, kept_from_ending, sleeper, suspect
from tests.slurm.test_stories import nodes_of

pytestmark = pytest.mark.slurm
MORTAL = Path(__file__).with_name("mortal_watch.py")
_STORY_S = 180.0


class Lives(Site):
    """A cluster whose watch dies again and again."""

    deaths = 0

    def until(self, what: str, subject: str, over: Callable[[], object], **settings: str) -> None:
        """Life after life, until the story is over; then the last life ends too, and one more finds nothing to do."""
        deadline = time.monotonic() + _STORY_S
        while not over():
            self._live(deadline, over, what, settings)
        assert self.deaths >= 2, f"{what}: no watch was killed on the way"
        self.deaths = 0
        done = self.deeds(subject)
        once = [sys.executable, "-P", "-m", "sovctl", "watch", "--act", "--once"]
        CommandRunner(self.lab.environment | settings).run(once, timeout_s=60)
        assert self.deeds(subject) == done

    def _live(self, deadline: float, over: Callable[[], object], what: str, settings: dict[str, str]) -> None:
        argv = [sys.executable, "-P", str(MORTAL), "1"]
        with (self.lab.layout.log_dir / "watch.out").open("ab") as log:
            watch = subprocess.Popen(argv, env=self.lab.environment | settings, stderr=log)
        try:
            while watch.poll() is None and not over():
                assert time.monotonic() < deadline, self._words(f"{what}: not over after {_STORY_S:g} s")
                time.sleep(0.1)
        finally:
            watch.send_signal(signal.SIGTERM)
            status = watch.wait(30)
        self.deaths += status == -signal.SIGKILL

    def _words(self, words: str) -> str:
        said = (self.lab.layout.log_dir / "watch.out").read_text("utf-8", "replace").splitlines()[-30:]
        kinds = [f"{event['kind']} {event.get('node', '')}{event.get('job_id', '')}" for event in self.journal.events()]
        return "\n".join([words, *said, *kinds[-30:]])

    def deeds(self, subject: str) -> list[str]:
        """What was to be done to a node or a job, and was done, by the journal."""
        own = (event for event in self.journal.events() if subject in (event.get("node"), event.get("job_id")))
        return [event["kind"] for event in own if event["kind"].endswith(("-intended", "-done"))]

    def told_slurm(self, *words: str) -> int:
        """How often slurmctld was told something of this kind."""
        log = (self.lab.layout.log_dir / "slurmctld.log").read_text("utf-8", "replace")
        return sum(all(word in line for word in words) for line in log.splitlines())

    def assert_every_intent_has_its_outcome(self, kind: str, subject: str) -> None:
        own = Counter(self.deeds(subject))
        assert (own[f"{kind}-intended"], own[f"{kind}-done"]) == (1, 1), self._words(str(own))


@pytest.fixture(scope="module")
def site(new_root: Callable[[], Path]) -> Iterator[Lives]:
    # slurmd's own health check would now and then drain a sick node before the watch has asked it.
    quiet = {"HealthCheckInterval": "0"}
    lab = cluster.up(cluster.Request(new_root(), nodes=8, gpus=2, out_limit_per_hour=20, overrides=quiet))
    site = Lives(lab)
    site.stop("watch")
    try:
        yield site
    finally:
        cluster.down(lab.layout.root)


def test_a_batch_host_dies(site: Lives, work_dir: Path, user: str) -> None:
    run = sleeper(site, work_dir, user, "run", 2)
    host = site.slurm.job(run.job_id).batch_host
    faults.inject(site.lab, "node-dead", host)
    site.until("the run to be back", host, lambda: _started(run, 1) and _quiet(site, "takeover-done"))
    site.assert_every_intent_has_its_outcome("down", host)
    assert site.told_slurm(f"update_node: node {host} state set to DOWN") == 1
    assert site.slurm.job(run.job_id).restarts == 1
    assert host not in nodes_of(run, 1)
    run.sovctl("run", "stop", run.job_id)


def test_a_run_suspects_a_sick_node(site: Lives, work_dir: Path, user: str) -> None:
    run = sleeper(site, work_dir, user, "sick", 1)
    (node,) = nodes_of(run, 0)
    # Its own watcher would have drained it first, and the run's supervisor left it then.
    site.stop(f"watcher:{node}")
    faults.inject(site.lab, "xid:79", node, 1)
    suspect(run, node)
    # It leaves the node because the node was drained, or because it was told: whichever it sees first.
    left = lambda: run.events("attempt_ended") and _quiet(site, "drain-done", node)  # noqa: E731
    site.until("the run to leave the node", node, left)
    site.assert_every_intent_has_its_outcome("drain", node)
    assert site.told_slurm(f"update_node: node {node} state set to DRAIN") == 1
    (ended,) = run.events("attempt_ended")
    assert (ended["culprit"], ended["blamed"]) == ("hardware", [node])


def test_a_node_keeps_a_job_from_ending(site: Lives) -> None:
    with kept_from_ending(site) as (job, (node,)):
        over = lambda: site.slurm.node(node).state.down and _quiet(site, "down-done", node)  # noqa: E731
        site.until("the node to be set down", node, over, SOVCTL_SWEEP_COMPLETING_S="3")
    site.assert_every_intent_has_its_outcome("down", node)
    assert site.told_slurm(f"update_node: node {node} state set to DOWN") == 1
    wait("the job to be over", lambda: not site.slurm.job(job).completing)


def _started(run: Training, attempt: int) -> bool:
    return any(event.get("attempt") == attempt for event in run.events("attempt_started"))


def _quiet(site: Lives, outcome: str, subject: str = "") -> bool:
    return any(subject in ("", event.get("node"), event.get("job_id")) for event in site.events(outcome))
