"""`sovctl sweep` over a real sshd that stands for the nodes, with a stand-in for scontrol and squeue."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from loopback_sshd import SSHD, LoopbackSshd

from sovctl.adapters.node.node_records import NodeRecordFiles
from sovctl.config import SweepConfig
from sovctl.health.ledger import Ledger, LedgerEntry, ledger_record
from sovctl.model.facts import GpuFacts, NodeFacts, facts_record
from sovctl.model.verdict import Finding, Repair, Severity, Verdict, VerdictState
from sovctl.model.verdict_json import verdict_record

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed (Debian: openssh-server)")
NAMES = tuple(f"n{number:03d}" for number in range(1, 11))
# A scontrol that keeps its nodes in a file, a line a node, and every change in another.
SCONTROL = """#!/bin/sh
if [ -e "$STAND_IN/down" ]; then
    echo "slurm_load_node error: Unable to contact slurm controller (connect failure)" >&2
    exit 1
fi
case "$*" in
"-o show node") cat "$STAND_IN/nodes" ;;
"-o show node "*) grep "^NodeName=${4} " "$STAND_IN/nodes" ;;
"-o show job "*) echo "JobId=${4} JobName=x UserId=u(1000) GroupId=u(1000) JobState=COMPLETING EndTime=1700000000" ;;
update*)
    echo "$2|$3|$4" >> "$STAND_IN/acts"
    case "$3" in
    State=DRAIN)
        reason="${4#Reason=} [root@1795385683]"
        sed -i "s#^\\($2 State=[A-Z]*\\).*#\\1+DRAIN Reason=$reason#" "$STAND_IN/nodes" ;;
    State=RESUME) sed -i "s#^\\($2 State=\\).*#\\1IDLE#" "$STAND_IN/nodes" ;;
    esac ;;
esac
"""
SQUEUE = '#!/bin/sh\ncat "$STAND_IN/queue"\n'


@dataclass
class Cluster:
    """Ten nodes, all idle and healthy until a test says otherwise."""

    root: Path
    sshd: LoopbackSshd
    env: dict[str, str]

    def sweep(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "sovctl", "sweep", *argv],
            capture_output=True,
            text=True,
            env={**self.env, **env},
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def swept(self, *argv: str, **env: str) -> dict[str, dict[str, Any]]:
        done = self.sweep("--json", *argv, **env)
        assert done.stdout, done.stderr
        return {node["node"]: node for node in json.loads(done.stdout)["nodes"]}

    def slurm(self, name: str, state: str, reason: str = "") -> None:
        lines = (self.root / "nodes").read_text("utf-8").splitlines()
        mine = f"NodeName={name} State={state}" + (f" Reason={reason} [root@1795385683]" if reason else "")
        kept = [mine if line.startswith(f"NodeName={name} ") else line for line in lines]
        (self.root / "nodes").write_text("\n".join(kept) + "\n", "utf-8")

    def verdict(
        self, name: str, *findings: Finding, state: VerdictState = VerdictState.HEALTHY, age_s: float = 0
    ) -> None:
        """The stored verdict, and what a check would say now."""
        at = time.time() - age_s
        verdict = Verdict(name, _boot_id(), at, state, Repair.NONE, findings)
        text = json.dumps(verdict_record(verdict, 300.0))
        node = self.sshd.node(name)
        (node / "run").mkdir(exist_ok=True)
        (node / "run" / "verdict.json").write_text(text + "\n", "utf-8")
        (node / "checked").write_text(text + "\n", "utf-8")

    def facts(self, name: str, **changes: Any) -> None:
        own = {"driver": "580.95.05", "pcie_width": 16, "utilization_percent": 100, "sm_clock_mhz": 1965, **changes}
        gpus = tuple(GpuFacts(index=index, name="NVIDIA B200", **own) for index in range(8))
        path = self.sshd.node(name) / "run" / "facts.json"
        path.write_text(json.dumps(facts_record(NodeFacts(name, time.time(), gpus))) + "\n", "utf-8")

    @property
    def acts(self) -> list[list[str]]:
        path = self.root / "acts"
        return [line.split("|") for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    @property
    def journal(self) -> list[dict[str, Any]]:
        path = self.root / "journal" / "sweep.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def failing(name: str = "XID79") -> Finding:
    return Finding(name, Severity.FAIL, "GPU 5: fallen off the bus", repair=Repair.REBOOT)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    with LoopbackSshd(tmp_path_factory.mktemp("sshd"), NAMES) as running:
        yield running


@pytest.fixture
def cluster(sshd: LoopbackSshd, tmp_path: Path) -> Cluster:
    (tmp_path / "bin").mkdir()
    for name, text in (("scontrol", SCONTROL), ("squeue", SQUEUE)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "nodes").write_text("".join(f"NodeName={name} State=IDLE\n" for name in NAMES), "utf-8")
    (tmp_path / "queue").touch()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SOVCTL_", "SLURM"))}
    env = {
        **clean,
        **sshd.environment,
        "STAND_IN": str(tmp_path),
        "SOVCTL_CLUSTER_JOURNAL_DIR": str(tmp_path / "journal"),
        "SOVCTL_NODE_RUN_DIR": "run",
        "SOVCTL_SWEEP_CHECK_COMMAND": "cat checked",
        "SOVCTL_SSH_TIMEOUT_S": "10",
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
    }
    made = Cluster(tmp_path, sshd, env)
    for name in NAMES:
        (sshd.node(name) / "answer").unlink(missing_ok=True)
        made.verdict(name)
        made.facts(name)
    return made


def test_a_healthy_cluster_is_one_line(cluster: Cluster) -> None:
    done = cluster.sweep("--act")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("10 nodes in ")
    assert done.stdout.endswith(": 10 healthy; 0 changed\n")
    assert (cluster.acts, cluster.journal) == ([], [])


def test_a_failed_node_is_drained_once(cluster: Cluster) -> None:
    cluster.verdict("n003", failing(), state=VerdictState.FAILED)
    looked = cluster.sweep()
    assert looked.returncode == 10
    assert "would drain" in looked.stdout
    assert (cluster.acts, cluster.journal) == ([], [])
    dry = cluster.sweep("--act", "--dry-run").stdout
    assert dry.startswith("scontrol update NodeName=n003 State=DRAIN 'Reason=sovctl:")
    assert cluster.sweep("--act").returncode == 10
    assert cluster.sweep("--act").returncode == 10
    ((node, state, reason),) = cluster.acts
    assert (node, state) == ("NodeName=n003", "State=DRAIN")
    assert reason.endswith(" XID79 GPU 5: fallen off the bus")
    assert [entry["kind"] for entry in cluster.journal] == ["drain-intended", "drain-done"]


def test_a_resume_by_hand_is_not_undone_by_an_old_verdict(cluster: Cluster) -> None:
    cluster.verdict("n003", failing(), state=VerdictState.FAILED)
    stored = (cluster.sshd.node("n003") / "run" / "verdict.json").read_bytes()
    cluster.verdict("n003")
    (cluster.sshd.node("n003") / "run" / "verdict.json").write_bytes(stored)
    assert cluster.sweep("--act").returncode == 0
    assert cluster.acts == []


def test_bad_nodes_are_clear_and_left_alone(cluster: Cluster) -> None:
    cluster.sshd.answer("n001", "echo 'welcome to n001!'")
    cluster.sshd.answer("n002", "cat /dev/zero")
    cluster.sshd.answer("n003", "sleep 600")
    cluster.sshd.answer("n004", "exit 1")
    cluster.verdict("n005", state=VerdictState.FAILED, age_s=4000)
    (cluster.sshd.node("n005") / "checked").write_text("sovctl: command not found\n", "utf-8")
    other = (cluster.sshd.node("n007") / "run" / "verdict.json").read_bytes()
    (cluster.sshd.node("n006") / "run" / "verdict.json").write_bytes(other)
    nodes = cluster.swept("--act", SOVCTL_SSH_TIMEOUT_S="4")
    said = {name: (node["verdict"], node["findings"][0]["code"]) for name, node in nodes.items() if node["findings"]}
    assert said == {
        "n001": ("unknown", "SSH_GARBAGE"),
        "n002": ("unknown", "SSH_FLOOD"),
        "n003": ("unknown", "SSH_TIMEOUT"),
        "n004": ("unknown", "SSH_GARBAGE"),
        "n005": ("unknown", "SSH_GARBAGE"),
        "n006": ("unknown", "SSH_GARBAGE"),
    }
    assert nodes["n001"]["findings"][0]["evidence"] == 'its answer is no answer: "welcome to n001!"'
    assert nodes["n006"]["findings"][0]["evidence"] == "it calls itself n007"
    assert nodes["n007"]["verdict"] == "healthy"
    assert cluster.acts == []


def test_the_budget_stops_a_bad_check(cluster: Cluster) -> None:
    for name in NAMES[:6]:
        cluster.verdict(name, failing("MOUNT_GONE"), state=VerdictState.FAILED)
    done = cluster.sweep("--act", SOVCTL_SWEEP_DRAIN_SHARE_PER_HOUR="0.2")
    assert done.returncode == 10
    assert len(cluster.acts) == 2
    assert "STOPPED draining for MOUNT_GONE: 2 nodes within an hour is the budget, and 4 more show it" in done.stderr
    assert cluster.journal[-1]["kind"] == "alarm"
    assert "STOPPED draining" in cluster.sweep("--act").stderr, "said with each pass"
    assert [entry["kind"] for entry in cluster.journal].count("alarm") == 1, "written once an hour"
    cluster.sweep("--act", SOVCTL_SWEEP_DRAIN_SHARE_PER_HOUR="0.2")
    assert len(cluster.acts) == 2


def test_odd_peers_are_shown(cluster: Cluster) -> None:
    cluster.facts("n002", driver="570.86.15")
    cluster.facts("n003", pcie_width=8)
    cluster.facts("n004", sm_clock_mhz=1200)
    nodes = cluster.swept()
    codes = {
        name: [finding["code"] for finding in node["findings"]] for name, node in nodes.items() if node["findings"]
    }
    assert codes == {"n002": ["DRIVER_SKEW"], "n003": ["PCIE_WIDTH"], "n004": ["GPU_CLOCK"]}
    assert nodes["n002"]["verdict"] == "degraded"
    assert cluster.sweep("--act").returncode == 0
    assert cluster.acts == []
    assert cluster.sweep("--act", SOVCTL_SWEEP_DRAIN_CODES="PCIE_WIDTH").returncode == 10
    assert [act[0] for act in cluster.acts] == ["NodeName=n003"]


def test_ours_come_back_only_after_a_loaded_test(cluster: Cluster) -> None:
    cluster.slurm("n004", "IDLE+DRAIN", "sovctl:261122-221440-n004-ab12 XID79 GPU 5 fell off")
    nodes = cluster.swept("--act", SOVCTL_SWEEP_RETEST_COMMAND="")
    assert nodes["n004"]["why"].endswith("without sweep.retest_command it stays")
    retest = {"SOVCTL_SWEEP_RETEST_COMMAND": "test -e passed"}
    assert "re-test did not pass: exit status 1" in cluster.swept("--act", **retest)["n004"]["why"]
    (cluster.sshd.node("n004") / "passed").touch()
    assert cluster.swept("--act", **retest)["n004"]["why"] == "did not pass its re-test, is tried again in 60 min"
    retest["SOVCTL_SWEEP_RETEST_PAUSE_S"] = "0"
    assert cluster.swept(**retest)["n004"]["action"] == "would re-test and resume"
    assert cluster.acts == []
    assert cluster.swept("--act", **retest)["n004"]["done"] is True
    assert cluster.acts == [["NodeName=n004", "State=RESUME", ""]]
    assert [entry["kind"] for entry in cluster.journal][-2:] == ["resume-intended", "resume-done"]


def test_the_loaded_test_is_there_without_a_script_of_the_site(cluster: Cluster) -> None:
    cluster.slurm("n004", "IDLE+DRAIN", "sovctl:261122-221440-n004-ab12 XID79 GPU 5 fell off")
    command = cluster.sshd.node("n004") / "sovctl"
    command.write_text('#!/bin/sh\necho "$*" >> burn-ins\nexit 0\n', "utf-8")
    command.chmod(0o755)
    # What a login on the node finds in its PATH.
    retest = {"SOVCTL_SWEEP_RETEST_COMMAND": "PATH=.:$PATH; sovctl health burn-in --all"}
    assert cluster.swept("--act", **retest)["n004"]["done"] is True
    assert (cluster.sshd.node("n004") / "burn-ins").read_text("utf-8") == "health burn-in --all\n"
    assert SweepConfig().retest_command == "sovctl health burn-in --all"


def _ledger(cluster: Cluster, node: str, serial: str, *drains: str) -> None:
    entries = tuple(LedgerEntry(time.time() - 60, "n009", boot, "FAILED XID79") for boot in drains)
    records = NodeRecordFiles(
        cluster.root / "run",
        cluster.root / f"state-{node}",
        None,
        cluster.root / "journal" / "ledgers" / f"{node}.json",
    )
    records.save("ledger", ledger_record(Ledger({serial: entries}, {"0000:0f:00": serial})))


def test_a_node_with_a_bad_record_is_taken_last_and_a_gpu_that_moved_is_written_down(cluster: Cluster) -> None:
    _ledger(cluster, "n002", "s2")
    _ledger(cluster, "n003", "s3", "boot-1", "boot-2", "boot-3")
    dry = cluster.sweep("--act", "--dry-run")
    assert dry.stdout.splitlines() == ["scontrol update NodeName=n003 Weight=2"] and cluster.acts == []
    done = json.loads(cluster.sweep("--act", "--json").stdout)
    assert [(item["node"], item["done"]) for item in done["placed"]] == [("n003", True)]
    assert cluster.acts == [["NodeName=n003", "Weight=2", ""]]
    kinds = [entry["kind"] for entry in cluster.journal]
    assert kinds == ["weight-intended", "weight-done"]
    _ledger(cluster, "n004", "s3", "boot-1", "boot-2", "boot-3")
    _ledger(cluster, "n003", "s5")
    cluster.sweep("--act")
    (moved,) = [entry for entry in cluster.journal if entry["kind"] == "gpu-moved"]
    assert (moved["serial"], moved["from_node"], moved["node"]) == ("s3", "n003", "n004")
    assert cluster.acts[-1] == ["NodeName=n004", "Weight=2", ""], "the record went with the GPU"


def test_foreign_drains_are_left_and_reported(cluster: Cluster) -> None:
    cluster.slurm("n004", "IDLE+DRAIN", "waiting for a new fan")
    cluster.slurm("n005", "DOWN+DRAIN+NOT_RESPONDING", "NHC: check_fs_mount")
    nodes = cluster.swept("--act", SOVCTL_SWEEP_RETEST_COMMAND="true")
    assert nodes["n004"]["why"] == "drained by root, their reason stays: waiting for a new fan"
    assert nodes["n005"]["why"] == "drained by root, their reason stays: NHC: check_fs_mount"
    assert nodes["n005"]["not_asked"] == "Slurm says NOT_RESPONDING"
    assert cluster.acts == []


def test_jobs_that_hang_on_one_node_are_freed(cluster: Cluster) -> None:
    rows = ["41|41|N/A|COMPLETING|1000|n006|n006||None", "42|42|N/A|COMPLETING|1000|n007,n008|n007||None"]
    (cluster.root / "queue").write_text("\n".join(rows) + "\n", "utf-8")
    assert cluster.swept()["n006"]["action"] == "would free 41 by setting it down"
    done = cluster.sweep("--act")
    ((node, state, reason),) = cluster.acts
    assert (node, state) == ("NodeName=n006", "State=DOWN")
    assert "STUCK_COMPLETING job 41 would not end here" in reason
    assert "job 42 completes for" in done.stderr


def test_the_second_sweep_leaves(cluster: Cluster) -> None:
    path = cluster.root / "journal" / "sweep.lock"
    path.parent.mkdir()
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = cluster.sweep("--act")
    assert (done.returncode, done.stdout) == (3, "")
    assert "sovctl sweep runs already" in done.stderr


def test_only_the_named_nodes(cluster: Cluster) -> None:
    assert list(cluster.swept("--node", "n[002-003]")) == ["n002", "n003"]
    assert cluster.sweep("--node", "n099").returncode == 1
    assert cluster.sweep("--node", "n[").returncode == 2


def test_slurmctld_down(cluster: Cluster) -> None:
    (cluster.root / "down").touch()
    done = cluster.sweep("--act", "--json")
    assert (done.returncode, done.stdout) == (75, "")
    assert "slurmctld does not answer" in done.stderr


def test_observing_by_configuration(cluster: Cluster) -> None:
    cluster.verdict("n003", failing(), state=VerdictState.FAILED)
    done = cluster.sweep("--act", SOVCTL_HEALTH_ACT="false")
    assert (done.returncode, cluster.acts) == (10, [])
    assert "health.act is false" in done.stderr


# The watch, over the same stand-ins


def watched(cluster: Cluster, *argv: str, **env: str) -> tuple[str, list[dict[str, Any]]]:
    """One pass with a job that hangs on n006: what it said, and what it wrote down."""
    rows = "41|41|N/A|COMPLETING|1000|n006|n006||None\n"
    (cluster.root / "queue").write_text(rows, "utf-8")
    command = [sys.executable, "-P", "-m", "sovctl", "watch", "--once", *argv]
    done = subprocess.run(command, capture_output=True, text=True, env={**cluster.env, **env}, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    path = cluster.root / "journal" / "watch.jsonl"
    return done.stderr, [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_observe_wins_over_act(cluster: Cluster) -> None:
    said, written = watched(cluster, "--act", "--observe")
    assert "observing" in said and "would free 41 by setting it down: scontrol update NodeName=n006" in said
    assert cluster.acts == []
    assert [(entry["kind"], "would free 41" in entry["words"]) for entry in written] == [("noted", True)]


@pytest.mark.parametrize("health_act", ["true", "false"])
def test_the_watch_frees_jobs_also_where_nodes_are_not_to_be_drained(cluster: Cluster, health_act: str) -> None:
    said, written = watched(cluster, "--act", SOVCTL_HEALTH_ACT=health_act)
    assert ("health.act is false: nodes that runs suspect are checked and not drained" in said) == (
        health_act == "false"
    )
    ((node, state, _),) = cluster.acts
    assert (node, state) == ("NodeName=n006", "State=DOWN")
    assert [entry["kind"] for entry in written] == ["down-intended", "down-done"]
