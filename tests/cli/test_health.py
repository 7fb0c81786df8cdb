"""`sovctl health` as slurmd and people start it: a process, a simulated node, a scontrol that records."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.lab.gpus import build_nvml, inject_xid, update_state, write_boot_id, write_healthy_state
from sovctl.lab.host import write_healthy_host

SCONTROL = """#!/bin/sh
echo "$*" >> "{dir}/scontrol.log"
if [ -e "{dir}/down" ]; then
    echo "slurm_load_node error: Unable to contact slurm controller (connect failure)" >&2
    exit 1
fi
case "$*" in
update*) echo "$*" >> "{dir}/updates"; exit 0 ;;
*config*) echo "SlurmUser               = root(0)"; exit 0 ;;
esac
state=IDLE; reason=
if [ -s "{dir}/updates" ]; then
    state=IDLE+DRAIN
    reason=" Reason=$(sed -n 's/.*Reason=//p' "{dir}/updates" | head -1) [root@2026-11-22T21:46:40]"
fi
echo "NodeName=n003 Arch=x86_64 CoresPerSocket=1 NodeAddr=n003 NodeHostName=n003 Port=6818 State=$state$reason"
"""


class Node:
    """A simulated node and what `sovctl health` says on it."""

    def __init__(self, directory: Path, library: Path) -> None:
        self.lab = directory
        self.dir = directory / "nodes" / "n003"
        self.bin = directory / "bin"
        for made in (self.dir, self.bin):
            made.mkdir(parents=True)
        write_healthy_state(self.dir / "nvml.state", "n003", 8)
        write_boot_id(self.dir / "boot_id")
        write_healthy_host(self.dir / "host")
        (self.dir / "kmsg").touch()
        (self.bin / "scontrol").write_text(SCONTROL.format(dir=directory))
        (self.bin / "scontrol").chmod(0o755)
        (self.dir / "sovctl.toml").write_text(
            f'[node]\nname = "n003"\nkernel_log = "{self.dir}/kmsg"\nboot_id_file = "{self.dir}/boot_id"\n'
            f'run_dir = "{self.dir}/run"\nstate_dir = "{self.dir}/state"\nexpected_gpus = 8\n'
            f'host_root = "{self.dir}/host"\n'
            f'[cluster]\njournal_dir = "{directory}/journal"\n[slurm]\nbin_dir = "{self.bin}"\n'
        )
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SOVCTL_", "SLURM"))}
        self.env = {
            **kept,
            "HOME": str(directory),
            "SLURM_CONF": "/dev/null",
            "SOVCTL_CONFIG": str(self.dir / "sovctl.toml"),
            "SOVCTL_LAB_DIR": str(directory),
            "SOVCTL_LAB_NODE": "n003",
            "LD_LIBRARY_PATH": str(library.parent),
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "sovctl", "health", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), env=self.env, capture_output=True, text=True, timeout=60)

    @property
    def updates(self) -> list[str]:
        path = self.lab / "updates"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def kinds(self) -> list[str]:
        path = self.lab / "journal" / "nodes" / "n003.jsonl"
        return [json.loads(line)["kind"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("no C compiler")
    return build_nvml(tmp_path_factory.mktemp("lib"), CommandRunner())


@pytest.fixture
def node(tmp_path: Path, library: Path) -> Node:
    return Node(tmp_path, library)


def test_a_healthy_node(node: Node) -> None:
    done = node.run("check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "n003: healthy\n", "")
    assert not (node.lab / "scontrol.log").exists(), "a healthy node costs the controller nothing"


def test_a_dead_gpu_drains_the_node_once(node: Node) -> None:
    inject_xid(node.dir, 79, 5)
    done = node.run("check")
    assert done.returncode == 10
    assert "XID79" in done.stdout and "drained: scontrol update NodeName=n003 State=DRAIN" in done.stdout
    (update,) = node.updates
    assert update.startswith("update NodeName=n003 State=DRAIN Reason=sovctl:")
    assert node.kinds == ["verdict", "drain-intended", "drain-done"]
    again = node.run("check")
    assert again.returncode == 10 and len(node.updates) == 1
    record = json.loads((node.dir / "run" / "verdict.json").read_text())
    assert (record["schema"], record["state"], record["repair"]) == ("sovctl.verdict/1", "failed", "reboot")


def test_json_is_one_object(node: Node) -> None:
    update_state(node.dir / "nvml.state", **{"gpu2.ecc_volatile_uncorrected": 3})
    done = node.run("check", "--json", "--dry-run")
    assert done.returncode == 10
    record = json.loads(done.stdout)
    assert record["schema"] == "sovctl.verdict/1" and record["state"] == "failed"
    assert record["findings"][0]["code"] == "ECC_UNCORRECTED" and record["findings"][0]["gpu_index"] == 2
    assert record["decision"]["action"] == "drain" and record["decision"]["done"] is False
    assert record["decision"]["command"][:4] == ["scontrol", "update", "NodeName=n003", "State=DRAIN"]
    assert node.updates == [] and not (node.dir / "run").exists()


def test_observing_judges_only(node: Node) -> None:
    inject_xid(node.dir, 79, 5)
    done = node.run("check", "--observe")
    assert done.returncode == 10 and node.updates == []
    assert "left alone: observing only" in done.stdout


def test_the_programs_own_fault_is_healthy(node: Node) -> None:
    inject_xid(node.dir, 31, 5)
    assert node.run("check").returncode == 0


def test_a_controller_that_is_down_is_said_and_tried_again(node: Node) -> None:
    inject_xid(node.dir, 48, 5)
    (node.lab / "down").touch()
    done = node.run("check")
    assert done.returncode == 10 and "could not be drained" in done.stderr
    (node.lab / "down").unlink()
    assert node.run("check").returncode == 10
    assert len(node.updates) == 1


def _no_boot_id(node: Node) -> None:
    (node.dir / "boot_id").unlink()


def _broken_config(node: Node) -> None:
    (node.dir / "sovctl.toml").write_text("[node\n")


def _no_driver(node: Node) -> None:
    (node.dir / "nvml.state").unlink()


def _no_kernel_log(node: Node) -> None:
    (node.dir / "kmsg").unlink()


def _hanging_driver(node: Node) -> None:
    update_state(node.dir / "nvml.state", init_hang=1)
    node.env["SOVCTL_HEALTH_PROBE_TIMEOUT_S"] = "0.3"


@pytest.mark.parametrize("break_it", [_no_boot_id, _broken_config, _no_driver, _no_kernel_log, _hanging_driver])
def test_a_broken_checker_fails_open(node: Node, break_it: Callable[[Node], None]) -> None:
    break_it(node)
    done = node.run("check")
    assert done.returncode == 0
    assert node.updates == []
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("sovctl: health check could not run") or "not seen:" in done.stdout


def test_a_shell_of_the_lab_is_no_node(node: Node) -> None:
    _no_boot_id(node)
    words = "This shell is no node of the lab: sovctl node check n003"
    assert words not in node.run("check").stderr
    del node.env["SOVCTL_LAB_NODE"]
    done = node.run("check")
    assert done.returncode == 0 and "cannot read the boot id" in done.stderr and words in done.stderr


def test_help_shows_an_example_and_a_wrong_word_is_a_usage_error(node: Node) -> None:
    for verb in ("check", "watch"):
        done = node.run(verb, "--help")
        assert done.returncode == 0 and f"sovctl health {verb} " in done.stdout and "examples:" in done.stdout
    assert node.run("chekc").returncode == 2
    assert node.run().returncode == 2


@pytest.fixture
def watcher(node: Node) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(node.command("watch"), env=node.env, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_the_watcher_drains_within_a_second_and_stops_when_asked(node: Node, watcher: subprocess.Popen[str]) -> None:
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "n003: healthy\n"
    mark = json.loads((node.lab / "journal" / "alive" / "n003.json").read_text())
    assert mark["node"] == "n003" and abs(mark["at"] - time.time()) < 60
    began = time.monotonic()
    inject_xid(node.dir, 79, 5)
    while not (line := watcher.stdout.readline()).startswith("  drained"):
        assert line, "the watcher ended"
    assert time.monotonic() - began < 2.0, "a second, and another for a busy test machine"
    assert len(node.updates) == 1 and " XID79 GPU 5" in node.updates[0]
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(5) == 0


def test_the_import_of_the_check_stays_light(node: Node) -> None:
    code = "import sys, sovctl.cli.main, sovctl.cli.health as h; h.run(['check']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=node.env, capture_output=True, text=True, timeout=60)
    loaded = done.stdout.splitlines()[-1]
    for heavy in ("'typer'", "'rich'", "'ClusterShell'", "'asyncio'"):
        assert heavy not in loaded


# Burn-in


def burn_in(node: Node, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-P", "-m", "sovctl", "health", "burn-in", *argv]
    done = subprocess.run(words, env={**node.env, **env}, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_burn_in_without_torch_says_so_and_proves_nothing(node: Node) -> None:
    bare = node.bin / "python-without-torch"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n', "utf-8")
    bare.chmod(0o755)
    done = burn_in(node, "--all", "--json", SOVCTL_BURN_IN_PYTHON=str(bare))
    record = json.loads(done.stdout)
    assert (done.returncode, record["schema"], record["node"]) == (1, "sovctl.burn-in/1", "n003")
    assert {result["outcome"] for result in record["results"]} == {"absent"}
    assert all("torch cannot be imported" in result["evidence"] for result in record["results"])


def test_a_burn_in_stays_away_from_jobs(node: Node) -> None:
    (node.dir / "run" / "jobs").mkdir(parents=True)
    (node.dir / "run" / "jobs" / "41.json").write_text("{}\n", "utf-8")
    done = burn_in(node, "--all")
    assert done.returncode == 75 and done.stdout == "n003: interrupted matmul: job 41 is here\n"
    (node.dir / "run" / "jobs" / "41.json").unlink()
    update_state(node.dir / "nvml.state", **{"gpu2.processes": "4711:1048576"})
    done = burn_in(node, "--all")
    assert done.returncode == 75 and "process 4711 holds GPU 2" in done.stdout


def test_a_burn_in_without_the_gpus_of_the_node_fails(node: Node) -> None:
    """Eight GPUs in NVML; a torch for CPUs must not pass for them."""
    pytest.importorskip("torch")
    done = burn_in(node, "--piece", "memory")
    assert done.returncode == 1 and "failed" in done.stdout and "passed" not in done.stdout


def test_a_burn_in_that_is_set_wrong_is_refused(node: Node) -> None:
    done = burn_in(node, SOVCTL_BURN_IN_DEVICE="gpu")
    assert done.returncode == 2 and "burn_in.device: must be auto, cuda or cpu, not 'gpu'" in done.stderr
    assert burn_in(node, "--dry-run").stdout.startswith("would do matmul, 5 s each, with ")
