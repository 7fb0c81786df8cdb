"""A storage that hangs takes one thread, not the supervisor."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sovctl.adapters.clock import SystemClock
from sovctl.adapters.journal import FileJournal
from sovctl.adapters.run.patient import Patience, PatientJournal, PatientRunFiles
from sovctl.adapters.run.run_files import RunDirectory
from sovctl.errors import RunDirUnusable, StorageSilent
from sovctl.operations.supervisor.tolerant_journal import TolerantJournal


class Stuck:
    """Something that waits in the thread until it is let go."""

    def __init__(self, patience: Patience) -> None:
        self._back = threading.Event()
        with pytest.raises(StorageSilent):
            patience.ask(self._wait)

    def _wait(self) -> None:
        assert self._back.wait(60)

    def lets_go(self, patience: Patience) -> None:
        self._back.set()
        gone = threading.Event()
        with pytest.raises(StorageSilent):
            patience.ask(gone.set, later=True)
        assert gone.wait(10), "what was late is done in the end"


def test_what_answers_is_passed_on() -> None:
    patience = Patience()
    assert patience.ask(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        patience.ask(lambda: 1 / 0)


def test_something_can_be_done_while_a_long_access_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovctl.adapters.run.patient._TURN_S", 0.01)
    patience, turns, go = Patience(), [0], threading.Event()

    def meanwhile() -> None:
        turns[0] += 1
        if turns[0] == 3:
            go.set()

    assert patience.ask(lambda: go.wait(60), patience_s=60.0, meanwhile=meanwhile)
    assert turns[0] >= 3


def test_whatever_is_done_meanwhile_can_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovctl.adapters.run.patient._TURN_S", 0.01)
    patience, go = Patience(), threading.Event()

    def meanwhile() -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        patience.ask(lambda: go.wait(60), patience_s=60.0, meanwhile=meanwhile)
    with pytest.raises(StorageSilent):
        patience.ask(lambda: 7)
    go.set()


def test_reads_of_a_hanging_storage_are_empty_at_once(tmp_path: Path) -> None:
    patience = Patience(0.05)
    directory = RunDirectory(tmp_path)
    files = PatientRunFiles(directory, directory, patience, str(tmp_path))
    files.prepare({"run_id": "r"})
    Stuck(patience)
    assert (files.record(), files.progress(0), files.all_progress(), files.requeue_asked(0)) == ({}, None, (), "")
    assert "has not answered" in files.keep(0, "stacks.txt", b"x")
    with pytest.raises(RunDirUnusable):
        files.start_attempt(0, "train.sh", b"x")


def test_records_that_were_late_are_written_in_order_and_count_once(tmp_path: Path) -> None:
    patience, said = Patience(0.2), list[str]()
    file = FileJournal(tmp_path / "events.jsonl")
    journal = TolerantJournal(PatientJournal(file, patience), SystemClock(), said.append)
    journal.append("attempt_started", attempt=0, nodes=("n001",))
    stuck = Stuck(patience)
    journal.append("attempt_ended", attempt=0, blamed=("n001",))
    journal.append("restarted", attempt=0)
    kinds = ["attempt_started", "attempt_ended", "restarted"]
    assert [event["kind"] for event in journal.events()] == kinds, "from memory"
    assert len(said) == 1
    stuck.lets_go(patience)
    assert [event["kind"] for event in file.events()] == kinds
    assert [event["kind"] for event in journal.events()] == kinds
    assert [event["kind"] for event in journal.events()] == kinds
