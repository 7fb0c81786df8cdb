"""What was made of a file counts as long as it is that file, and never longer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sovctl.adapters.run.made_of_files import MadeOfFiles, cache_file

BY = "sovctl 1, digest 1"


def later() -> float:
    return time.time() + 60.0


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text('{"seq":1}\n')
    return path


def remember(cache: Path, path: Path, made: object, now: Callable[[], float] = later) -> None:
    kept = MadeOfFiles(cache, BY, now=now)
    kept.recall(str(path))
    kept.keep(str(path), made)
    kept.save()


def recalled(cache: Path, path: Path, by: str = BY) -> object:
    return MadeOfFiles(cache, by).recall(str(path))


def test_it_is_there_the_next_time(tmp_path: Path, record: Path) -> None:
    cache = tmp_path / "cache/sovctl/runs.json"
    assert recalled(cache, record) is None
    remember(cache, record, ["finished", 3])
    assert recalled(cache, record) == ["finished", 3]
    assert (cache.stat().st_mode & 0o777, cache.parent.stat().st_mode & 0o777) == (0o644, 0o700)
    assert [path.name for path in cache.parent.iterdir()] == ["runs.json"]


def grown(path: Path) -> None:
    with path.open("a") as file:
        file.write("x\n")


def overwritten(path: Path) -> None:
    text = path.read_text()
    times = path.stat()
    path.write_text(text.replace("1", "2"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` would have it


def replaced(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(path.read_bytes())
    fresh.replace(path)


def a_link(path: Path) -> None:
    path.rename(path.with_name("away"))
    path.symlink_to("away")


@pytest.mark.parametrize("change", [grown, overwritten, replaced, Path.unlink, a_link])
def test_a_file_that_changed_is_read_again(tmp_path: Path, record: Path, change: Callable[[Path], None]) -> None:
    cache = tmp_path / "runs.json"
    remember(cache, record, "old")
    change(record)
    assert recalled(cache, record) is None


def test_what_changes_while_it_is_read_is_read_again(tmp_path: Path, record: Path) -> None:
    cache = tmp_path / "runs.json"
    kept = MadeOfFiles(cache, BY, now=later)
    kept.recall(str(record))
    grown(record)  # by its supervisor, behind the reader
    kept.keep(str(record), "half of it")
    kept.save()
    assert recalled(cache, record) is None


def test_a_file_that_changed_just_now_is_not_kept(tmp_path: Path, record: Path) -> None:
    cache = tmp_path / "runs.json"
    remember(cache, record, "old", now=time.time)
    assert not cache.exists()


def test_without_a_look_before_nothing_is_kept(tmp_path: Path, record: Path) -> None:
    kept = MadeOfFiles(tmp_path / "runs.json", BY, now=later)
    kept.keep(str(record), "of an unknown state")
    assert kept.recall(str(record)) is None


@pytest.mark.parametrize("made", ["old", None, {"a": [1]}])
def test_another_release_makes_its_own(tmp_path: Path, record: Path, made: object) -> None:
    cache = tmp_path / "runs.json"
    remember(cache, record, made)
    assert recalled(cache, record, by="sovctl 2, digest 1") is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"made_by": 1}', f'{{"made_by": "{BY}", "files": []}}', "[" * 100_000,
     f'{{"made_by": "{BY}", "files": {{"PATH": [1]}}}}', f'{{"made_by": "{BY}", "files": {{"PATH": 1}}}}'],
)  # fmt: skip
def test_a_broken_cache_is_made_anew(tmp_path: Path, record: Path, text: str) -> None:
    cache = tmp_path / "runs.json"
    cache.write_text(text.replace("PATH", str(record)))
    assert recalled(cache, record) is None
    remember(cache, record, "new")
    assert recalled(cache, record) == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_cache_of_somebody_else_is_not_believed(tmp_path: Path, record: Path) -> None:
    cache = tmp_path / "runs.json"
    remember(cache, record, "forged")
    os.chown(cache, 65534, 65534)
    assert recalled(cache, record) is None


def test_a_cache_that_cannot_be_written_is_no_error(record: Path) -> None:
    remember(Path("/proc/none/sovctl/runs.json"), record, "new")


def test_what_was_kept_of_other_files_stays(tmp_path: Path, record: Path) -> None:
    cache, other = tmp_path / "runs.json", tmp_path / "other"
    other.write_text("x")
    remember(cache, record, "one")
    remember(cache, other, "two")
    assert (recalled(cache, record), recalled(cache, other)) == ("one", "two")
    assert len(json.loads(cache.read_text())["files"]) == 2


def test_where_it_lies() -> None:
    assert cache_file({"HOME": "/home/u"}) == Path("/home/u/.cache/sovctl/runs.json")
    assert cache_file({"HOME": "/home/u", "XDG_CACHE_HOME": "/c"}) == Path("/c/sovctl/runs.json")
