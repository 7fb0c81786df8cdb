"""Whatever lies in the directories of users: each is read with his own rights and within his own share."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovctl.adapters.run.user_records import Share, UserRecordFiles
from sovctl.model.user_run import UserRun

ME = os.geteuid()
EVENT = '{"seq": 1, "at": 5.0, "kind": "x"}\n'
AS_ROOT = pytest.mark.skipif(ME != 0, reason="only root can give files away")


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """Where every user may go; pytest's own directories are root's."""
    with tempfile.TemporaryDirectory(prefix="sov-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(root: Path, number: int, uid: int = ME, events: str = EVENT) -> Path:
    place = root / f"lab-{number}-100"
    place.mkdir(parents=True)
    (place / "events.jsonl").write_text(events)
    for path in (root, place, place / "events.jsonl"):
        os.chown(path, uid, -1)
    os.utime(place / "events.jsonl", (number, number))
    return place


def read(places: dict[int, list[Path]], share: Share | None = None) -> tuple[list[UserRun], list[str]]:
    notes: list[str] = []
    named = {uid: [str(path) for path in paths] for uid, paths in places.items()}
    return list(UserRecordFiles(share).read(named, notes.append)), notes


def names(found: list[UserRun]) -> list[str]:
    return [Path(one.run_dir).name for one in found]


def test_runs_of_one_user_the_newest_first(tmp_path: Path) -> None:
    for number in (7, 8, 9):
        run(tmp_path, number)
    record = {"job_id": "8", "run_id": "x" * 999, "submitted": 100, "user": ["no text"]}
    (tmp_path / "lab-8-100/run.json").write_text(json.dumps(record))
    found, notes = read({ME: [tmp_path, tmp_path / "absent"]})
    assert (names(found), notes) == (["lab-9-100", "lab-8-100", "lab-7-100"], [])
    assert dict(found[1].record) == {"job_id": "8", "run_id": "x" * 200}
    assert [event["kind"] for event in found[0].events] == ["x"]
    assert read({}) == ([], [])


def test_what_is_no_record_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(EVENT)
    link, pipe, device = (run(tmp_path, number) / "events.jsonl" for number in (1, 2, 3))
    for path in (link, pipe, device):
        path.unlink()
    link.symlink_to(tmp_path / "secret")
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    run(tmp_path, 4, events="\0\xff{{{\n" + "[" * 5000 + "\n" + EVENT + '{"torn')
    (tmp_path / "lab-5-100").symlink_to(tmp_path / "lab-4-100")
    found, notes = read({ME: [tmp_path]})
    assert (names(found), notes) == (["lab-4-100"], [])
    assert [event["seq"] for event in found[0].events] == [1]


def test_a_share_for_each(tmp_path: Path) -> None:
    """More runs, or more bytes, than one user may have read: his newest are read, and he is named."""
    for number in range(1, 6):
        run(tmp_path, number, events=EVENT * 100)
    few, notes = read({ME: [tmp_path]}, Share(runs=2))
    assert names(few) == ["lab-5-100", "lab-4-100"]
    assert len(notes) == 1 and "3 runs" in notes[0]
    small, notes = read({ME: [tmp_path]}, Share(record_bytes=len(EVENT) * 10 + 5, all_bytes=len(EVENT) * 25))
    assert names(small) == ["lab-5-100", "lab-4-100", "lab-3-100"]
    assert {len(one.events) for one in small} == {10}
    assert "2 runs" in notes[0]


@AS_ROOT
def test_nobody_shows_what_is_not_his(open_dir: Path) -> None:
    """Another user's record below his own directory, and one of his own where only root may go."""
    run(open_dir / "alice", 1, 1234)
    run(open_dir / "alice", 2, 5678)
    closed = open_dir / "closed"
    run(closed, 3, 1234)
    os.chown(closed, 0, 0)
    closed.chmod(0o700)
    (open_dir / "way").symlink_to(closed)
    run(open_dir / "bob", 4, 5678)
    found, notes = read({1234: [open_dir / "alice", closed, open_dir / "way"], 5678: [open_dir / "bob"]})
    assert ([(one.uid, Path(one.run_dir).name) for one in found], notes) == (
        [(1234, "lab-1-100"), (5678, "lab-4-100")],
        [],
    )
    assert os.geteuid() == 0


@AS_ROOT
def test_storage_that_hangs_costs_its_owner_only(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uid, name in ((1, "first"), (2, "hangs"), (3, "last")):
        run(open_dir / name, uid, uid)
    look = os.lstat

    def slow(path: Path) -> os.stat_result:
        while "hangs" in str(path):
            time.sleep(1)
        return look(path)

    monkeypatch.setattr(os, "lstat", slow)
    found, notes = read(
        {uid: [open_dir / name] for uid, name in ((1, "first"), (2, "hangs"), (3, "last"))}, Share(silent_s=0.5)
    )
    assert [one.uid for one in found] == [1, 3]
    assert len(notes) == 1 and "gives no answer" in notes[0]
