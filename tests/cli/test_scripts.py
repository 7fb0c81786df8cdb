"""scripts/packages.sh, with stand-ins for the programs of Debian."""

import subprocess
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "scripts" / "packages.sh"


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """A PATH on which only `munge` is installed, and which tells who called apt-get."""
    programs = {
        "dpkg-query": 'for last; do :; done; [ "$last" = munge ] && printf installed',
        "id": "echo 1000",
        "apt-get": f"echo called >{tmp_path}/called",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def _run(path: Path, *packages: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(PACKAGES), *packages], capture_output=True, text=True, env={"PATH": f"{path}:/usr/bin:/bin"}
    )


def test_nothing_is_called_when_all_are_there(debian: Path) -> None:
    done = _run(debian, "munge")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_ordinary_user_is_told_what_to_type(debian: Path) -> None:
    done = _run(debian, "munge", "slurmd", "gcc")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "sovctl: these Debian packages are missing: slurmd gcc",
        "sovctl: install them and run make again:  sudo apt-get install --no-install-recommends slurmd gcc",
    ]
    assert not (debian / "called").exists()


def test_the_default_names_what_the_demo_needs(debian: Path) -> None:
    said = _run(debian).stderr
    assert "slurmctld slurmd slurm-client" in said
    assert "munge" not in said
