"""scripts/packages.sh and the Makefile's loop over releases, with stand-ins for the programs they call."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "scripts" / "packages.sh"
NEEDS_A_ROOT = re.compile(r"pytest\.mark\.slurm\b|cluster\.up\(|\blab: cluster\.Lab\b|which\(\"apptainer\"\)")
"""In a test file: it drives a real Slurm, or what only a newer Debian has."""


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


# Other releases of Slurm


def _make(*words: str, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *words], capture_output=True, text=True, env={"PATH": path}, cwd=ROOT
    )


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """A PATH on which scripts/slurm_release.sh is not run: what was asked of it is written down, and `old` fails."""
    stand_in = tmp_path / "sh"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{tmp_path}/asked\n[ "$2" != old ]\n')
    stand_in.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("target", ["test-slurm-versions", "test-slurm-versions-quick"])
def test_every_release_is_tried_and_one_that_failed_is_named_at_the_end(releases: Path, target: str) -> None:
    done = _make(target, "RELEASES=old new", "PYTEST_ARGS=-k 'a or b'", path=f"{releases}:/usr/bin:/bin")
    asked = (releases / "asked").read_text().splitlines()
    assert [line.split()[:2] for line in asked] == [["scripts/slurm_release.sh", name] for name in ("old", "new")]
    assert all(line.endswith(" -k a or b") and "tests/contract/test_slurm.py" in line for line in asked)
    assert done.returncode != 0
    assert "tests failed on old\n" in done.stderr
    assert _make(target, "RELEASES=new newer", path=f"{releases}:/usr/bin:/bin").returncode == 0


def test_whatever_drives_slurm_is_run_on_every_release(releases: Path) -> None:
    _make("test-slurm-versions", "RELEASES=new", path=f"{releases}:/usr/bin:/bin")
    named = [ROOT / word for word in (releases / "asked").read_text().split()[2:]]
    assert [path for path in named if not path.exists()] == []
    drive = [path for path in (ROOT / "tests").rglob("test_*.py") if NEEDS_A_ROOT.search(path.read_text("utf-8"))]
    assert len(drive) > 20, "the pattern finds too few: it is wrong"
    assert [path for path in drive if not any(path == one or one in path.parents for one in named)] == []
