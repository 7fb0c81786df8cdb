"""Habits of a good command at a terminal: 80 columns, quiet pipes, the right word for a wrong one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
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
from sovctl.model.alert import Alert, AlertKind

COMMANDS = list(command_tree().every())
LONG = "a-name-that-somebody-made-up-in-a-hurry-and-never-shortened-afterwards"
XID = "NVRM: Xid (PCI:0000:64:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus and is gone for good"
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
    # Without PYTHONUNBUFFERED, as a person has it: a small output is then written at the very end.
    foreign = ("SLURM_", "SOVCTL_", "XDG_", "PYTHONUNBUFFERED")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
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


SCONTROL = """#!/bin/sh
case "$*" in
"show config") cat {root}/config ;;
*partition*) echo "PartitionName=main AllowQos=ALL Default=YES QoS=N/A Nodes=n[001-063] PriorityTier=1 State=UP" ;;
*) cat {root}/nodes ;;
esac
"""
EVIDENCE = "GPU 5 at 0000:64:00 has fallen off the bus, as NVRM said at boot, and so did GPU 6 and GPU 7 beside it"


@pytest.fixture
def told(site: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """And a node with a fault and a history, alerts that wait, spares, and a Slurm whose settings do not fit."""
    (tmp_path / "bin/scontrol").write_text(SCONTROL.format(root=tmp_path))
    for name in ("sacctmgr", "sbatch", "srun", "scancel"):
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    (tmp_path / "config").write_text(
        f"ClusterName = site\nAccountingStorageType = accounting_storage/slurmdbd\nSLURM_CONF = {tmp_path}/slurm.conf\n"
    )
    (tmp_path / "kmsg").write_text(f"3,1,1000000,-;{XID}\n")
    (tmp_path / "boot_id").write_text("0aa8f2d0-31b8-4a2c-8d7e-1a2b3c4d5e6f\n")
    (tmp_path / "sovctl.toml").write_text(
        f'[node]\nname = "gpu-rack-0001"\nkernel_log = "{tmp_path}/kmsg"\nboot_id_file = "{tmp_path}/boot_id"\n'
        f'run_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n[cluster]\njournal_dir = "{tmp_path}/journal"\n'
        "[ssh]\nport = 1\ntimeout_s = 5.0\n"
    )
    alerts, nodes = tmp_path / "journal/alerts", tmp_path / "journal/nodes"
    for made in (alerts, nodes):
        made.mkdir(parents=True)
    (nodes / "gpu-rack-0001.jsonl").write_text(
        json.dumps({"seq": 1, "at": 1795385601, "kind": "verdict", "state": "failed", "code": "XID79",
                    "evidence": EVIDENCE}) + "\n"
    )  # fmt: skip
    alert = Alert(
        "k", AlertKind.TEST, 1795385601.0, f"node gpu-rack-0001: {EVIDENCE}", "here", "site", "sovctl alert ls"
    )
    (alerts / "a-1.json").write_text(json.dumps({"alert": alert.record(), "channels": ["webhook", "mail"]}))
    (alerts / "state.json").write_text(json.dumps({"channels": {"mail": {"problem": f"refused: {EVIDENCE}"}}}))
    return {**site, "SOVCTL_CONFIG": str(tmp_path / "sovctl.toml"), "LANG": "C.UTF-8"}


ADVISE = ("--nodes", "63", "--failures", "17", "--node-hours", "90720", "--repair-hours", "72", "--spares", "3")
WORDS = [
    (("health", "check", "--dry-run", "--observe"), 10),
    (("health", "explain", "kmsg"), 0),
    (("spare", "status"), 0),
    (("spare", "advise", *ADVISE), 0),
    (("sweep", "--node", "gpu-rack-0001"), 0),
    (("run", "why", "2"), 0),
    (("run", "events", "2"), 0),
    (("node", "show", "gpu-rack-0001"), 0),
    (("node", "history", "gpu-rack-0001"), 0),
    (("node", "resume", "gpu-rack-0003", "--dry-run"), 0),
    (("doctor",), 1),
    (("site", "status", "--root", "staging"), 0),
    (("alert", "ls"), 0),
    (("ckpt", "verify", "checkpoints/step-20"), 1),
    (("run", "show", LONG), 1),
    (("submit", "--image", "a b", "--checkpoint-dir=/a/directory/that/is/not/short", "--spare-nodes=many"), 2),
    (("config", "show", "health.actt"), 2),
]


@pytest.mark.parametrize(("words", "status"), WORDS, ids=[" ".join(words[:2]) for words, _ in WORDS])
def test_words_for_people_are_readable_in_80_columns(
    told: dict[str, str], words: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    done = _sovctl(told, *words, COLUMNS="80")
    assert done.returncode == status, done.stderr
    said = (done.stdout + done.stderr).splitlines()
    assert said
    wide = [line for line in said if shown_width(line) > 80 and not line.startswith((*HEAD, "#", "TaskProlog"))]
    # A path is never cut: those of this test are long.
    assert [line for line in wide if not any("/" in word and len(word) > 40 for word in line.split())] == []


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


PIPED = [
    ("run", "ls", "--all"),
    ("node", "ls"),
    ("config", "show"),
    ("health", "probes"),
    ("--help",),
    ("--version",),
    ("run", "--help"),
    ("health", "check", "--help"),
    ("run", "events", "2"),
    ("health", "explain", "dmesg"),
]


@pytest.mark.parametrize("words", PIPED, ids=" ".join)
def test_a_reader_that_leaves_is_no_error(site: dict[str, str], words: tuple[str, ...]) -> None:
    Path(site["HOME"], "dmesg").write_text(f"[1.0] {XID}\n" * 1000)
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "sovctl", *words]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, env=site, cwd=site["HOME"], timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_name_that_the_terminal_has_no_characters_for_is_spelt_out(site: dict[str, str], encoding: str) -> None:
    record = Path(site["HOME"], ".sovctl/runs/lab-2-1795385602/run.json")
    record.write_text(
        json.dumps({"job_id": "2", "submitted": 1795385602, "name": "日本", "run_id": "lab-2-1795385602"})
    )
    for words in (("run", "ls", "--all"), ("run", "show", "2")):
        done = _sovctl(site, *words, PYTHONIOENCODING=encoding)
        assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
        assert "\\u65e5\\u672c" in done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_is_closed_is_no_error(site: dict[str, str], closed: str) -> None:
    Path(site["HOME"], "bin/squeue").write_text("#!/bin/sh\n: >&1 && : >&2 && : <&0\n")
    line = f"exec {sys.executable} -m sovctl run ls --all {closed}"
    done = subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, text=True, env=site, cwd=site["HOME"], timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("lab-2" in done.stdout or LONG in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize("words", PIPED, ids=" ".join)
def test_an_output_that_cannot_be_written_is_said(site: dict[str, str], words: tuple[str, ...]) -> None:
    Path(site["HOME"], "dmesg").write_text(f"[1.0] {XID}\n" * 1000)
    argv = [sys.executable, "-m", "sovctl", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            argv, stdout=full, stderr=subprocess.PIPE, text=True, env=site, cwd=site["HOME"], timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "sovctl: cannot write the output: No space left on device",
        "        Make room where the output goes, or send it elsewhere: df -h .",
    ]


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
    (("health",), "missing verb (there are: check, watch, prolog, epilog, probes, burn-in, explain)"),
    (("completion",), "missing shell (there are: bash, zsh, fish)"),
    (("sweep", "--node"), "--node needs a value"),
    (("health", "probes", "-o"), "--format needs a value"),
    (("run", "ls", "more"), "one word too many: 'more'"),
    (("run", "show", "1", "2", "3"), "one word too many: '2'"),
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


@pytest.mark.parametrize(
    ("words", "said", "typed"),
    [
        (
            ("site", "install", "--role", "nod"),
            "there is no role 'nod'; did you mean node?",
            "--role: node, controller",
        ),
        (("lab", "up", "--nodes", "many"), "--nodes must be a whole number", "sovctl lab up --help"),
        (("spare", "set", "x"), "K must be a whole number", "sovctl spare set --help"),
        (("report", "--since", "foo"), "--since foo: neither a length of time nor a day", "--since 30d"),
    ],
)
def test_a_value_that_is_none_is_told_in_words(
    words: tuple[str, ...], said: str, typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(words) == 2
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first == f"sovctl: {said}" and typed in second


def test_a_summary_that_lists_subcommands_lists_all_of_them() -> None:
    verbs = {command.path[0]: [one.path[-1] for one in command.commands] for command in command_tree().commands}
    listing = {name: group.help for name, group in main.GROUPS.items() if group.listed and verbs.get(name)}
    told = {}
    for name, words in listing.items():
        listed = re.split(r", ", words.partition(": ")[2].rstrip("."))
        if set(listed) & set(verbs[name]):
            told[name] = set(listed) ^ set(verbs[name])
    assert {"run", "ckpt", "image", "node", "health", "spare", "site", "alert", "lab"} <= set(told)
    assert {name: left for name, left in told.items() if left} == {}


def test_fields_are_chosen_as_in_squeue(site: dict[str, str]) -> None:
    assert _sovctl(site, "run", "ls", "--all", "--noheader", "-o", "%.4i %3j|").stdout.splitlines() == [
        "   3 a-n|",
        "   2 a-n|",
        "   1 a-n|",
    ]
    named = _sovctl(site, "node", "ls", "-n", "-o", "state,code,count").stdout.split()
    assert named[:2] == ["IDLE+DRAIN", "XID79"]
    assert _sovctl(site, "ckpt", "ls", "checkpoints", "-n", "-o", "%s").stdout == "20\n"
    probes = _sovctl(site, "health", "probes", "-n", "-o", "probe,state,hits").stdout.splitlines()
    assert ["nvlink", "0"] in [line.split()[::2] for line in probes] and "PROBE" not in probes[0]
    assert _sovctl(site, "health", "probes", "--format", "%.12p|%T").stdout.splitlines()[0] == "       PROBE|STATE"
    layer = Path(site["HOME"], ".local/share/sovctl/env/tools")
    layer.joinpath("upper").mkdir(parents=True)
    layer.joinpath("base").write_text("sha256:0\nreg.example/team/train:1")
    assert _sovctl(site, "image", "env", "ls", "-n", "-o", "image,name").stdout.split() == [
        "reg.example/team/train:1",
        "tools",
    ]
    assert _sovctl(site, "image", "env", "ls").stdout.splitlines()[0].split() == ["NAME", "SIZE", "IN", "USE", "IMAGE"]
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


def test_words_beside_the_line_get_a_line_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("TERM", "xterm")
    with progress("loading", quiet_s=0.01) as waiting:
        deadline = time.monotonic() + 10
        while "loading, 0s" not in seen.getvalue():
            assert time.monotonic() < deadline
        waiting.beside(lambda words: print(words, file=sys.stderr))("half of it")
    before = seen.getvalue().partition("half of it\n")[0]
    assert before.endswith("\r\x1b[K") and before.count("\r\x1b[K") >= 2


def test_what_is_fast_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("TERM", "xterm")
    with progress("asking", quiet_s=60.0):
        pass
    assert seen.getvalue() == ""
