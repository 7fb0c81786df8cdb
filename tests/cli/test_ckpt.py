"""`sovctl ckpt` as a person and as a script meets it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from sovctl.checkpoint.mark import MARK, Mark, encode_mark
from sovctl.cli import main


def _checkpoint(root: Path, step: int, *, checksums: bool = True) -> Path:
    content = {".metadata": b"m" * 40, "__0_0.distcp": b"s" * 100}
    path = root / f"step-{step}"
    path.mkdir(parents=True)
    for name, data in content.items():
        (path / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()} if checksums else {}
    sizes = {name: len(data) for name, data in content.items()}
    mark = Mark(step=step, world_size=1, files=sizes, saved_at=1.7e9, sha256=digests)
    (path / MARK).write_bytes(encode_mark(mark))
    return path


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    root = tmp_path / "check points"
    for step in (20, 40, 60):
        _checkpoint(root, step)
    os.truncate(root / "step-60" / "__0_0.distcp", 5)
    (root / "step-80").mkdir()
    return root


def test_latest_prints_the_path(shelf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ckpt", "latest", str(shelf)]) == 0
    assert capfd.readouterr().out == f"{shelf}/step-40\n"


def test_latest_without_any(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "step-3").mkdir()
    assert main.run(["ckpt", "latest", str(tmp_path)]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert f"there is no complete checkpoint in {tmp_path} (1 incomplete)" in captured.err


def test_ls_shows_why(shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main.run(["ckpt", "ls", str(shelf)]) == 0
    rows = [line.rstrip().split(maxsplit=4) for line in capfd.readouterr().out.splitlines()]
    assert rows[0][:4] == ["STEP", "AGE", "SIZE", "STATE"]
    assert rows[1][:4] == ["80", "-", "-", "writing"]
    assert rows[1][4].endswith("so far it is empty")
    assert [row[0] for row in rows[1:]] == ["80", "60", "40", "20"]
    assert "__0_0.distcp has 5 bytes, saved were 100" in " ".join(rows[2])


def test_ls_json(shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVCTL_CHECKPOINT_DIR", str(shelf))
    assert main.run(["ckpt", "ls", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["schema"] == "sovctl.checkpoints/1"
    assert [(one["step"], one["state"]) for one in record["checkpoints"]] == [
        (80, "writing"),
        (60, "corrupt"),
        (40, "complete"),
        (20, "complete"),
    ]
    assert record["checkpoints"][2]["path"] == f"{shelf}/step-40"


def test_ls_here_when_nothing_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOVCTL_CHECKPOINT_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main.run(["ckpt", "ls"]) == 0
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "no checkpoints" in captured.err


def test_names_from_outside_cannot_move_the_cursor(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    evil = '{"schema": "sovctl.checkpoint/1", "step": 1, "world_size": 1, "files": {"a\\u001b[2Jb[red]": 1}, '
    evil += '"saved_at": 1, "attempt": 0, "run_id": "", "format": "\\u001b[31m"}'
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / MARK).write_text(evil)
    assert main.run(["ckpt", "ls", str(tmp_path)]) == 0
    assert main.run(["ckpt", "verify", str(tmp_path / "step-1")]) == 1
    captured = capfd.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "x1b[31m" in captured.err


def test_verify(shelf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ckpt", "verify", f"{shelf}/step-40/", "--deep"]) == 0
    assert main.run(["ckpt", "verify", f"{shelf}/step-60"]) == 1
    captured = capfd.readouterr()
    assert captured.out == f"{shelf}/step-40: complete, content matches its checksums\n"
    assert "__0_0.distcp has 5 bytes, saved were 100" in captured.err


def test_verify_deep_needs_checksums(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = _checkpoint(tmp_path, 5, checksums=False)
    assert main.run(["ckpt", "verify", str(path)]) == 0
    assert main.run(["ckpt", "verify", "--deep", "--json", str(path)]) == 1
    record = json.loads(capfd.readouterr().out.splitlines()[1])
    assert (record["proven"], record["deep"]) == (False, True)
    assert "lacks checksums" in record["why"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["verify"], "missing argument 'PATH'"),
        (["verify", "nowhere"], "there is no checkpoint"),
        (["verify", "step-99999"], "there is no checkpoint"),
        (["frobnicate"], "no such command 'frobnicate'"),
        (["ls", "--fast"], "no such option: --fast"),
        (["ls", "a", "b"], "unexpected extra argument"),
        ([], "Usage: sovctl ckpt"),
    ],
)
def test_usage_errors(argv: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ckpt", *argv]) == 2
    captured = capfd.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_a_directory_that_is_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ckpt", "ls", str(tmp_path / "none")]) == 1
    assert "cannot list the checkpoint directory" in capfd.readouterr().err


def test_the_checkpoints_of_a_run(
    shelf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    run_dir = tmp_path / ".sovctl/runs/lab-7-100"
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text(json.dumps({"job_id": "7", "submitted": 100, "checkpoint_dir": str(shelf)}))
    assert main.run(["ckpt", "latest", "--run", "7"]) == 0
    assert capfd.readouterr().out == f"{shelf}/step-40\n"
    assert main.run(["ckpt", "latest", "--run", "8"]) == 1
    assert "there is no record of a run 8" in capfd.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["ls", "--help"], ["verify", "--help"], ["latest", "--help"]])
def test_help(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ckpt", *words]) == 0
    assert "Usage: sovctl ckpt" in capfd.readouterr().out
