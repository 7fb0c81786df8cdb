"""The user's list of runs survives whatever is in its directory."""

import json
from pathlib import Path

import pytest

from sovctl.adapters.run.run_index import RunIndexFiles, index_directory
from sovctl.model.submitted import SubmittedRun


def _run(job_id: str = "7", submitted: int = 100) -> SubmittedRun:
    return SubmittedRun(job_id, "", submitted, "/w/.sovctl/runs", "/w", "é x.sh")


def test_newest_first_and_by_job_id(tmp_path: Path) -> None:
    index = RunIndexFiles(tmp_path / "a" / "b")
    assert index.list() == ()
    for run in (_run("7", 100), _run("8", 300), _run("7", 200)):
        index.save(run)
    assert [(run.job_id, run.submitted) for run in index.list()] == [("8", 300), ("7", 200), ("7", 100)]
    assert index.load("7") == (_run("7", 200), _run("7", 100))
    assert index.load("9") == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 20000,
        '{"schema": "sovctl.submitted/2"}',
        '{"schema": "sovctl.submitted/1"}',
        json.dumps({"schema": "sovctl.submitted/1", **dict.fromkeys(SubmittedRun.__slots__, 1)}),
        "x" * 100000,
        "\udcff",
    ],
)
def test_garbage_is_passed_over(tmp_path: Path, text: str) -> None:
    index = RunIndexFiles(tmp_path)
    index.save(_run())
    (tmp_path / "1-1.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "2-2.json").mkdir()
    (tmp_path / "3-3.json").symlink_to("nowhere")
    (tmp_path / ".4-4.json.1").write_text("half")
    assert index.list() == (_run(),)


def test_where_it_is() -> None:
    assert index_directory({"HOME": "/h"}) == Path("/h/.local/state/sovctl/runs")
    assert index_directory({"HOME": "/h", "XDG_STATE_HOME": "/s"}) == Path("/s/sovctl/runs")
    assert index_directory({"HOME": "/h", "XDG_STATE_HOME": "relative"}) == Path("/h/.local/state/sovctl/runs")
