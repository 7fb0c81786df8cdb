"""A wheel of this checkout, installed as pip does it in a virtual environment and below another prefix: `sovctl site
install` finds all that it writes, and man pages and completions lie where they are looked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sovctl.site.catalogue import Places, Role, pieces_for, wanted

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")
ROLES = tuple(word for role in Role for word in ("--role", role))
COMPLETIONS = {
    "bash-completion/completions/sovctl.bash": "sovctl.bash",
    "zsh/site-functions/_sovctl": "_sovctl",
    "fish/vendor_completions.d/sovctl.fish": "sovctl.fish",
}


def call(argv: Sequence[str | Path], **env: str) -> str:
    """Without what pip of this machine may be told, and without a package index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "SOVCTL_"))}
    kept |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", **env}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=kept, cwd="/", check=False)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves its traces beside what it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in ("sovctl", "plugins", "completions", "man"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    call([*PIP, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={source}/dist", source])
    [built] = (source / "dist").glob("*.whl")
    return built


def in_a_venv(wheel: Path, place: Path) -> tuple[list[str], dict[str, str]]:
    """Its own Python, which borrows the libraries that sovctl needs from the one that runs the tests."""
    call([sys.executable, "-m", "venv", "--without-pip", place])
    call([*PIP, f"--python={place}/bin/python", "install", "--no-deps", wheel])
    [packages] = place.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return [f"{place}/bin/sovctl"], {}


def below_a_prefix(wheel: Path, place: Path) -> tuple[list[str], dict[str, str]]:
    """As below /usr/local or ~/.local: libraries and `share` are not where this Python has its own."""
    call([*PIP, "install", "--no-deps", "--ignore-installed", "--no-warn-script-location", f"--prefix={place}", wheel])
    [package] = place.glob("**/sovctl/__init__.py")
    return [sys.executable, f"{place}/bin/sovctl"], {"PYTHONPATH": str(package.parents[1])}


@pytest.mark.parametrize("how", [in_a_venv, below_a_prefix])
def test_what_pip_installs_is_whole(wheel: Path, tmp_path: Path, how: Any) -> None:
    place, root = tmp_path / "place", tmp_path / "root"
    program, env = how(wheel, place)
    where = call([*program, "--version"], **env)
    assert where.strip()
    argv = [*program, "site", "install", *ROLES, "--root", str(root), "--json"]
    spank = tmp_path / "built.so"
    spank.write_bytes(b"\x7fELF of this Slurm")
    deeds = {file["path"]: file["deed"] for file in json.loads(call([*argv, "--spank", str(spank)], **env))["files"]}
    assert set(deeds.values()) == {"create"}

    unit = (root / "etc/systemd/system/sovctl-watch.service").read_text("utf-8")
    started = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).partition("=")[2]
    places = Places(
        "/usr/local", "/etc/slurm", started.partition(" watch")[0], program[0].replace("bin/sovctl", "bin/python")
    )
    assert str(place) in places.sovctl
    for piece in pieces_for(Role, spank=True):
        if piece.source != "toml":
            source = spank if piece.source == "spank" else ROOT / "plugins" / piece.source
            expected = wanted(piece, source.read_bytes(), places)
            assert (root / expected.path[1:]).read_bytes() == expected.data, piece.source
            assert deeds.pop(expected.path) == "create"
    assert set(deeds) == {"/etc/sovctl/sovctl.toml"}

    share = place / "share"
    for page in (ROOT / "man").iterdir():
        assert (share / f"man/man{page.suffix[1:]}" / page.name).read_bytes() == page.read_bytes()
    for path, name in COMPLETIONS.items():
        assert (share / path).read_bytes() == (ROOT / "completions" / name).read_bytes()
    built_from = {path.name for path in (ROOT / "plugins/spank").iterdir() if path.is_file()}
    assert {path.name for path in (share / "sovctl/plugins/spank").iterdir()} == built_from
