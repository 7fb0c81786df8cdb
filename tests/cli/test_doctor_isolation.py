"""`sovctl doctor isolation`: what works is told apart from what does not, and a step that leaks does not pass."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from sovctl.cli.main import run as sovctl
from sovctl.isolation.inside import KNOWN

_LEAKY = """#!{python}
# An srun whose step runs on the host as it is: what `exec --measure` asks for is measured without any isolation.
import os, sys
sys.path.insert(0, {root!r})
if "--measure" not in sys.argv:
    sys.exit("this step runs no image")
from sovctl.adapters.isolation.inside_view import Decoys, look_around
from sovctl.isolation.proof import SCHEMA
decoys = Decoys()
about = {{"schema": SCHEMA, "own_environment": [], "decoy": decoys.name, "node": "leaky"}}
print(look_around(about, os.environ, ()))
decoys.remove()
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="not installed: bubblewrap (make test-packages)")
def test_each_runtime_works_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOVCTL_ISOLATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SOVCTL_ISOLATION_NODE_DIR", str(tmp_path))
    assert sovctl(["doctor", "isolation", "--here", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["by_step"]) == (True, False)
    assert [(one["node"], one["checks"]) for one in found["nodes"]] == [(found["node"], found["checks"])]
    runtimes = {one["name"]: one for one in found["runtimes"]}
    assert tuple(runtimes) == KNOWN
    assert runtimes["bubblewrap"] == {"name": "bubblewrap", "works": True, "why": "", "nodes": []}
    assert all(one["why"] for one in runtimes.values() if not one["works"])
    if shutil.which("apptainer") is None:
        assert not runtimes["apptainer"]["works"]
        assert "apptainer is not on PATH" in runtimes["apptainer"]["why"]
    assert not runtimes["slurm"]["works"]  # no step of Slurm, by --here
    assert not list(tmp_path.glob("doctor-*"))


def test_a_step_that_leaks_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    srun = tmp_path / "srun"
    srun.write_text(_LEAKY.format(python=sys.executable, root=str(Path(__file__).parents[2])))
    srun.chmod(0o755)
    monkeypatch.setenv("SOVCTL_SLURM_BIN_DIR", str(tmp_path))
    monkeypatch.setenv("SOVCTL_ISOLATION_CACHE_DIR", str(tmp_path / "cache"))
    assert sovctl(["doctor", "isolation"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "leaky, by a step of Slurm:"
    verdict = {line[8:22].strip(): line[2:6] for line in lines if line.startswith(("  pass", "  FAIL"))}
    leaks = {"/tmp", "/var/tmp", "/dev/shm", "processes", "environment", "descriptors"}
    assert {name for name, word in verdict.items() if word == "FAIL"} >= leaks
    assert [line.split()[:2] for line in lines if line.startswith(("  works", "  no "))] == [
        ["no", name] for name in KNOWN
    ]
