"""The small files of a node: the fake of the tests and the files themselves keep the same promises."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from node_fakes import Records

from sovctl.adapters.node_records import NodeRecordFiles
from sovctl.errors import SovctlError
from sovctl.ports import NodeRecords

NAMES = ("memory", "ledger", "probes", "inventory", "job-17")


@pytest.fixture(params=["files", "fake"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], NodeRecords]:
    if request.param == "files":
        return lambda: NodeRecordFiles(tmp_path / "run", tmp_path / "state")
    fake = Records()
    return lambda: fake


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_loaded_by_the_next_process(make: Callable[[], NodeRecords], name: str) -> None:
    assert make().load(name) is None and not make().present(name)
    make().save(name, {"a": [1, "\u00e9"]})
    make().save(name, {"a": [2]})
    assert make().load(name) == {"a": [2]} and make().present(name)
    make().drop(name)
    make().drop(name)
    assert make().load(name) is None


def test_jobs_are_listed(make: Callable[[], NodeRecords]) -> None:
    assert make().jobs() == ()
    for job_id in ("18", "17"):
        make().save(f"job-{job_id}", {})
    make().save("ledger", {})
    assert sorted(make().jobs()) == ["17", "18"]


def test_files_of_others_links_and_junk_are_not_loaded(tmp_path: Path) -> None:
    records = NodeRecordFiles(tmp_path / "run", tmp_path / "state")
    records.save("ledger", {"a": 1})
    path = records.path("ledger")
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        assert records.load("ledger") is None and records.present("ledger")
        os.chown(path, 0, 0)
    path.rename(path.with_name("other"))
    path.symlink_to(path.with_name("other"))
    assert records.load("ledger") is None
    path.unlink()
    path.write_bytes(b"\xff{")
    assert records.load("ledger") is None and records.present("ledger")


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SovctlError, match="cannot write"):
        NodeRecordFiles(tmp_path / "file" / "run", tmp_path).save("memory", {})
    assert NodeRecordFiles(tmp_path / "file" / "run", tmp_path).load("memory") is None


def test_the_notice_is_one_line_and_goes_away(tmp_path: Path) -> None:
    records = NodeRecordFiles(tmp_path / "run", tmp_path / "state")
    records.notice("")
    assert not (tmp_path / "run" / "notice").exists()
    records.notice("sovctl: node n003 is degraded")
    assert (tmp_path / "run" / "notice").read_text() == "sovctl: node n003 is degraded\n"
    records.notice("")
    assert (tmp_path / "run" / "notice").read_text() == ""
