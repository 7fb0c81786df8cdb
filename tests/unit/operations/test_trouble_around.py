"""Trouble around a supervisor that is none of its training: full disks, silent storage, munge, clocks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_fakes import NOW, Run
from test_crash_points import Killed

from sovctl.adapters.command import Completed
from sovctl.adapters.journal import JournalError
from sovctl.adapters.slurm.cli import slurm_error
from sovctl.errors import RunDirUnusable, StorageSilent, TryLaterError
from sovctl.model.blame import Blame, Culprit
from sovctl.model.checkpoint import Checkpoint, CheckpointState, ResumePoint
from sovctl.operations.supervisor.supervise import RunLooks

XID = "sovctl:20261122-1a2b XID79 GPU 5 fell off the bus"
MUNGE = (
    "error: If munged is up, restart with --num-threads=10\nerror: Munge encode failed: Failed to access "
    '"/run/munge/munge.socket.2": No such file or directory\nslurm_load_jobs error: Protocol authentication error\n'
)


def test_words_that_the_output_has_no_room_for_are_lost_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom sovctl.cli.wiring.supervision import supervisor_ports\n"
        "supervisor_ports(Path(sys.argv[1])).say('the journal cannot be written')\nos._exit(0)\n"
    )
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-c", code, str(tmp_path / "run")]
        assert subprocess.run(words, stderr=full, env={**os.environ, "SLURM_JOB_ID": "1"}).returncode == 0


def full_from(run: Run, seconds: float) -> None:
    """The journal and the job's own output lie on a disk that is full from then on."""
    append = run.journal.append

    def appended(kind: str, **fields: Any) -> dict[str, Any]:
        if run.clock.time >= NOW + seconds:
            raise JournalError(Path("/runs/events.jsonl"), "No space left on device")
        return append(kind, **fields)

    class Said(list[str]):
        def append(self, words: str) -> None:
            if run.clock.time >= NOW + seconds:
                raise OSError(errno.ENOSPC, "No space left on device")

    run.journal.append = appended  # type: ignore[method-assign]
    run.said = Said()


def test_a_full_disk_takes_neither_the_supervisor_nor_its_training() -> None:
    run = Run()
    full_from(run, 10.0)
    run.clock.at(20.0, lambda: run.steps(12))  # the next lines of the record
    run.clock.at(60.0, lambda: run.children[-1].end(0))
    assert run.attempt() == 0
    assert len(run.children) == 1


def silent_once(run: Run) -> None:
    """The journal cannot be read when the next supervisor begins."""
    events, asked = run.journal.events, []

    def once() -> list[dict[str, Any]]:
        asked.append(True)
        if len(asked) == 1:
            raise StorageSilent(5.0)
        return events()

    run.journal.events = once  # type: ignore[method-assign]


def test_a_record_that_cannot_be_read_yet_starts_no_second_script_beside_the_first() -> None:
    run = Run()
    run.steps(3)

    def die() -> None:
        raise Killed

    run.clock.at(20.0, die)
    with pytest.raises(Killed):
        run.attempt()
    first, lived = run.children[0], []
    silent_once(run)

    def started(child: Any) -> None:
        lived.append(first.status is None)
        child.end(0)

    run.on_start = started
    run.attempt()
    assert lived == [False]
    assert [record["attempt"] for record in run.of("attempt_started")] == [0, 1]


def test_a_record_that_cannot_be_read_yet_is_no_empty_one() -> None:
    run = Run(nodes=4)
    run.clock.at(20.0, lambda: run.slurm.drain("n002", XID))
    run.attempt()
    run.await_start()
    silent_once(run)
    run.on_start = lambda child: child.end(0)
    run.attempt()
    assert [record["attempt"] for record in run.of("attempt_started")] == [0, 1]
    assert any("nothing is done until it can be read" in words for words in run.said)


def refuse(run: Run, name: str, when: Callable[[], bool]) -> None:
    """A method of the run directory fails while `when` says so."""
    real = getattr(run, name)

    def act(*args: Any, **named: Any) -> Any:
        if when():
            raise RunDirUnusable("/runs/attempts/1", "Disk quota exceeded")
        return real(*args, **named)

    setattr(run, name, act)


def test_a_quota_that_is_full_at_a_restart_holds_the_run() -> None:
    run = Run()
    refuse(run, "start_attempt", lambda: bool(run.children))
    run.clock.at(20.0, lambda: run.children[-1].end(1))
    run.attempt()
    (held,) = run.of("held")
    assert "Disk quota exceeded" in held["why"]


def test_a_quota_that_is_full_after_a_requeue_needs_no_new_directory() -> None:
    run = Run(nodes=4)
    run.clock.at(20.0, lambda: run.slurm.drain("n002", XID))
    run.attempt()
    run.await_start()
    refuse(run, "prepare", lambda: True)
    run.on_start = lambda child: child.end(0)
    assert run.attempt() == 0
    assert [record["attempt"] for record in run.of("attempt_started")] == [0, 1]


@pytest.mark.parametrize("name", ["prepare", "start_attempt"])
def test_a_quota_that_is_full_at_the_first_start_is_told_at_once(name: str) -> None:
    run = Run()
    refuse(run, name, lambda: True)
    with pytest.raises(RunDirUnusable, match="Disk quota exceeded"):
        run.attempt()
    assert not run.of("held")


def test_a_munge_that_is_restarted_is_something_to_try_later() -> None:
    error = slurm_error(["scontrol", "-o", "show", "job", "1"], Completed(1, "", MUNGE), "1")
    assert isinstance(error, TryLaterError)


def test_a_munge_that_is_restarted_during_a_recovery_delays_it() -> None:
    run = Run()
    real = run.slurm.job

    def job(job_id: str) -> Any:
        if NOW + 20.2 < run.clock.time < NOW + 25:
            raise slurm_error(["scontrol", "-o", "show", "job", job_id], Completed(1, "", MUNGE), job_id)
        return real(job_id)

    run.slurm.job = job  # type: ignore[method-assign]
    run.clock.at(20.0, lambda: run.slurm.drain("n001", XID))
    run.attempt()
    assert run.of("requeued"), run.kinds


def test_a_storage_that_gives_no_answer_does_not_spend_the_budget_of_months(monkeypatch: pytest.MonkeyPatch) -> None:
    run, silent, looked = Run(nodes=2), [False], RunLooks.look
    for attempt in range(3):  # each got on
        about = {"attempt": attempt, "checkpoint": f"/c/{attempt}", "checkpoint_step": 1000 * attempt + 900}
        run.journal.append("attempt_started", attempt=attempt, job_id=run.job_id, restarts=-1, nodes=["n001", "n002"])
        ended = {"culprit": "unknown", "blamed": [], "suspects": [], "evidence": "x", "signature": "", "step": 1000}
        run.journal.append("attempt_ended", **about, **ended, action="restart", why="")
    point = ResumePoint(Checkpoint(Path("/c/step-3900"), 3900, "dcp", CheckpointState.COMPLETE))

    def checkpoints(work: Any, **_: Any) -> ResumePoint:
        if silent[0]:
            raise StorageSilent(600.0)
        return point

    def look(self: RunLooks) -> Blame | None:
        hung = Blame(Culprit.UNKNOWN, evidence="hang", signature="hang", step=4100)
        return hung if run.clock.time > NOW + 20 else looked(self)

    monkeypatch.setattr(RunLooks, "look", look)
    run.checkpoints = checkpoints  # type: ignore[assignment]
    run.clock.at(10.0, lambda: silent.__setitem__(0, True))
    run.clock.at(60.0, lambda: silent.__setitem__(0, False))
    run.on_start = lambda child: child.end(0) if len(run.children) > 1 else None
    run.attempt()
    last = run.of("attempt_ended")[3]
    assert (last["action"], last["checkpoint_step"]) == ("restart", 2900), last["why"]


def test_a_clock_that_is_set_back_blinds_nobody() -> None:
    run = Run()
    real = run.clock.now
    run.clock.now = lambda: (at := real()) - (3600.0 if at >= NOW + 20 else 0.0)  # type: ignore[method-assign]
    run.clock.at(30.0, lambda: run.slurm.drain("n002", XID))
    run.clock.at(7200.0, lambda: run.children[0].end(0))
    run.attempt()
    assert run.of("detected")[0]["at"] < NOW + 90
