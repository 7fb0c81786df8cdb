"""Habits of a good command at a terminal: 80 columns, quiet pipes, the right word for a wrong one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sovctl.cli import main
from sovctl.cli.progress import progress
from sovctl.cli.tables import shown_width
from sovctl.cli.tree import command_tree
from sovctl.cli.words import fitted

COMMANDS = list(command_tree().every())
LONG = "a-name-that-somebody-made-up-in-a-hurry-and-never-shortened-afterwards"
NODES = "".join(
    f"NodeName=gpu-rack-{index:04d} Arch=x86_64 NodeAddr=10.0.0.1 State=IDLE+DRAIN Partitions=main BootTime=1795382673 "
    f"Gres=gpu:8 Reason=sovctl:261122-221440-gpu-rack-{index:04d}-ab12 XID79 GPU 5 at 0000:64:00 has fallen off "
    "the bus [root@1795385683]\n"
    for index in (1, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
)


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """Long content in everything that is listed."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (tmp_path / "nodes").write_text(NODES)
    for name, text in (("scontrol", f"cat {tmp_path}/nodes"), ("squeue", "true")):
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    for number in range(1, 4):
        run_dir = tmp_path / f".sovctl/runs/lab-{number}-{1795385600 + number}"
        run_dir.mkdir(parents=True)
        record = {"job_id": str(number), "submitted": 1795385600 + number, "name": LONG, "run_id": run_dir.name}
        (run_dir / "run.json").write_text(json.dumps({"schema": "sovctl.run/1", **record}))
        nodes = [f"gpu-rack-{index:04d}" for index in range(1, 200, 7)]
        event = {"seq": 1, "at": 1795385601, "kind": "attempt_started", "attempt": 0, "nodes": nodes}
        (run_dir / "events.jsonl").write_text(json.dumps(event) + "\n")
    step = tmp_path / "checkpoints/step-20"
    step.mkdir(parents=True)
    (step / f"{LONG}.distcp").write_text("x")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SOVCTL_", "XDG_"))}
    return {**env, "HOME": str(tmp_path), "PATH": f"{commands}:/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}


def _sovctl(site: dict[str, str], *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "sovctl", *words]
    return subprocess.run(argv, capture_output=True, text=True, env={**site, **env}, cwd=site["HOME"], timeout=60)


LISTINGS = [
    ("run", "ls"),
    ("run", "show", "2"),
    ("node", "ls"),
    ("node", "ls", "--all"),
    ("ckpt", "ls", "checkpoints"),
    ("image", "ls"),
    ("image", "env", "ls"),
    ("config", "show"),
    ("health", "probes"),
]


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_a_listing_is_readable_in_80_columns(site: dict[str, str], words: tuple[str, ...]) -> None:
    done = _sovctl(site, *words, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or words[0] == "image"
    wide = [line for line in done.stdout.splitlines() if shown_width(line) > 80 and not line.startswith(HEAD)]
    assert wide == []
    assert "\x1b" not in done.stdout


HEAD = ("run:", "record:", "checkpoints:")
"""`run show` writes a path on one line, for those who copy it."""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.path) or "sovctl")
def test_help_is_readable_in_80_columns(command: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main.run([*command.path, "--help"])  # type: ignore[attr-defined]
    assert said.getvalue().strip()
    assert [line for line in said.getvalue().splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("words", [("run", "ls", "--all"), ("node", "ls"), ("config", "show"), ("health", "probes")])
def test_a_reader_that_leaves_is_no_error(site: dict[str, str], words: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "sovctl", *words]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, env=site, cwd=site["HOME"], timeout=60)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert "Exception ignored" not in done.stderr


WRONG = [
    (("nod",), "did you mean node?"),
    (("run", "shw"), "did you mean show?"),
    (("run", "ls", "--al"), "did you mean --all?"),
    (("node", "ls", "--noheadr"), "did you mean --noheader?"),
    (("ckpt", "verify", "--deap", "x"), "did you mean --deep?"),
    (("image", "env", "lss"), "did you mean ls?"),
    (("health", "chek"), "did you mean check?"),
    (("health", "check", "--jsn"), "did you mean --json?"),
    (("health", "burn-in", "--piece", "matmull"), "did you mean matmul?"),
    (("sweep", "--atc"), "did you mean --act?"),
    (("watch", "--oberve"), "did you mean --observe?"),
    (("exec", "--imgae", "x", "--", "true"), "did you mean --image?"),
    (("submit", "--checkpoint-dri", "x", "y"), "did you mean --checkpoint-dir?"),
    (("config", "shwo"), "did you mean show?"),
    (("completion", "bsah"), "did you mean bash?"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_a_wrong_word_names_the_right_one_and_what_to_type(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "--help" in err.splitlines()[1]


def test_fields_are_chosen_as_in_squeue(site: dict[str, str]) -> None:
    assert _sovctl(site, "run", "ls", "--all", "--noheader", "-o", "%.4i %3j|").stdout.splitlines() == [
        "   3 a-n|",
        "   2 a-n|",
        "   1 a-n|",
    ]
    named = _sovctl(site, "node", "ls", "-n", "-o", "state,code,count").stdout.split()
    assert named[:2] == ["IDLE+DRAIN", "XID79"]
    assert _sovctl(site, "ckpt", "ls", "checkpoints", "-n", "-o", "%s").stdout == "20\n"
    refused = _sovctl(site, "run", "ls", "-o", "stat")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "did you mean state?" in refused.stderr


def test_times_are_local_for_people_and_seconds_since_the_epoch_in_json(site: dict[str, str]) -> None:
    local = _sovctl(site, "run", "ls", "-n", "-o", "%V", TZ="Asia/Seoul").stdout.splitlines()[0]
    assert local == time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(1795385603 + 9 * 3600))
    runs = json.loads(_sovctl(site, "run", "ls", "--json", TZ="Asia/Seoul").stdout)["runs"]
    assert runs[0]["submitted"] == 1795385603


def test_quick_and_full_listings_are_the_same(site: dict[str, str]) -> None:
    """`--all=`-like lines go through typer; a plain one does not."""
    for group in ("run", "node"):
        script = f"import sys; from sovctl.cli import {group}; sys.exit({group}.run(['ls', '--all', '-o', '%T']))"
        argv = [sys.executable, "-c", script]
        full = subprocess.run(argv, capture_output=True, text=True, env=site, cwd=site["HOME"], timeout=60)
        assert full.returncode == 0, full.stderr
        assert full.stdout == _sovctl(site, group, "ls", "--all", "-o", "%T").stdout


def test_a_plain_listing_starts_without_typer(site: dict[str, str]) -> None:
    for group in ("run", "node"):
        script = f"import sys; from sovctl.cli import main; main.run(['{group}', 'ls']); print('typer' in sys.modules)"
        argv = [sys.executable, "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, env=site, cwd=site["HOME"], timeout=60)
        assert done.stdout.splitlines()[-1] == "False"


def test_help_is_wrapped_where_it_is_too_wide() -> None:
    text = (
        "  --option X   words that go on and on\n               and on\n\n  sovctl submit -N 4 train.sbatch --lr 3e-4"
    )
    assert fitted(text, 100) == text
    assert fitted(text, 36).splitlines() == [
        "  --option X   words that go on and",
        "               on and on",
        "",
        "  sovctl submit -N 4 train.sbatch \\",
        "    --lr 3e-4",
    ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_takes_long_says_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("TERM", "xterm")
    with progress("asking 63 nodes", quiet_s=0.01):
        deadline = time.monotonic() + 10
        while "asking 63 nodes, 0s" not in seen.getvalue():
            assert time.monotonic() < deadline
    assert seen.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(("stream", "term"), [(io.StringIO, "xterm"), (_Terminal, "dumb")])
def test_a_log_is_not_filled_with_progress(
    stream: type[io.StringIO], term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stream()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("TERM", term)
    with progress("asking", quiet_s=0.0):
        assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_tell)")]
    assert seen.getvalue() == ""


def test_what_is_fast_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("TERM", "xterm")
    with progress("asking", quiet_s=60.0):
        pass
    assert seen.getvalue() == ""
