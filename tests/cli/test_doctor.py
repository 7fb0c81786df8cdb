"""`sovctl doctor` where the configuration itself is broken: it is told with its line, and all else is looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WHOLE = "[health]\nact = true\n\n[node]\nexpected_gpus = 0\n"


def doctor(config: Path, *argv: str) -> tuple[int, str]:
    """Status and output; by itself, as a node that was asked, so that no Slurm has a say in the status."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SOVCTL_"))}
    env |= {"SOVCTL_CONFIG": str(config), "XDG_CONFIG_HOME": str(config.parent / "nobody")}
    words = [sys.executable, "-P", "-m", "sovctl", "doctor", "--node", "--dir", str(config.parent), *argv]
    done = subprocess.run(words, env=env, cwd=config.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "", done.stderr
    return done.returncode, done.stdout


def lines(config: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    status, said = doctor(config, "--json")
    return status, {line["check"]: line for line in json.loads(said)["lines"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHOLE.replace("expected_gpus", "expected_gpu"), ":5: unknown key node.expected_gpu; did you mean"),
        (WHOLE.replace("= 0", '= "eight"'), ":5: node.expected_gpus must be a whole number, not 'eight'"),
        (WHOLE.replace("[node]", "[nodes]"), ":4: unknown section [nodes]; did you mean"),
        (WHOLE.replace("[node]", "[node"), "(at line 4, column 6)"),
        (WHOLE + '[probes]\nno-such-probe = "drain"\n', "no-such-probe"),
    ],
)
def test_a_broken_file_is_one_finding_among_the_others(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "sovctl.toml"
    config.write_text(WHOLE, "utf-8")
    _, whole = lines(config)
    assert whole["config"]["state"] == "pass" and whole["config"]["seen"] == str(config)
    config.write_text(text, "utf-8")
    status, broken = lines(config)
    assert (status, broken["config"]["state"]) == (1, "fail")
    assert str(config) in broken["config"]["seen"] and said in broken["config"]["seen"]
    assert broken["config"]["fix"]
    assert broken.keys() == whole.keys() and {"clock", "shared-files", "nvml", "py-spy"} < whole.keys()
    assert broken["shared-files"] == whole["shared-files"]


def test_a_directory_that_is_named_and_not_there_fails(tmp_path: Path) -> None:
    config = tmp_path / "sovctl.toml"
    config.write_text(WHOLE, "utf-8")
    status, said = doctor(config, "--dir", str(tmp_path / "nope"), "--json")
    found = [line for line in json.loads(said)["lines"] if line["check"] == "shared-files"]
    assert (status, [line["state"] for line in found]) == (1, ["pass", "fail"])
    assert found[1]["seen"] == f"{tmp_path / 'nope'} is not there"
    assert found[1]["fix"] == f"mkdir -p {tmp_path / 'nope'}"


def test_who_reads_it_sees_the_line(tmp_path: Path) -> None:
    config = tmp_path / "sovctl.toml"
    config.write_text("[health]\nakt = true\n", "utf-8")
    status, said = doctor(config)
    assert status == 1
    told = " ".join(said.split())
    assert f"FAIL config {config}:2: unknown key health.akt" in told and "shared-files" in told
