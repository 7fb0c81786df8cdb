"""`sovctl node` as an administrator meets it, with a stand-in for scontrol and squeue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCONTROL = """#!/bin/sh
if [ -e "$STAND_IN/down" ]; then
    echo "slurm_load_node error: Unable to contact slurm controller (connect failure)" >&2
    exit 1
fi
case "$*" in
update*) echo "$*" >> "$STAND_IN/acts" ;;
*" node") cat "$STAND_IN/nodes" ;;
*) grep "^NodeName=${4} " "$STAND_IN/nodes" || { echo "Node ${4} not found"; exit 1; } ;;
esac
"""
SQUEUE = """#!/bin/sh
echo "34|34|N/A|RUNNING|1000|n002|n002||None"
"""
NODES = """\
NodeName=n001 Gres=gpu:8 Port=6818 State=IDLE Partitions=main BootTime=1795382673
NodeName=n002 Gres=gpu:8 State=MIXED+DRAIN Partitions=main Reason=sovctl:261122-221440-n002-ab12 XID79 GPU 5 \
fell off [root@1795385683]
NodeName=n003 Gres=gpu:8 State=IDLE Partitions=main BootTime=1795382673
NodeName=n004 Gres=gpu:8 State=DOWN+NOT_RESPONDING Partitions=main Reason=Not \x1b[31mresponding [slurm@1795385600]
"""


@dataclass
class Site:
    """Four nodes: two fine, one drained by sovctl, one that Slurm set down."""

    root: Path
    env: dict[str, str]

    def node(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "sovctl", "node", *argv],
            capture_output=True,
            text=True,
            env={**self.env, **env},
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "bin").mkdir()
    for name, text in (("scontrol", SCONTROL), ("squeue", SQUEUE)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "nodes").write_text(NODES)
    (tmp_path / "journal/nodes").mkdir(parents=True)
    entries = [
        {
            "seq": 1,
            "at": 1795385680.5,
            "kind": "verdict",
            "state": "failed",
            "code": "XID79",
            "evidence": "GPU 5 is off",
        },
        {"seq": 2, "at": 1795385680.6, "kind": "drain-done", "node": "n002", "incident": "i"},
    ]
    (tmp_path / "journal/nodes/n002.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SOVCTL_", "XDG_"))}
    own = {
        "HOME": str(tmp_path),
        "STAND_IN": str(tmp_path),
        "TZ": "UTC",
        "SOVCTL_CLUSTER_JOURNAL_DIR": str(tmp_path / "journal"),
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
    }
    return Site(tmp_path, {**clean, **own})


def test_ls_has_the_troubled_first_and_marks_ours(site: Site) -> None:
    done = site.node("ls")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["STATE", "COUNT", "NODES", "SINCE", "BY", "REASON"]
    assert rows[1][:3] == ["DOWN+NOT_RESPONDING", "1", "n004"]
    assert rows[2][:6] == ["MIXED+DRAIN", "1", "n002", "2026-11-22", "22:14:43", "root*"]
    assert rows[3] == ["IDLE", "2", "n[001,003]", "-", "-", "-"]
    assert [line.split()[2] for line in site.node("ls", "--all").stdout.splitlines()[1:]] == [
        "n002",
        "n004",
        "n001",
        "n003",
    ]


def test_ls_as_json(site: Site) -> None:
    record = json.loads(site.node("ls", "--json").stdout)
    assert record["schema"] == "sovctl.nodes/1"
    drained = record["groups"][1]
    assert (drained["hostlist"], drained["fine"], drained["since"]) == ("n002", False, 1795385683)
    assert drained["incident"] == {"incident": "261122-221440-n002-ab12", "code": "XID79", "text": "GPU 5 fell off"}
    assert record["groups"][0]["incident"] is None


def test_show(site: Site) -> None:
    out = site.node("show", "n002").stdout
    assert "n002: MIXED+DRAIN\n" in out
    assert "  jobs:       34\n" in out
    assert "  incident:   261122-221440-n002-ab12 by sovctl, 2026-11-22 22:14:40\n" in out
    assert "  finding:    XID79 GPU 5 fell off\n" in out
    assert "    2026-11-22 22:14:40  verdict         failed XID79 GPU 5 is off\n" in out
    record = json.loads(site.node("show", "n002", "--json").stdout)
    assert record["schema"] == "sovctl.node.show/1"
    assert [entry["kind"] for entry in record["nodes"][0]["journal"]] == ["verdict", "drain-done"]


def test_show_takes_a_hostlist(site: Site) -> None:
    done = site.node("show", "n[001,004]", "--json")
    assert [node["name"] for node in json.loads(done.stdout)["nodes"]] == ["n001", "n004"]
    out = site.node("show", "n[001,004]").stdout
    assert "Not \\x1b[31mresponding (slurm, 2026-11-22 22:13:20)" in out
    assert out.count("nothing is recorded here about this node") == 2


@pytest.mark.parametrize(("name", "status"), [("nope", 1), ("../journal", 2), ("", 2), ("n001,$(x)", 2), ("n[", 2)])
def test_bad_names(site: Site, name: str, status: int) -> None:
    done = site.node("show", name)
    assert (done.returncode, done.stdout) == (status, "")
    assert "sovctl node ls" in done.stderr


@pytest.mark.parametrize("argv", [["ls"], ["show", "n001"]])
def test_slurmctld_down(site: Site, argv: list[str]) -> None:
    (site.root / "down").touch()
    done = site.node(*argv)
    assert (done.returncode, done.stdout) == (75, "")
    assert "slurmctld does not answer" in done.stderr


def test_no_slurm(site: Site) -> None:
    done = site.node("ls", PATH="/nonexistent")
    assert done.returncode == 1
    assert "scontrol is not on PATH" in done.stderr


@pytest.mark.parametrize("command", ["ls", "show", "check", "drain", "resume", "history"])
def test_help_ends_with_an_example(site: Site, command: str) -> None:
    assert f"Example: sovctl node {command}" in site.node(command, "--help").stdout


def _hand(site: Site) -> list[dict[str, object]]:
    path = site.root / "journal" / "hand.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_drain_by_hand(site: Site) -> None:
    dry = site.node("drain", "n[001,003]", "--reason", "new cable", "--dry-run")
    lines = dry.stdout.splitlines()
    assert [line.split(" 'Reason=")[0] for line in lines] == [
        f"scontrol update NodeName={name} State=DRAIN" for name in ("n001", "n003")
    ]
    assert lines[0].endswith(" BY_HAND new cable'")
    assert not (site.root / "acts").exists() and not _hand(site)
    done = site.node("drain", "n001", "--reason", "new cable", SUDO_USER="alice")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (act,) = (site.root / "acts").read_text("utf-8").splitlines()
    assert act.startswith("update NodeName=n001 State=DRAIN Reason=sovctl:")
    assert [entry["kind"] for entry in _hand(site)] == ["drain-intended", "drain-done"]
    assert _hand(site)[0]["by"] == "alice"


@pytest.mark.parametrize("argv", [("drain", "--reason", "new cable"), ("resume",)])
def test_a_slip_in_one_name_leaves_every_node_as_it_is(site: Site, argv: tuple[str, ...]) -> None:
    done = site.node(*argv, "n00[1-2],n009")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Slurm knows no node n009" in done.stderr
    assert not (site.root / "acts").exists() and not _hand(site)


def test_who_has_no_name_is_known_by_a_number(site: Site) -> None:
    """As when LDAP does not answer, and somebody drains nodes because of it."""
    no_name = "import pwd, sys; pwd.getpwuid = {}.__getitem__; from sovctl.__main__ import main; sys.exit(main())"
    words = [sys.executable, "-c", no_name, "node", "drain", "n001", "--reason", "x"]
    env = {key: value for key, value in site.env.items() if key not in ("USER", "LOGNAME", "LNAME", "USERNAME")}
    done = subprocess.run(words, capture_output=True, text=True, env={**env, "SUDO_USER": ""}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert _hand(site)[0]["by"] == str(os.geteuid())


def test_a_drain_of_ours_is_done_already(site: Site) -> None:
    done = site.node("drain", "n002", "--reason", "x")
    assert (done.returncode, done.stdout) == (0, "")
    assert "n002 is drained by sovctl already" in done.stderr
    assert not (site.root / "acts").exists()


@pytest.mark.parametrize(
    "argv", [["drain", "n004", "--reason", "x"], ["resume", "n004"], ["resume", "--force", "n004"]]
)
def test_a_foreign_drain_is_nobodys_to_touch(site: Site, argv: list[str]) -> None:
    done = site.node(*argv)
    assert (done.returncode, done.stdout) == (3, "")
    assert "by slurm" in done.stderr and "Not \\x1b[31mresponding" in done.stderr
    assert not (site.root / "acts").exists()


def test_resume_by_hand(site: Site) -> None:
    assert site.node("resume", "n002", "--dry-run").stdout == "scontrol update NodeName=n002 State=RESUME\n"
    done = site.node("resume", "n002", "--json")
    assert (done.returncode, json.loads(done.stdout)["nodes"][0]["done"]) == (0, True)
    assert (site.root / "acts").read_text("utf-8") == "update NodeName=n002 State=RESUME\n"
    assert [entry["kind"] for entry in _hand(site)] == ["resume-intended", "resume-done"]
    assert "n001 is in service: IDLE" in site.node("resume", "n001").stderr


def test_history_is_one_record_of_all_writers(site: Site) -> None:
    site.node("resume", "n002", SUDO_USER="alice")
    out = site.node("history", "n002").stdout.splitlines()
    assert [line.split()[2] for line in out] == ["verdict", "drain-done", "resume-intended", "resume-done"]
    record = json.loads(site.node("history", "n002", "--json").stdout)
    assert record["entries"][-1]["by"] == "alice"
    assert site.node("history", "n003").stdout == "nothing is recorded about n003\n"
    several = site.node("history", "n00[1-2]")
    assert (several.returncode, several.stdout) == (2, "")
    assert several.stderr == "sovctl: history takes one node, not 2\n        Type: sovctl node history n001\n"


def test_check_of_this_machine_needs_no_ssh(site: Site) -> None:
    verdict = {
        "schema": "sovctl.verdict/1",
        "node": "n003",
        "boot_id": "b",
        "observed_at": 1.0,
        "state": "failed",
        "repair": "reboot",
        "findings": [
            {
                "code": "XID79",
                "severity": "fail",
                "evidence": "GPU 5 is off",
                "gpu_uuid": "",
                "gpu_index": 5,
                "repair": "reboot",
            }
        ],
        "blind": [],
    }
    (site.root / "says").write_text(json.dumps(verdict) + "\n", "utf-8")
    env = {"SOVCTL_NODE_NAME": "n003", "SOVCTL_SWEEP_CHECK_COMMAND": f"cat {site.root}/says"}
    done = site.node("check", "n003", **env)
    assert (done.returncode, done.stderr) == (10, "")
    assert done.stdout == "n003: failed, repair: reboot\n  fail XID79: GPU 5 is off\n"
    assert json.loads(site.node("check", "n003", "--json", **env).stdout)["nodes"][0]["verdict"] == "failed"


def test_check_of_a_node_that_cannot_be_reached(site: Site) -> None:
    done = site.node("check", "n001", SOVCTL_SSH_TIMEOUT_S="2", HOME=str(site.root))
    assert done.returncode == 75
    assert "n001: unknown" in done.stdout and "SSH_HOST_KEY" in done.stdout
