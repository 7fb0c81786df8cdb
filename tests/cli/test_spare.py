"""`sovctl spare` as an administrator meets it, with stand-ins for the commands of Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCONTROL = """#!/bin/sh
case "$*" in
"show config") cat "$STAND_IN/config" ;;
*partition*-a) cat "$STAND_IN/partitions" ;;
update*) echo "scontrol $*" >> "$STAND_IN/acts" ;;
*) for n in 1 2 3 4; do echo "NodeName=n00$n State=IDLE Partitions=main NodeAddr=127.0.0.1"; done ;;
esac
"""
SACCTMGR = """#!/bin/sh
if [ -e "$STAND_IN/database-down" ]; then
    echo "sacctmgr: error: Problem talking to the database: Connection refused" >&2
    exit 1
fi
case "$*" in
*"show qos"*) echo "normal|0|00:00:00||cluster|" ;;
*"show assoc"*) echo "||normal" ;;
*) echo "sacctmgr $*" >> "$STAND_IN/acts" ;;
esac
"""
CONFIG = {
    "ClusterName": "site",
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AccountingStorageEnforce": "associations,limits,qos",
    "PreemptType": "preempt/qos",
    "PreemptMode": "REQUEUE",
    "PriorityType": "priority/multifactor",
    "PriorityWeightQOS": "10000",
}
PARTITIONS = """\
PartitionName=main AllowQos=ALL Default=YES QoS=N/A Nodes=n[001-004] PriorityTier=1 State=UP
PartitionName=preemptible AllowQos=ALL Default=NO QoS=N/A Nodes=n[001-004] PriorityTier=0 State=UP
"""


@dataclass
class Site:
    """Four nodes."""

    root: Path
    env: dict[str, str]

    def spare(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "sovctl", "spare", *argv],
            capture_output=True,
            text=True,
            env={**self.env, **env},
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done

    def config(self, **changes: str) -> None:
        settings = {**CONFIG, "SLURM_CONF": str(self.root / "slurm.conf"), **changes}
        (self.root / "config").write_text("".join(f"{key:<20} = {value}\n" for key, value in settings.items()))

    @property
    def acts(self) -> list[str]:
        path = self.root / "acts"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "bin").mkdir()
    for name, text in (("scontrol", SCONTROL), ("sacctmgr", SACCTMGR), ("squeue", "#!/bin/sh\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "partitions").write_text(PARTITIONS)
    (tmp_path / "slurm.conf").write_text("ClusterName=site\n")
    env = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "STAND_IN": str(tmp_path),
        "SOVCTL_CLUSTER_JOURNAL_DIR": str(tmp_path / "journal"),
    }
    made = Site(tmp_path, env)
    made.config()
    return made


def test_a_dry_run_prints_every_line_on_stdout_and_changes_nothing(site: Site) -> None:
    done = site.spare("set", "1", "--dry-run")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "sacctmgr -i modify qos sovctl-spare-main set GrpTRES=node=3" in lines
    assert all(line.startswith(("sacctmgr -i ", "scontrol update ")) for line in lines)
    assert "PartitionName=main ... QOS=sovctl-spare-main DenyQos=preemptible" in done.stderr
    assert (site.acts, (site.root / "journal" / "spare.jsonl").exists()) == ([], False)
    assert site.spare("set", "1").stdout == done.stdout
    assert site.acts == lines


def test_what_slurm_conf_lacks_is_told_with_the_reason_and_nothing_is_done(site: Site) -> None:
    site.config(PreemptType="preempt/none")
    done = site.spare("set", "1")
    assert (done.returncode, done.stdout, site.acts) == (3, "", [])
    assert "slurm.conf has to have: PreemptType=preempt/qos\nsovctl:   because a QOS says" in done.stderr
    record = json.loads(site.spare("set", "1", "--json").stdout)
    assert (record["schema"], record["done"]) == ("sovctl.spare.set/1", False)
    assert [need["line"] for need in record["needs"]] == ["PreemptType=preempt/qos"]


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (("set", "4"), 2, "main has 4 nodes; 4 of them cannot be spares"),
        (("set", "-1"), 2, "-1"),
        (("set", "1", "--partition", "\x1b[31m"), 2, "Slurm knows no partition"),
        (("set", "1", "-p", "preemptible"), 2, "partition of the preemptible jobs themselves"),
        (("status", "-p", "nowhere"), 2, "Slurm knows no partition nowhere"),
        (("advise",), 75, "the cluster journal is empty"),
        (("advise", "--short", "2"), 2, "a probability lies between 0 and 1"),
    ],
)
def test_a_mistake_is_one_sentence(site: Site, argv: tuple[str, ...], status: int, words: str) -> None:
    done = site.spare(*argv)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert words in done.stderr
    assert "\x1b" not in done.stderr


def test_a_database_that_is_away_is_a_reason_to_try_later(site: Site) -> None:
    (site.root / "database-down").touch()
    done = site.spare("set", "1")
    assert (done.returncode, done.stdout) == (75, "")
    assert "slurmdbd does not answer" in done.stderr


def test_classes_that_cannot_be_are_refused(site: Site) -> None:
    done = site.spare("set", "1", SOVCTL_SPARE_CLASSES="high preemptible")
    assert done.returncode == 2
    assert "spare.classes" in done.stderr


def test_status_without_spares_says_what_to_type(site: Site) -> None:
    done = site.spare("status")
    assert (done.returncode, done.stdout) == (0, "")
    assert "sovctl spare set K" in done.stderr
    assert json.loads(site.spare("status", "--json").stdout) == {"schema": "sovctl.spares/1", "partitions": []}


def test_fields_of_the_status_are_chosen_as_in_sinfo(site: Site) -> None:
    chosen = site.spare("status", "-p", "main", "-n", "-o", "partition,node,state,verdict").stdout.splitlines()
    assert [line.split() for line in chosen] == [["main", f"n00{n}", "IDLE", "unknown"] for n in range(1, 5)]
    assert site.spare("status", "-p", "main", "-o", "%.5N|%F").stdout.splitlines()[:2] == [" NODE|FREE IN", " n001|now"]
    plain, bare = (site.spare("status", "-p", "main", *more).stdout.splitlines() for more in ((), ("--noheader",)))
    assert plain[1].split()[:2] == ["NODE", "STATE"]
    assert [line.split() for line in (plain[0], *plain[2:])] == [line.split() for line in bare]


def test_advice_from_figures_that_were_typed(site: Site) -> None:
    words = ("--nodes=63", "--failures=17", "--node-hours=90720", "--repair-hours=72", "--spares=3")
    done = site.spare("advise", *words)
    assert done.stdout.startswith("4 spares are enough for 63 nodes, short at most 1.00% of the time\n")
    assert "the present 3 are not enough: short 1.11% of the time" in done.stdout
    record = json.loads(site.spare("advise", *words, "--json").stdout)
    assert (record["schema"], record["spares"], record["present"]["spares"]) == ("sovctl.spare.advice/1", 4, 3)
