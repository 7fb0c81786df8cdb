"""The append-only record: whole lines, in order, on disk, whatever a crash left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovctl.adapters import journal as journal_module
from sovctl.adapters.journal import FileJournal, FileTurn, JournalError
from sovctl.errors import TryLaterError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "events.jsonl"


def test_append_numbers_stamps_and_returns_the_record(path: Path) -> None:
    journal = FileJournal(path)
    first = journal.append("run-started", job_id="12")
    second = journal.append("attempt-started", attempt=0)
    assert (first["seq"], second["seq"]) == (1, 2)
    assert first["kind"] == "run-started" and first["job_id"] == "12" and first["at"] > 1e9
    assert journal.events() == [first, second]
    assert FileJournal(path).append("x")["seq"] == 3


def test_a_missing_journal_has_no_events(path: Path) -> None:
    assert FileJournal(path).events() == []


def test_text_of_any_kind_stays_on_one_line(path: Path) -> None:
    journal = FileJournal(path)
    journal.append("said", text="two\nlines\u2028\x1b[31m\0", surrogate="\udcff")
    assert path.read_bytes().count(b"\n") == 1
    assert len(journal.events()) == 1


@given(cut=st.integers(min_value=0, max_value=400), garbage=st.binary(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_tail_costs_only_the_torn_record(tmp_path: Path, cut: int, garbage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    journal = FileJournal(path)
    written = [journal.append("step", n=n, text="é" * n) for n in range(5)]
    whole = path.read_bytes()
    torn = whole[: max(0, len(whole) - cut)] + garbage.replace(b"\n", b"")
    path.write_bytes(torn)
    survived = [record for record in written if _line(record) in torn]
    assert journal.events() == survived or garbage
    after = FileJournal(path).append("after")
    events = FileJournal(path).events()
    assert events[-1] == after
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert path.read_bytes().endswith(b"\n")
    for line in path.read_bytes().splitlines():
        json.loads(line)


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_content_is_read_without_an_exception_and_can_be_appended_to(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(data)
    journal = FileJournal(path)
    journal.events()
    record = journal.append("after")
    assert journal.events()[-1] == record


def test_of_one_kind_only_the_newest_can_be_asked_for(path: Path) -> None:
    journal = FileJournal(path)
    for step in (1, 2, 3):
        journal.append("saved", step=step)
        journal.append("said", why='as in "kind":"saved", and {"kind":"saved"}')
    assert [event["kind"] for event in journal.events("saved")] == ["said", "said", "saved", "said"]
    assert [event["step"] for event in journal.events("saved") if event["kind"] == "saved"] == [3]
    assert journal.events("none") == journal.events()


def test_foreign_lines_in_the_middle_are_skipped(path: Path) -> None:
    journal = FileJournal(path)
    journal.append("one")
    with path.open("ab") as stream:
        stream.write(b'[1]\n{"seq": "x", "kind": "y"}\n\xff\xfe\n' + b"[" * 100000 + b"\n")
    journal.append("two")
    assert [(event["seq"], event["kind"]) for event in journal.events()] == [(1, "one"), (2, "two")]


def test_a_large_file_is_read_from_its_newest_part(path: Path) -> None:
    journal = FileJournal(path, most_bytes=200)
    for n in range(20):
        journal.append("step", n=n)
    events = journal.events()
    assert 0 < len(events) < 20
    assert events[-1]["n"] == 19


def test_a_disk_that_fills_up_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = FileJournal(path)
    journal.append("before")
    before = path.read_bytes()
    real_write = os.write

    def full(descriptor: int, data: bytes) -> int:
        real_write(descriptor, bytes(data)[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalError, match="No space left on device"):
        journal.append("lost")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert journal.append("after")["seq"] == 2


def test_a_record_that_is_too_long_is_refused(path: Path) -> None:
    with pytest.raises(JournalError, match="larger than"):
        FileJournal(path).append("huge", text="x" * (journal_module.LONGEST_LINE + 1))
    assert FileJournal(path).events() == []


def test_a_symlink_and_a_fifo_are_refused(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to("/etc/hostname")
    with pytest.raises(JournalError):
        FileJournal(path).append("x")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(JournalError):
        FileJournal(path).append("x")
    with pytest.raises(JournalError):
        FileJournal(path).events()


def test_a_second_writer_waits_and_then_says_so(path: Path) -> None:
    journal = FileJournal(path, lock_wait_s=0.05)
    journal.append("one")
    with path.open("rb") as holder, journal_module.lock(holder.fileno(), path, 1.0):
        with pytest.raises(TryLaterError, match="another process"):
            journal.append("two")
        with FileTurn(path, wait_s=0.05).take():
            pass
    assert journal.append("two")["seq"] == 2


def _append_many(path: Path, count: int) -> None:
    journal = FileJournal(path)
    for n in range(count):
        journal.append("step", n=n)


def test_writers_in_different_processes_never_share_a_number(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(path, 25)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [event["seq"] for event in FileJournal(path).events()] == list(range(1, 76))


def _line(record: dict[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
