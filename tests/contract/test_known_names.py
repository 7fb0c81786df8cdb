"""Names for a shell's completion, asked from a real cluster."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.slurm.known_names import KnownNames
from sovctl.lab import cluster

pytestmark = pytest.mark.slurm


@pytest.fixture
def environ(lab: cluster.Lab, tmp_path: Path) -> dict[str, str]:
    return {**lab.environment, "HOME": str(tmp_path)}


def _names(kind: str, environ: dict[str, str], later_s: float = 0.0) -> KnownNames:
    return KnownNames(kind, CommandRunner(environ), environ, now=lambda: time.time() + later_s)


def test_nodes(lab: cluster.Lab, environ: dict[str, str]) -> None:
    known = _names("node", environ)
    assert known.fitting("") == tuple(lab.nodes)
    assert known.fitting(f"{lab.nodes[0]},{lab.nodes[1][:-1]}") == tuple(
        f"{lab.nodes[0]},{name}" for name in lab.nodes[1:]
    )


def test_partitions(environ: dict[str, str]) -> None:
    assert _names("partition", environ).fitting("") == ("main",)


def test_jobs(lab: cluster.Lab, environ: dict[str, str]) -> None:
    runner = CommandRunner(lab.environment)
    words = ["sbatch", "--parsable", "--hold", "--array=1-2", "--chdir=/tmp", "--wrap", "true"]
    job = runner.run(words, timeout_s=30).stdout.strip()
    try:
        assert _names("job", environ).fitting(job) == (f"{job}_1", f"{job}_2")
    finally:
        runner.run(["scancel", job], timeout_s=30)


def test_no_accounting_no_qos(environ: dict[str, str]) -> None:
    assert _names("qos", environ).fitting("") == ()


def test_a_cluster_that_is_gone_gives_the_kept_names_for_a_while_and_then_none(environ: dict[str, str]) -> None:
    assert _names("partition", environ).fitting("m") == ("main",)
    gone = {**environ, "PATH": "/nonexistent"}
    assert _names("partition", gone).fitting("m") == ("main",)
    assert _names("partition", gone, later_s=3600).fitting("m") == ()
