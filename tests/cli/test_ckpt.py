"""`sovctl ckpt` as a person and as a script meets it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from format_builders import age, hf_trainer, megatron, torch_file

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
        (["frobnicate"], "there is no command 'frobnicate'"),
        (["ls", "--fast"], "there is no option --fast"),
        (["ls", "a", "b"], "one word too many"),
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


# Other formats


@pytest.fixture
def megatron_shelf(tmp_path: Path) -> Path:
    root = tmp_path / "megatron"
    for step in (10, 20, 30, 40):
        megatron(root, step)
    (root / "latest_checkpointed_iteration.txt").write_text("40")
    os.truncate(root / "iter_0000040" / "__0_0.distcp", 5)
    age(root)
    return root


def test_a_tracker_that_names_nothing_is_said(megatron_shelf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (megatron_shelf / "latest_checkpointed_iteration.txt").write_text("50")
    assert main.run(["ckpt", "ls", str(megatron_shelf)]) == 0
    captured = capfd.readouterr()
    assert "__0_0.distcp has 5 of 300 bytes" in captured.out
    assert "latest_checkpointed_iteration.txt names no checkpoint: it names step 50" in captured.err
    assert main.run(["ckpt", "ls", "--json", str(megatron_shelf)]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["trackers"][0]["problem"] == "it names step 50, which is not there"
    assert {one["format"] for one in record["checkpoints"]} == {"megatron"}


def test_a_format_can_be_forced(shelf: Path, megatron_shelf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ckpt", "latest", "--checkpoint-format", "megatron", str(megatron_shelf)]) == 0
    assert capfd.readouterr().out == f"{megatron_shelf}/iter_0000030\n"
    assert main.run(["ckpt", "latest", "--checkpoint-format=nemo", str(megatron_shelf)]) == 1
    assert main.run(["ckpt", "latest", "--checkpoint-format=nema", str(megatron_shelf)]) == 2
    assert "there is no checkpoint format 'nema'" in capfd.readouterr().err


def test_quarantine_renames_and_repairs_the_tracker(megatron_shelf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken, tracker = megatron_shelf / "iter_0000040", megatron_shelf / "latest_checkpointed_iteration.txt"
    moved = megatron_shelf / ".quarantine" / "40-0-0-distcp-has-5-of-300-bytes"
    assert main.run(["ckpt", "quarantine", "--dry-run", str(broken)]) == 0
    assert capfd.readouterr().out.splitlines() == [
        f"mkdir -p {megatron_shelf}/.quarantine",
        f"mv -nT {broken} {moved}",
        f"printf %s 30 > {tracker}",
    ]
    assert broken.exists()
    assert main.run(["ckpt", "quarantine", "--json", str(broken)]) == 0
    assert json.loads(capfd.readouterr().out)["moves"] == [{"from": str(broken), "to": str(moved)}]
    assert not broken.exists()
    assert (moved / "__0_0.distcp").stat().st_size == 5
    assert tracker.read_text() == "30"
    assert sorted(os.listdir(megatron_shelf)) == [
        ".quarantine",
        "iter_0000010",
        "iter_0000020",
        "iter_0000030",
        tracker.name,
    ]
    assert main.run(["ckpt", "quarantine", str(megatron_shelf / "iter_0000030")]) == 3
    assert "is proven complete" in capfd.readouterr().err
    assert (
        main.run(
            ["ckpt", "quarantine", "--even-complete", "--reason", "NaN loss", str(megatron_shelf / "iter_0000030")]
        )
        == 0
    )
    assert (megatron_shelf / ".quarantine" / "30-nan-loss").is_dir()
    assert tracker.read_text() == "20"


def test_quarantine_waits_for_a_writer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hf_trainer(tmp_path, 10)
    assert main.run(["ckpt", "quarantine", str(tmp_path / "checkpoint-10")]) == 3
    assert "may still be written" in capfd.readouterr().err


def test_quarantine_does_not_leave_through_a_link(megatron_shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (megatron_shelf / ".quarantine").symlink_to(tmp_path / "elsewhere")
    assert main.run(["ckpt", "quarantine", str(megatron_shelf / "iter_0000040")]) == 1
    assert os.listdir(tmp_path / "elsewhere") == []


def test_files_of_ranks_are_named_by_their_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        for step in (10, 20):
            (tmp_path / str(rank) / f"iter_{step:07d}_{rank}_local.pt").write_bytes(torch_file())
    (tmp_path / "1" / "iter_0000020_1_local.pt").unlink()
    age(tmp_path)
    assert main.run(["ckpt", "verify", str(tmp_path), "--step", "10"]) == 0
    assert main.run(["ckpt", "verify", str(tmp_path), "--step", "20"]) == 1
    assert "1/iter_0000020_1_local.pt is missing" in capfd.readouterr().err
    assert main.run(["ckpt", "quarantine", str(tmp_path), "--step", "20"]) == 0
    assert [path.name for path in (tmp_path / ".quarantine").rglob("*.pt")] == ["iter_0000020_0_local.pt"]


def test_retention_keeps_the_newest_proven_ones(megatron_shelf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ckpt", "prune", "--keep", "0", str(megatron_shelf)]) == 2
    assert main.run(["ckpt", "prune", "--keep", "2", str(megatron_shelf)]) == 0
    assert (megatron_shelf / ".quarantine" / "10-pruned").is_dir()
    assert main.run(["ckpt", "prune", "--keep", "1", "--delete", "--dry-run", str(megatron_shelf)]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"rm -r {megatron_shelf}/iter_0000020"
    assert main.run(["ckpt", "prune", "--keep", "1", "--delete", str(megatron_shelf)]) == 0
    assert main.run(["ckpt", "prune", "--keep", "1", str(megatron_shelf)]) == 0
    left = [name for name in sorted(os.listdir(megatron_shelf)) if name.startswith("iter")]
    assert left == ["iter_0000030", "iter_0000040"]  # the newest proven one, and the broken one that is newer


def test_deep_records_checksums_and_finds_a_changed_byte(
    megatron_shelf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = megatron_shelf / "iter_0000030"
    assert main.run(["ckpt", "verify", "--deep", str(path)]) == 0
    assert "its checksums are recorded now" in capfd.readouterr().err
    shard = path / "__0_0.distcp"
    before = shard.stat()
    shard.write_bytes(b"t" + shard.read_bytes()[1:])
    os.utime(shard, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert main.run(["ckpt", "verify", str(path)]) == 0
    assert main.run(["ckpt", "verify", "--deep", str(path)]) == 1
    assert "__0_0.distcp does not match its checksum" in capfd.readouterr().err


def test_a_copy_is_proven_by_its_checksums(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = _checkpoint(tmp_path, 10)
    late = (path / MARK).stat().st_mtime + 7200
    os.utime(path / "__0_0.distcp", (late, late))
    assert main.run(["ckpt", "latest", str(tmp_path)]) == 1
    assert main.run(["ckpt", "verify", str(path)]) == 1
    assert "written to again, or copied" in capfd.readouterr().err
    assert main.run(["ckpt", "verify", "--deep", str(path)]) == 0
    assert main.run(["ckpt", "latest", str(tmp_path)]) == 0


def test_advice(capfd: pytest.CaptureFixture[str]) -> None:
    words = [
        "--save-time",
        "3m",
        "--stall",
        "6s",
        "--mttf",
        "61h",
        "--interval",
        "1h",
        "--gpus",
        "480",
        "--grace",
        "60",
    ]
    assert main.run(["ckpt", "advise", *words]) == 0
    captured = capfd.readouterr()
    assert captured.out.splitlines()[0] == "save every      26m59s (Daly 26m59s, Young 27m03s)"
    assert captured.out.splitlines()[-1] == "signal lead     --signal=B:USR1@330"
    assert "a last save of 180 s needs 330 s" in captured.err
    assert main.run(["ckpt", "advise", "--json", *words]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["best_gpu_hours_a_day"] < record["present_gpu_hours_a_day"]
    assert main.run(["ckpt", "advise"]) == 2
    assert main.run(["ckpt", "advise", "--save-time", "soon"]) == 2


def test_latest_starts_without_what_is_slow() -> None:
    words = "import sys; from sovctl.cli import main; main.run(['ckpt', 'latest', '/nonexistent']); "
    words += "print([name for name in ('typer', 'rich', 'torch', 'asyncio') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "words", [["--help"], ["ls", "--help"], ["verify", "--help"], ["latest", "--help"], ["prune", "-h"]]
)
def test_help(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ckpt", *words]) == 0
    assert "Usage: sovctl ckpt" in capfd.readouterr().out
