"""What the whole site wrote down, and whose run a directory is."""

from __future__ import annotations

import os
from pathlib import Path

from sovctl.adapters.journal import ChangeMark, FileJournal
from sovctl.adapters.node.node_records import NodeRecordFiles
from sovctl.adapters.run.run_records import RunRecordFiles
from sovctl.adapters.site.site_records import SiteRecordFiles


def test_every_journal_of_the_site_is_read(tmp_path: Path) -> None:
    FileJournal(tmp_path / "watch.jsonl").append("noted", words="x")
    FileJournal(tmp_path / "nodes" / "n003.jsonl").append("verdict", state="failed")
    FileJournal(tmp_path / "nodes" / "n004.jsonl").append("drain-done", node="n004", incident="i")
    # Nothing that a node says of another one counts.
    FileJournal(tmp_path / "nodes" / "n004.jsonl").append("drain-done", node="n001", incident="j")
    (tmp_path / "sweep.jsonl").mkdir()
    entries, problems = SiteRecordFiles(tmp_path).entries()
    assert [(entry["kind"], entry.get("node")) for entry in entries] == [
        ("noted", None),
        ("verdict", "n003"),
        ("drain-done", "n004"),
    ]
    assert len(problems) == 1 and "sweep.jsonl" in problems[0]
    assert SiteRecordFiles(tmp_path / "absent").entries() == ([], [])


def test_a_node_shows_its_tallies_now_and_then(tmp_path: Path) -> None:
    shared = tmp_path / "journal" / "ledgers" / "n003.json"
    node = NodeRecordFiles(tmp_path / "run", tmp_path / "state", None, shared)
    node.save("probes", {"schema": "s", "probes": {"xid": 1}})
    node.save("probes", {"schema": "s", "probes": {"xid": 2}})
    site = SiteRecordFiles(tmp_path / "journal")
    assert site.tallies() == [{"schema": "s", "probes": {"xid": 1}}]
    place = tmp_path / "journal" / "probes" / "n003.json"
    os.utime(place, (1, 1))
    node.save("probes", {"schema": "s", "probes": {"xid": 3}})
    assert site.tallies() == [{"schema": "s", "probes": {"xid": 3}}]
    assert node.load("probes") == {"schema": "s", "probes": {"xid": 3}}
    assert site.ledgers() == []


def test_a_run_belongs_to_who_owns_its_journal(tmp_path: Path) -> None:
    records = RunRecordFiles()
    run = tmp_path / "lab-1-2"
    assert records.owner(str(run)) is None
    run.mkdir()
    (run / "events.jsonl").write_text("")
    assert records.owner(str(run)) == os.geteuid()
    assert records.owner("a\0b") is None


def test_a_file_is_read_again_only_when_it_was_written_to(tmp_path: Path) -> None:
    path = tmp_path / "watch.jsonl"
    mark = ChangeMark(path)
    assert not mark.changed()
    FileJournal(path).append("noted", words="x")
    assert mark.changed() and not mark.changed()
    FileJournal(path).append("noted", words="y")
    assert mark.changed()
