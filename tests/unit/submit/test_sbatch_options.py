"""The option table against the sbatch that is installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sovctl.submit.sbatch_options import LONG, PLUGIN, SHORT, Value, resolve

_LINE = re.compile(r"^ {2,6}(?:-(?P<letter>\w),?\s+)?--(?P<name>[a-z][a-z-]*)(?P<rest>\S*)\s", re.MULTILINE)


def _sbatch_help(directory: Path) -> str:
    """sbatch prints its help only where it finds a slurm.conf; no daemon is asked."""
    if shutil.which("sbatch") is None:
        pytest.skip("sbatch is not installed")
    conf = directory / "slurm.conf"
    conf.write_text("ClusterName=none\nSlurmctldHost=localhost\n")
    done = subprocess.run(
        ["sbatch", "--help"], capture_output=True, text=True, env={**os.environ, "SLURM_CONF": str(conf)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# `sbatch --help` of 22.05 does not show the value of these.
_SHOWN_WITHOUT_VALUE = {"container"}
_SHOWN_AS_OPTIONAL = {"export", "wrap"}


def test_every_option_of_the_installed_sbatch_is_classified(tmp_path: Path) -> None:
    found = list(_LINE.finditer(_sbatch_help(tmp_path)))
    assert len(found) > 60
    for match in found:
        name, rest, letter = match["name"], match["rest"], match["letter"]
        if letter:
            assert SHORT.get(letter) == name
        if name in _SHOWN_WITHOUT_VALUE | _SHOWN_AS_OPTIONAL or name in PLUGIN:
            continue
        shown = Value.OPTIONAL if rest.startswith("[=") else Value.REQUIRED if rest.startswith("=") else Value.NONE
        allowed = {shown, Value.OPTIONAL} if shown is Value.NONE else {shown}
        assert LONG.get(name) in allowed, f"--{name}{rest}"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("nodes", "nodes"),
        ("partit", "partition"),
        ("mem", "mem"),
        ("gpus", "gpus"),
        ("exclu", None),
        ("exclus", "exclusive"),
        ("node", None),
        ("cons", "constraint"),
        ("container-image", "container-image"),
        ("frobnicate", None),
        ("", None),
    ],
)
def test_abbreviations_as_getopt_long_reads_them(typed: str, name: str | None) -> None:
    found = resolve(typed)
    assert (found[0] if found else None) == name


def test_letters_and_names_are_unique() -> None:
    assert len(set(SHORT.values())) == len(SHORT)
    assert not LONG.keys() & PLUGIN.keys()
