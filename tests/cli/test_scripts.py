"""scripts/packages.sh, slurm_release.sh and the Makefile's loop over releases, with stand-ins for what they call."""

import os
import re
import subprocess
from collections.abc import Callable
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
    """A PATH on which scripts/slurm_release.sh is not run: what was asked of it is written down; `old` fails, and of
    `gone` no root directory can be made."""
    stand_in = tmp_path / "sh"
    ends = "case $2 in old) exit 1 ;; gone) exit 69 ;; esac"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{tmp_path}/asked\n{ends}\n')
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


def test_a_release_whose_root_cannot_be_made_is_named_and_no_failure(releases: Path) -> None:
    path = f"{releases}:/usr/bin:/bin"
    done = _make("test-slurm-versions-quick", "RELEASES=gone new", path=path)
    assert done.returncode == 0
    assert "sovctl: not tested, for want of a root directory: gone\n" in done.stderr
    assert "the tests on new took" in done.stderr and "the tests on gone" not in done.stderr
    assert _make("test-slurm-versions-quick", "RELEASES=gone old", path=path).returncode != 0


class Roots:
    """A place for root directories, and stand-ins for apt and mmdebstrap."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.programs = place / "bin"
        self.programs.mkdir()
        self.stand_in("dpkg-query", "printf installed")
        self.stand_in("id", "echo 0")
        self.stand_in("mmdebstrap", f'echo call >>{place}/calls; for last; do :; done; mkdir "$last"')

    def stand_in(self, name: str, text: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.programs / name).chmod(0o755)

    def start(self) -> subprocess.Popen[str]:
        argv = ["/bin/sh", str(ROOT / "scripts/slurm_release.sh"), "sid", "--make"]
        env = {"PATH": f"{self.programs}:/usr/bin:/bin", "SOVCTL_SLURM_ROOTS": str(self.place / "roots")}
        return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def make(self) -> tuple[int, list[str]]:
        started = self.start()
        out, said = started.communicate(timeout=60)
        assert out == ""
        return started.returncode, said.splitlines()

    @property
    def calls(self) -> int:
        calls = self.place / "calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(tmp_path)


def test_a_root_is_made_once(roots: Roots) -> None:
    status, said = roots.make()
    assert (status, len(said), roots.calls) == (0, 1, 1)
    assert "making a Debian sid" in said[0]
    assert roots.make() == (0, [])
    assert roots.calls == 1


def test_an_archive_that_is_away_is_one_line_and_takes_no_root_away(roots: Roots) -> None:
    roots.stand_in("mmdebstrap", "echo 'E: Unable to locate package slurmd' >&2; exit 25")
    status, said = roots.make()
    log = roots.place / "roots/sid.log"
    assert (status, len(said)) == (69, 2)
    assert said[1] == (
        "sovctl: sid is left out: no root directory of Debian sid could be made: "
        f"E: Unable to locate package slurmd; see {log}"
    )
    old = roots.place / "roots/sid"
    old.mkdir()
    (old / ".complete").write_text("fewer packages")
    assert roots.make()[0] == 69
    assert (old / ".complete").read_text() == "fewer packages"


def test_half_a_root_that_a_kill_left_is_made_anew(roots: Roots) -> None:
    half = roots.place / "roots/.sid.new/etc"
    half.mkdir(parents=True)
    assert roots.make()[0] == 0
    assert [path.name for path in (roots.place / "roots").iterdir() if path.is_dir()] == ["sid"]


def test_two_at_once_make_one_root(roots: Roots, eventually: Callable[..., object]) -> None:
    gate = roots.place / "gate"
    os.mkfifo(gate)
    roots.stand_in("mmdebstrap", f'echo call >>{roots.place}/calls; for last; do :; done; mkdir "$last"; cat {gate}')
    first = roots.start()
    eventually(lambda: roots.calls, "the first has begun")
    second = roots.start()
    assert second.stderr is not None
    assert "somebody else uses" in second.stderr.readline()
    gate.write_text("")
    assert (first.wait(60), second.wait(60), roots.calls) == (0, 0, 1)
    for one in (first, second):
        one.communicate()


def test_an_ordinary_user_is_told_that_it_takes_root(roots: Roots) -> None:
    roots.stand_in("id", "echo 1000")
    status, said = roots.make()
    assert (status, roots.calls) == (69, 0)
    assert said == [f"sovctl: sid is left out: only root can make and enter {roots.place}/roots/sid"]
    assert not (roots.place / "roots").exists()


def test_without_mmdebstrap_the_reason_is_named(roots: Roots) -> None:
    roots.stand_in("dpkg-query", "true")
    # Root for this script, an ordinary user for packages.sh: nothing is installed by a test.
    roots.stand_in("id", f"[ -e {roots.place}/asked ] && echo 1000 || echo 0; touch {roots.place}/asked")
    log = roots.place / "roots/sid.log"
    assert roots.make() == (69, [f"sovctl: sid is left out: mmdebstrap cannot be installed; see {log}"])
    assert "these Debian packages are missing: mmdebstrap" in log.read_text()
    assert roots.calls == 0
