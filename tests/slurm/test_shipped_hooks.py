"""Prolog and epilog as `sovctl site install` writes them, beside a site's own, in a real Slurm: what `sovctl site
lines` says is typed, both run, and ours refuses a job on a broken node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.lab import cluster
from sovctl.lab.gpus import update_state
from sovctl.lab.processes import stop

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gives slurmd an /etc/default/sovctl of its own"),
]
NODE = "n001"
OWN = "#!/bin/sh\necho $SLURM_JOB_ID >>{directory}/{name}.log\n"


@dataclass
class Site:
    """A cluster with hooks of its own, and the files of an install."""

    lab: cluster.Lab
    own: Path
    stage: Path

    def sovctl(self, *argv: str) -> dict[str, Any]:
        words = [sys.executable, "-P", "-m", "sovctl", "site", *argv, "--conf-dir", str(self.conf.parent), "--json"]
        done = subprocess.run(words, env=self.lab.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def lines(self) -> dict[str, dict[str, Any]]:
        found = self.sovctl("lines", "--prefix", f"{self.stage}/usr/local")["lines"]
        return {line["line"].partition("=")[0]: line for line in found}

    @property
    def conf(self) -> Path:
        return self.lab.layout.slurm_conf

    @property
    def marks(self) -> Path:
        return self.lab.layout.node_dir(NODE) / "run/jobs"

    def ran(self, name: str) -> list[str]:
        log = self.own / f"{name}.log"
        return log.read_text("ascii").split() if log.exists() else []

    def run(self, *argv: str) -> str:
        return CommandRunner(self.lab.environment).run(argv, timeout_s=60.0).stdout.strip()


@pytest.fixture
def site(new_root: Callable[[], Path], attach_logs: Callable[[Path], None]) -> Iterator[Site]:
    if shutil.which("slurmctld", path=cluster.SYSTEM_PATH) is None:
        pytest.skip("Slurm is not installed")
    root = new_root()
    attach_logs(root)
    own = root.parent / "own"
    own.mkdir()
    for name in ("prolog", "epilog"):
        (own / name).write_text(OWN.format(directory=own, name=name), "ascii")
        (own / name).chmod(0o755)
    overrides = {"Prolog": f"{own}/prolog", "Epilog": f"{own}/epilog", "PrologFlags": "Alloc"}
    overrides["SchedulerParameters"] = "nohold_on_prolog_fail"
    lab = cluster.up(cluster.Request(root, nodes=1, gpus=1, health=False, overrides=overrides))
    try:
        yield Site(lab, own, root.parent / "stage")
    finally:
        cluster.down(root)


def test_the_hooks_of_an_install_run_beside_those_of_a_site(site: Site, eventually: Callable[..., Any]) -> None:
    before = site.conf.read_bytes()
    site.sovctl("install", "--role", "node", "--root", str(site.stage))
    told = site.lines()
    assert site.conf.read_bytes() == before
    type_what_is_told(site, told)
    restart_slurmd(site)
    site.run("scontrol", "reconfigure")
    eventually(lambda: all(site.lines()[key]["there"] for key in ("Prolog", "Epilog")), "Slurm has the lines")
    slurm = cluster.slurm(site.lab.layout)
    eventually(lambda: slurm.nodes([NODE])[0].state.base == "IDLE", "the node is back")

    job = site.run("srun", "--gres=gpu:1", "sh", "-c", f"ls {site.marks}; echo $SLURM_JOB_ID").splitlines()
    assert len(job) == 2 and job[1] in job[0], "the prolog of the install left its mark of the job"
    eventually(lambda: not list(site.marks.iterdir()), "the epilog of the install takes it away")
    eventually(lambda: site.ran("epilog") == [job[1]], "the site's own epilog runs")
    assert site.ran("prolog") == [job[1]]
    eventually(lambda: slurm.nodes([NODE])[0].state.base == "IDLE", "nothing of that drains the node")
    assert not slurm.nodes([NODE])[0].state.draining

    update_state(site.lab.layout.node_dir(NODE) / "nvml.state", **{"gpu0.present": 0})
    output = site.lab.layout.root / "job.out"
    job_id = site.run("sbatch", "--parsable", "-o", str(output), "--wrap", "echo line of the job")
    eventually(lambda: slurm.nodes([NODE])[0].state.draining, "the prolog of the install refuses the job")
    site.run("scancel", job_id)
    assert not output.exists() or "line of the job" not in output.read_text("utf-8")


def type_what_is_told(site: Site, told: dict[str, dict[str, Any]]) -> None:
    """As an administrator would."""
    text = site.conf.read_text("utf-8")
    for key in ("Prolog", "Epilog"):
        assert not told[key]["there"]
        for command in told[key]["commands"]:
            subprocess.run(["sh", "-ec", command], check=True)
        text = text.replace(f"\n{key}={site.own}/{key.lower()}\n", f"\n{told[key]['line']}\n")
        assert told[key]["line"] in text
    site.conf.write_text(text, "utf-8")
    layout = site.lab.layout
    settings = f"SOVCTL_CONFIG={layout.node_config(NODE)}\nSOVCTL_LAB_DIR={layout.root}\nSOVCTL_LAB_NODE={NODE}\n"
    # The simulated driver is told by its environment where its GPUs are.
    settings += f"LD_LIBRARY_PATH={layout.lib_dir}\nexport SOVCTL_LAB_DIR SOVCTL_LAB_NODE LD_LIBRARY_PATH\n"
    with (site.stage / "etc/default/sovctl").open("a", encoding="utf-8") as file:
        file.write(settings)


def restart_slurmd(site: Site) -> None:
    """Where /etc/default is that of the install, and what this machine has there is not touched."""
    layout = site.lab.layout
    old = [item for item in site.lab.processes if item.role == f"slurmd:{NODE}"]
    stop(old)
    script = 'mount --bind "$0" /etc/default && exec slurmd -D -N "$1" -f "$2"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, f"{site.stage}/etc/default"]
    fresh = cluster.start([*argv, NODE, str(layout.slurm_conf)], f"slurmd:{NODE}", layout, site.lab.environment)
    kept = tuple(item for item in site.lab.processes if item not in old)
    site.lab = replace(site.lab, processes=(*kept, fresh))
    cluster.save(site.lab)
