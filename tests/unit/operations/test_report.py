"""The report of a site with users who write nonsense: real files, and an accounting that knows who had which job."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from event_builders import T0, Record

from sovctl.adapters.background import InThread
from sovctl.adapters.journal import FileJournal
from sovctl.adapters.run.run_index import RunIndexFiles
from sovctl.adapters.run.run_records import RunRecordFiles
from sovctl.adapters.run.user_records import UserRecordFiles
from sovctl.adapters.site.site_records import SiteRecordFiles
from sovctl.errors import SlurmUnreachable
from sovctl.ledger.incident import Source
from sovctl.model.accounted import AccountedJob
from sovctl.operations.report import Gathered, ReportPorts, SitePorts, gather
from sovctl.operations.runs import RunPorts

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root reads other users' runs")

ALICE, MALLORY = 1234, 5678
B = int(T0)
NOW = T0 + 90_000.0


class Site:
    """Two users, their jobs and directories."""

    def __init__(self, root: Path) -> None:
        root.chmod(0o755)
        self.root = root
        self.jobs: list[AccountedJob] = []
        self.active: dict[str, int] = {}
        self.accounted: Callable[[], tuple[AccountedJob, ...]] = lambda: tuple(self.jobs)

    def job(self, number: int, uid: int, work_dir: str, user: str = "") -> None:
        nodes = ("n001", "n002", "n003", "n005")
        name = user or {ALICE: "alice", MALLORY: "mallory"}[uid]
        who = (str(number), "lab", name, uid, "COMPLETED", B, B, B + 1, B + 80_000)
        self.jobs.append(AccountedJob(*who, nodes, 32, "", "train", str(self.root / work_dir)))

    def run(self, work_dir: str, uid: int, number: int, submitted: int = B, **fields: Any) -> Path:
        record = (
            Record().started(1, 0).steps(5, 0, 0).saved(100, 0, 40).faulted(200, 0, step=47).requeued(202, 0, "n003")
        )
        record.started(210, 1, 40).steps(220, 1, 40)
        ended = {"culprit": "none", "evidence": "done", "step": 90}
        record.add(70_000, "attempt_ended", attempt=1, **ended).add(70_001, "run_ended", outcome="finished")
        for event in record.events:
            event.update(fields.get(event["kind"], {}))
        place = self.root / work_dir / ".sovctl/runs" / f"lab-{number}-{submitted}"
        place.mkdir(parents=True)
        (place / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in record.events))
        (place / "run.json").write_text(json.dumps({"run_id": place.name, "job_id": str(number), "user": "anybody"}))
        for path in (place, *place.iterdir()):
            os.chown(path, uid, -1)
        return place

    def saw(self, journal: str, uid: int, directory: Path) -> None:
        """An entry of the site's journals."""
        FileJournal(self.root / f"journal/{journal}.jsonl").append("records-at", uid=uid, directory=str(directory))

    def gather(self, cwd: str = "/nonexistent") -> Gathered:
        class Clock:
            def now(self) -> float:
                return NOW

        class Accounting:
            def jobs(_, since: float, *, everybody: bool) -> tuple[AccountedJob, ...]:
                assert everybody
                return self.accounted()

        runs = RunPorts(
            RunIndexFiles(self.root / "index"), RunRecordFiles(), cast(Any, None), cast(Any, None), cast(Any, Clock())
        )
        site = SitePorts(SiteRecordFiles(self.root / "journal"), UserRecordFiles(), 0)
        return gather(ReportPorts(runs, Accounting(), lambda: self.active, InThread, site), cwd, T0 - 3600, NOW)


@pytest.fixture
def site() -> Iterator[Site]:
    # pytest's own directories are root's; users go to theirs.
    with tempfile.TemporaryDirectory(prefix="sov-", dir="/var/tmp") as name:
        yield Site(Path(name))


def told(found: Gathered) -> dict[tuple[str, str], tuple[str, int]]:
    """By user and job: where it is known from, and its incidents."""
    return {(one.user, one.job_id): (one.source.value, len(one.incidents)) for one in found.accounts}


def test_everybodys_runs_from_the_directories_of_their_jobs(site: Site) -> None:
    site.job(7, ALICE, "shared")
    site.job(8, MALLORY, "shared")
    site.run("shared", ALICE, 7)
    site.run("shared", MALLORY, 8)
    found = site.gather()
    assert told(found) == {("alice", "7"): ("record", 1), ("mallory", "8"): ("record", 1)}
    assert found.problems == []


def test_runs_in_a_directory_of_their_users_choice_are_found_by_what_the_watch_wrote(site: Site) -> None:
    site.job(7, ALICE, "home/alice")
    site.job(8, MALLORY, "home/mallory")
    alice = site.run("scratch/alice", ALICE, 7).parent
    mallory = site.run("scratch/mallory", MALLORY, 8).parent
    (site.root / "twice").symlink_to(alice)
    site.saw("watch", ALICE, alice)
    site.saw("watch", ALICE, site.root / "twice")
    # A node that is not to be trusted says nothing of where users keep what.
    site.saw("nodes/n001", MALLORY, mallory)
    found = site.gather()
    assert told(found) == {("alice", "7"): ("record", 1), ("mallory", "8"): ("accounting", 0)}
    assert found.problems == []


def test_without_an_accounting_nothing_is_read_that_only_its_user_vouches_for(site: Site) -> None:
    site.saw("watch", ALICE, site.run("scratch/alice", ALICE, 7).parent)

    def none() -> tuple[AccountedJob, ...]:
        raise SlurmUnreachable

    site.accounted = none
    assert told(site.gather()) == {}


def test_nobody_takes_the_place_of_anothers_job(site: Site) -> None:
    """Neither with a record of its number, nor by running first in his directory, nor by many of one's own."""
    site.job(9, MALLORY, "alice")
    site.job(7, ALICE, "alice")
    site.job(8, ALICE, "alice")
    site.run("alice", ALICE, 7)
    site.run("alice", MALLORY, 7, submitted=B + 1)
    site.run("alice", MALLORY, 8)
    for copy in range(3):
        site.run("alice", MALLORY, 9, submitted=B + copy)
    found = site.gather()
    assert told(found) == {
        ("alice", "7"): ("record", 1),
        ("alice", "8"): ("accounting", 0),
        ("mallory", "9"): ("record", 1),
    }
    (words,) = found.problems
    assert "a newer record has its number" in words and "1 more of the same user" in words


def test_a_record_that_slurm_contradicts_is_left_to_slurm(site: Site) -> None:
    for number in (7, 8, 9):
        site.job(number, MALLORY if number > 7 else ALICE, "work")
    site.run("work", ALICE, 7)
    site.run("work", MALLORY, 8, attempt_started={"gpus": 10**5})
    site.run("work", MALLORY, 9, attempt_ended={"blamed": ["n003", "n999"]})
    found = site.gather()
    assert told(found)["mallory", "8"] == ("accounting", 0)
    (honest, blaming) = (next(one for one in found.accounts if one.job_id == number) for number in ("7", "9"))
    assert honest.incidents[0].nodes == blaming.incidents[0].nodes == ("n003",)
    (words,) = found.problems
    assert "400000 GPUs, Slurm gave it 32" in words and "lab-8-" in words


def test_where_root_stands_and_his_own_runs(site: Site) -> None:
    site.job(7, 0, "here", user="root")
    site.run("here", 0, 7)
    site.run("here", ALICE, 11)
    assert told(site.gather(str(site.root / "here"))) == {("anybody", "7"): ("record", 1)}
    # In the queue, and not in the accounting yet.
    site.active = {"11": ALICE}
    assert ("anybody", "11") in told(site.gather(str(site.root / "here")))


def test_without_accounting_there_is_nothing_to_compare_with(site: Site) -> None:
    def silent() -> tuple[AccountedJob, ...]:
        raise SlurmUnreachable("slurmdbd is away")

    site.accounted = silent
    site.run("here", ALICE, 11)
    found = site.gather(str(site.root / "here"))
    assert [one.source for one in found.accounts] == [Source.RECORD]
    assert "without Slurm's accounting" in found.problems[0]
