"""The small files of a node: the fake of the tests and the files themselves keep the same promises."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from node_fakes import Records

from sovctl.adapters.node.job_evidence import JobEvidenceFiles
from sovctl.adapters.node.node_records import LedgerFiles, NodeRecordFiles
from sovctl.errors import SovctlError
from sovctl.model.job_evidence import JobEvidence, evidence_from_record, evidence_path
from sovctl.model.verdict import VerdictState
from sovctl.ports.node import NodeRecords

NAMES = ("memory", "ledger", "probes", "inventory", "burn-in", "job-17")


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


def test_a_ledger_is_shown_to_the_other_nodes(tmp_path: Path) -> None:
    def node(name: str) -> NodeRecordFiles:
        return NodeRecordFiles(
            tmp_path / name, tmp_path / name, None, tmp_path / "journal" / "ledgers" / f"{name}.json"
        )

    shared = LedgerFiles(tmp_path / "journal")
    assert shared.all() == {} and not shared.changed(0.0) and shared.lemons() is None
    node("n001").save("ledger", {"of": 1})
    node("n002").save("ledger", {"of": 2})
    assert node("n001").ledgers() == ({"of": 2},)
    assert {name: record for name, (_, record) in shared.all().items()} == {"n001": {"of": 1}, "n002": {"of": 2}}
    assert shared.changed(0.0) and not shared.changed(4e9)
    shared.save_lemons({"at": 1})
    assert shared.lemons() == {"at": 1}
    (tmp_path / "journal" / "ledgers" / "n003.json").write_text("{torn", "utf-8")
    assert set(shared.all()) == {"n001", "n002"}


def test_evidence_is_readable_for_all_and_removed_when_it_is_old(tmp_path: Path) -> None:
    files = JobEvidenceFiles(tmp_path)
    assert files.prune(4e9) == 0
    evidence = JobEvidence("n001", "7", "boot", 1.0, 2.0, VerdictState.FAILED)
    files.save(evidence)
    path = tmp_path / evidence_path("7", "n001")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert evidence_from_record(json.loads(path.read_text("utf-8"))) == evidence
    assert files.prune(path.stat().st_mtime - 60) == 0 and path.exists()
    assert files.prune(4e9) == 1 and not path.parent.exists()
    with pytest.raises(SovctlError):
        files.save(JobEvidence("../../etc", "7", "boot", 1.0, 2.0, VerdictState.FAILED))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's evidence counts")
def test_only_what_root_left_about_this_job_is_read(tmp_path: Path) -> None:
    files = JobEvidenceFiles(tmp_path)
    assert files.load("7") == ()
    mine, other = (JobEvidence(node, "7", "boot", 1.0, 2.0, VerdictState.FAILED) for node in ("n001", "n002"))
    files.save(mine)
    files.save(other)
    directory = tmp_path / "jobs" / "7"
    os.chown(directory / "n002.json", 65534, 65534)
    (directory / "n003.json").symlink_to(directory / "n001.json")
    (directory / "n004.json").write_text("{}")
    (directory / "n005.json").write_bytes(b" " * 100_000)
    os.mkfifo(directory / "n006.json")
    assert files.load("7") == (mine,)
    assert files.load("8") == files.load("../7") == ()
