"""`verdict.json` and `cursor.json`: replaced whole, read with distrust."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.adapters.node.verdict_file import LARGEST, NodeFileUnusable, VerdictFile
from sovctl.model.verdict import Finding, Repair, Severity, Verdict, VerdictState
from sovctl.model.verdict_json import verdict_from_record, verdict_record

VERDICT = Verdict(
    "n003",
    "boot-1",
    1000.5,
    VerdictState.FAILED,
    Repair.REBOOT,
    (Finding("XID79", Severity.FAIL, "GPU 5: gone", "GPU-5", 5, Repair.REBOOT),),
    ("nvml: absent",),
)


@pytest.fixture
def store(tmp_path: Path) -> VerdictFile:
    return VerdictFile(tmp_path / "run", tmp_path / "state", "boot-1")


def test_a_verdict_comes_back(tmp_path: Path, store: VerdictFile) -> None:
    assert store.load() is None
    store.save(VERDICT, 300.0)
    assert store.load() == VERDICT
    path = tmp_path / "run" / "verdict.json"
    record = json.loads(path.read_text())
    assert (record["schema"], record["state"], record["valid_until"]) == ("sovctl.verdict/1", "failed", 1300.5)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["verdict.json"]


def test_a_verdict_of_another_boot_is_none(tmp_path: Path, store: VerdictFile) -> None:
    store.save(VERDICT, 300.0)
    assert VerdictFile(tmp_path / "run", tmp_path / "state", "boot-2").load() is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b'{"schema": "x"}', b"[" * 100_000, b" " * (LARGEST + 1)]
)
def test_what_is_not_a_verdict_is_none(tmp_path: Path, store: VerdictFile, content: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "verdict.json").write_bytes(content)
    assert store.load() is None


def test_links_and_fifos_are_not_followed(tmp_path: Path, store: VerdictFile) -> None:
    store.save(VERDICT, 300.0)
    path = tmp_path / "run" / "verdict.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert store.load() is None
    store.save(VERDICT, 300.0)
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    assert store.load() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_somebody_elses_file_is_none(tmp_path: Path, store: VerdictFile) -> None:
    store.save(VERDICT, 300.0)
    os.chown(tmp_path / "run" / "verdict.json", 12345, 12345)
    assert store.load() is None


def test_the_cursor_belongs_to_one_boot(store: VerdictFile) -> None:
    assert store.cursor("boot-1") == 0
    store.save_cursor("boot-1", 42)
    assert store.cursor("boot-1") == 42
    assert store.cursor("boot-2") == 0


@pytest.mark.parametrize("content", ['{"boot_id": "boot-1", "sequence": -1}', '{"boot_id": "boot-1"}', "[]", "7"])
def test_a_broken_cursor_reads_from_the_start(tmp_path: Path, store: VerdictFile, content: str) -> None:
    for place in ("run", "state"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "cursor.json").write_text(content)
    assert store.cursor("boot-1") == 0


def test_a_cursor_where_older_versions_kept_it_counts(tmp_path: Path, store: VerdictFile) -> None:
    """Else the faults of this boot that were repaired long ago would be read again after an upgrade."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "cursor.json").write_text('{"boot_id": "boot-1", "sequence": 42}')
    assert store.cursor("boot-1") == 42
    store.save_cursor("boot-1", 43)
    assert store.cursor("boot-1") == 43
    assert store.cursor("boot-2") == 0


def test_the_cursor_is_kept_where_the_disk_is_full(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not even a directory")
    store = VerdictFile(tmp_path / "run", tmp_path / "state", "boot-1")
    store.save_cursor("boot-1", 42)
    assert store.cursor("boot-1") == 42


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeFileUnusable, match=r"verdict\.json"):
        VerdictFile(tmp_path / "file", tmp_path, "boot-1").save(VERDICT, 1.0)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*verdict_record(VERDICT, 1.0)]), _json)
def test_any_wrong_field_is_none_or_a_verdict(key: str, value: Any) -> None:
    read = verdict_from_record(verdict_record(VERDICT, 1.0) | {key: value})
    assert read is None or isinstance(read, Verdict)
