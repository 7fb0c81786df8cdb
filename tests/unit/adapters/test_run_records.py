"""Whatever lies in a directory of runs, reading it neither fails nor follows links."""

from __future__ import annotations

import json
import os
from pathlib import Path

from sovctl.adapters.run.run_records import RunRecordFiles

RECORDS = RunRecordFiles()


def test_runs_below_a_directory(tmp_path: Path) -> None:
    for name in ("lab-7-100", "my-lab-8-200", ".hidden-1-1", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "lab-9-300").write_text("a file")
    (tmp_path / "lab-9-400").symlink_to(tmp_path / "lab-7-100")
    assert [Path(path).name for path in RECORDS.below(str(tmp_path))] == ["lab-7-100", "my-lab-8-200"]


def test_a_record_and_its_events(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"job_id": "7"}))
    (tmp_path / "events.jsonl").write_bytes(b'{"seq": 1, "kind": "x"}\nrubbish \xff\n{"seq": 2, "kind": "y"}\n{"torn')
    assert RECORDS.record(str(tmp_path)) == {"job_id": "7"}
    assert [event["kind"] for event in RECORDS.events(str(tmp_path))] == ["x", "y"]
    assert RECORDS.progress(str(tmp_path)) == ()


def test_what_is_not_there_or_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"job_id": "1"}\n')
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("run.json", "events.jsonl"):
        (linked / name).symlink_to(tmp_path / "secret")
    pipes = tmp_path / "pipes"
    pipes.mkdir()
    for name in ("run.json", "events.jsonl"):
        os.mkfifo(pipes / name)
    for place in (str(linked), str(pipes), str(tmp_path / "none"), "", "a\0b", str(tmp_path / "secret")):
        assert RECORDS.record(place) == {}
        assert RECORDS.events(place) == []
        assert RECORDS.progress(place) == ()
        assert not RECORDS.below(place)
