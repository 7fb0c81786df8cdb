"""`sovctl health prolog|epilog|probes` as processes, and the scripts that slurmd starts."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.lab.gpus import append_kernel_line, build_nvml, inject_xid, update_state, write_boot_id, write_healthy_state
from sovctl.lab.host import write_healthy_host, write_mounts, write_port

ROOT = Path(importlib.util.find_spec("sovctl").origin or "").parents[1]  # type: ignore[union-attr]
SCRIPTS = Path(__file__).parents[2] / "plugins" / "slurmd"


class Node:
    """A simulated node without any Slurm command: prolog and epilog need none."""

    def __init__(self, directory: Path, library: Path) -> None:
        self.dir = directory / "nodes" / "n003"
        self.dir.mkdir(parents=True)
        self.host = self.dir / "host"
        write_healthy_state(self.dir / "nvml.state", "n003", 8)
        write_boot_id(self.dir / "boot_id")
        write_healthy_host(self.host)
        (self.dir / "kmsg").touch()
        self.config = self.dir / "sovctl.toml"
        self.config.write_text(
            f'[node]\nname = "n003"\nkernel_log = "{self.dir}/kmsg"\nboot_id_file = "{self.dir}/boot_id"\n'
            f'run_dir = "{self.dir}/run"\nstate_dir = "{self.dir}/state"\nhost_root = "{self.host}"\n'
            "expected_gpus = 8\n[health]\nprobe_timeout_s = 5\nprolog_timeout_s = 5\nact = true\n"
        )
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SOVCTL_", "SLURM"))}
        self.env = {
            **kept,
            "HOME": str(directory),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "SOVCTL_CONFIG": str(self.config),
            "SOVCTL_LAB_DIR": str(directory),
            "SOVCTL_LAB_NODE": "n003",
            "SLURM_JOB_ID": "7",
            "LD_LIBRARY_PATH": str(library.parent),
        }

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "sovctl", "health", *arguments]
        return subprocess.run(
            argv, env={**self.env, **env}, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
        )

    def script(self, name: str, **env: str) -> subprocess.CompletedProcess[str]:
        own = {"SOVCTL_PYTHON": sys.executable, **env}
        return subprocess.run(
            [SCRIPTS / name], env={**self.env, **own}, capture_output=True, text=True, timeout=60, check=False
        )

    def add_config(self, text: str) -> None:
        self.config.write_text(self.config.read_text() + text)

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("no C compiler")
    return build_nvml(tmp_path_factory.mktemp("lib"), CommandRunner())


@pytest.fixture
def node(tmp_path: Path, library: Path) -> Node:
    return Node(tmp_path, library)


def test_a_healthy_node_takes_the_job_without_a_word(node: Node) -> None:
    for verb in ("prolog", "epilog"):
        done = node.run(verb)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list((node.dir / "run" / "jobs").iterdir())


def test_a_fault_since_the_last_look_refuses_the_job(node: Node) -> None:
    inject_xid(node.dir, 79, 5)
    done = node.run("prolog")
    assert done.returncode == 10
    (line,) = done.stdout.splitlines()
    assert line.startswith("print sovctl: node n003 is not fit for this job") and "XID79" in line
    assert done.stderr == line.removeprefix("print ") + "\n"


def test_a_failed_verdict_counts_although_its_line_was_read(node: Node) -> None:
    inject_xid(node.dir, 48, 5)
    assert node.run("check", "--observe").returncode == 10
    update_state(node.dir / "nvml.state", **{"gpu5.ecc_volatile_uncorrected": 0})
    assert node.run("prolog").returncode == 10
    assert node.run("prolog", SOVCTL_HEALTH_ACT="false").returncode == 0


SILENT = """
import json, os, subprocess, sys, time
from pathlib import Path
from sovctl.lab import storage

def health(*verb):
    began = time.monotonic()
    argv = [sys.executable, "-m", "sovctl", "health", *verb]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    print(json.dumps([done.returncode, done.stdout, done.stderr, time.monotonic() - began]))

host = Path(sys.argv[1])
storage.silence(host / "data", os.environ)
try:
    health("check", "--json", "--observe")
    health("prolog")
finally:
    storage.answer_again(host)
health("check", "--json", "--observe")
"""


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="mounting needs root and /dev/fuse")
def test_a_mount_that_hangs_is_named_and_holds_nobody_up(node: Node) -> None:
    """In a namespace of its own, so that nobody else on this machine meets the mount."""
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-P", "-c", SILENT, str(node.host)]
    env = {**node.env, "SOVCTL_HEALTH_SOURCE_TIMEOUT_S": "0.5"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    stuck, prolog, after = (json.loads(line) for line in done.stdout.splitlines())
    (finding,) = json.loads(stuck[1])["findings"]
    assert (finding["code"], finding["probe"]) == ("MOUNT_STUCK", "mount-answer")
    assert finding["evidence"] == "/data gave no answer within 0.5 s"
    assert (prolog[0], prolog[1]) == (0, ""), "the prolog asks no mount"
    assert stuck[3] < 10 and prolog[3] < 10
    assert json.loads(after[1])["findings"] == []


def test_a_hanging_or_absent_driver_lets_the_job_start(node: Node) -> None:
    update_state(node.dir / "nvml.state", init_hang=1)
    done = node.run("prolog", SOVCTL_HEALTH_PROLOG_TIMEOUT_S="0.3")
    assert done.returncode == 0 and "PROBE_HUNG nvml" in done.stdout
    done = node.run("prolog", LD_LIBRARY_PATH="/nonexistent")
    assert done.returncode == 0 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "[]",
        '{"schema": "sovctl.verdict/1"}',
        '{"schema": "sovctl.verdict/1", "node": "n003", "boot_id": "other", "observed_at": 1, "state": "failed", '
        '"repair": "none", "findings": [], "blind": []}',
        "\x00\x01",
    ],
)
def test_a_verdict_file_that_is_no_verdict(node: Node, content: str) -> None:
    (node.dir / "run").mkdir()
    (node.dir / "run" / "verdict.json").write_text(content)
    done = node.run("prolog")
    assert (done.returncode, done.stdout) == (0, "") and "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_verdict_of_another_user_is_not_believed(node: Node) -> None:
    inject_xid(node.dir, 48, 5)
    node.run("check", "--observe")
    (node.dir / "kmsg").write_text("")
    update_state(node.dir / "nvml.state", **{"gpu5.ecc_volatile_uncorrected": 0})
    assert node.run("prolog").returncode == 10
    os.chown(node.dir / "run" / "verdict.json", 65534, 65534)
    assert node.run("prolog").returncode == 0


def test_the_epilog_fails_on_what_the_job_left(node: Node) -> None:
    assert node.run("prolog").returncode == 0
    inject_xid(node.dir, 48, 2)
    done = node.run("epilog")
    assert (done.returncode == 10 and "ECC_UNCORRECTED" in done.stderr + done.stdout) or "XID48" in done.stderr
    journal = (node.dir / "state" / "nodes" / "n003.jsonl").read_text()
    assert [json.loads(line)["kind"] for line in journal.splitlines()] == ["job-evidence"]


def test_learning_refuses_a_failed_node_and_then_misses_what_is_gone(node: Node) -> None:
    inject_xid(node.dir, 79, 5)
    refused = node.run("probes", "--learn")
    assert refused.returncode == 3 and "nothing is learnt" in refused.stderr
    assert not (node.dir / "state" / "inventory.json").exists()
    write_healthy_state(node.dir / "nvml.state", "n003", 8)
    (node.dir / "kmsg").write_text("")
    assert node.run("probes", "--learn", "--dry-run").returncode == 0
    assert not (node.dir / "state" / "inventory.json").exists()
    learnt = node.json("probes", "--learn")
    assert learnt["gpus"] == 8 and learnt["ports"] == {"mlx5_0/1": 400.0, "mlx5_1/1": 400.0}
    assert learnt["mounts"] == {"/": "rw", "/data": "rw"} and "nvidia-fabricmanager" in learnt["services"]
    write_port(node.host, "mlx5_1", "1: DOWN")
    write_mounts(node.host, {"/": "rw"})
    verdict = node.json("check", "--dry-run")
    assert verdict["state"] == "degraded", "a moment is not enough"
    assert {finding["code"] for finding in verdict["findings"]} == {"IB_PORT_DOWN", "MOUNT_MISSING"}


def test_the_table_of_probes(node: Node) -> None:
    node.add_config('[probes]\ngpu-ecc = "shadow"\nnvlink = "off"\n')
    update_state(node.dir / "nvml.state", **{"gpu1.ecc_volatile_uncorrected": 2})
    done = node.run("check", "--observe")
    assert done.returncode == 0 and "shadow ECC_UNCORRECTED" in done.stdout
    rows = {row["name"]: row for row in node.json("probes")["probes"]}
    assert len(rows) >= 30 and rows["nvlink"]["state"] == "off"
    ecc = rows["gpu-ecc"]
    assert (ecc["state"], ecc["default"], ecc["hits"], ecc["would_have_drained"]) == ("shadow", "drain", 1, 1)
    assert ecc["cost_ms"] > 0 and rows["infiniband" if "infiniband" in rows else "ib-port"]["cost_ms"] > 0
    table = node.run("probes")
    assert "WOULD DRAIN" in table.stdout and "gpu-ecc" in table.stdout and "set in [probes]" in table.stderr


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[probes]\ngpu-eec = "off"\n', 14, "there is no probe gpu-eec; did you mean gpu-ecc"),
        ('[probes]\ngpu-ecc = "loud"\n', 14, "must be one of off, shadow, warn, drain"),
        ("[watch]\ninterval_s = true\n", 14, "watch.interval_s must be a number"),
        ("[watch]\n\nintervall_s = 1\n", 15, "did you mean interval_s"),
        ("[wotch]\n", 13, "did you mean watch"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(node: Node, text: str, line: int, words: str) -> None:
    node.add_config(text)
    done = node.run("probes")
    assert done.returncode == 2
    assert f"sovctl.toml:{line}: " in done.stderr and words in done.stderr
    assert node.run("prolog").returncode == 0 and node.run("check").returncode == 0, "and no node is drained for it"


def test_an_inventory_that_makes_no_sense_is_said(node: Node) -> None:
    (node.dir / "state").mkdir()
    (node.dir / "state" / "inventory.json").write_text('{"schema": "sovctl.inventory/1", "gpus": "eight"}')
    for verb in ("check", "prolog"):
        done = node.run(verb)
        assert done.returncode == 0 and "inventory cannot be used" in done.stderr


def test_the_scripts_of_slurmd_pass_on_only_an_explicit_failure(node: Node) -> None:
    for name in ("prolog", "epilog", "health_check"):
        assert node.script(name).returncode == 0
    assert node.script("prolog", SOVCTL_PACKAGE_DIR=str(ROOT)).returncode == 0
    inject_xid(node.dir, 79, 5)
    assert node.script("prolog").returncode == 1
    assert node.script("prolog", SOVCTL_PACKAGE_DIR=str(ROOT)).returncode == 1
    assert node.script("health_check").returncode == 0, "it drains by itself"


@pytest.mark.parametrize("name", ["prolog", "epilog", "health_check"])
def test_the_scripts_fail_open(node: Node, tmp_path: Path, name: str) -> None:
    inject_xid(node.dir, 79, 5)
    assert node.script(name, SOVCTL_PYTHON="/nonexistent").returncode == 0
    for status in (1, 2, 137):
        broken = tmp_path / f"python{status}"
        broken.write_text(f"#!/bin/sh\nexit {status}\n")
        broken.chmod(0o755)
        assert node.script(name, SOVCTL_PYTHON=str(broken)).returncode == 0


def test_the_task_prolog_passes_the_notice_on_once_a_node(node: Node) -> None:
    run_dir = node.dir / "run"
    assert node.script("task_prolog", SLURM_LOCALID="0", SOVCTL_NODE_RUN_DIR=str(run_dir)).stdout == ""
    update_state(node.dir / "nvml.state", **{"gpu1.lost": 1})
    assert node.run("prolog").returncode == 10
    told = node.script("task_prolog", SLURM_LOCALID="0", SOVCTL_NODE_RUN_DIR=str(run_dir))
    assert told.stdout.startswith("print sovctl: node n003 is not fit") and told.returncode == 0
    assert node.script("task_prolog", SLURM_LOCALID="1", SOVCTL_NODE_RUN_DIR=str(run_dir)).stdout == ""


def test_what_a_program_is_called_forges_no_line(node: Node) -> None:
    append_kernel_line(node.dir / "kmsg", "NVRM: Xid (PCI:0000:64:00): 48, pid=1, name=a\x1b[2J\nprint rm, x")
    done = node.run("prolog")
    assert done.returncode == 10 and done.stdout.count("\n") == 1 and "\x1b" not in done.stdout + done.stderr


def test_the_prolog_imports_nothing_it_does_not_need(node: Node) -> None:
    code = "import sys, sovctl.cli.main as m; m.run(['health', 'prolog']); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=node.env, capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    for heavy in ("typer", "rich", "ClusterShell", "pynvml", "argparse", "subprocess", "sovctl.ports", "asyncio"):
        assert f"'{heavy}'" not in done.stdout
