"""Fixtures for every test: a real lab, started once, and the daemons' own words when something fails."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

from sovctl.errors import SovctlError
from sovctl.lab import cluster

settings.register_profile("sovctl", max_examples=50, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "sovctl"))
# No deadline for an example: on a busy machine it would fail for others' work. Each run draws anew, so few add up.

_LABS = pytest.StashKey[list[Path]]()
_TELLING = re.compile("error|fatal|warning", re.IGNORECASE)
_HARMLESS = re.compile("pmix|mpi:", re.IGNORECASE)
"""slurmd complains at each start about MPI plugins that a lab does not need."""
Found = TypeVar("Found")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LABS] = []
    # pytest-xdist names the width of its terminal; what the tests start writes into pipes.
    os.environ.pop("COLUMNS", None)
    with suppress(ImportError):  # without jsonschema only tests/cli/test_json.py has something to say
        import json_schemas

        json_schemas.install()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What needs torch is skipped where there is none (root directories of other Debian releases); what runs one after
    the other when several processes share the tests (pytest-xdist, --dist loadgroup)."""
    if find_spec("torch") is None:
        for item in items:
            if item.get_closest_marker("train"):
                item.add_marker(pytest.mark.skip(reason="torch is not installed"))
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Processes that share a file start its clusters twice, which then meet in what a machine has once (cgroups)."""
    if session.items and getattr(session.config.option, "loadgroup", False) and "@" not in session.items[0].nodeid:
        pytest.exit("this pytest-xdist does not group the tests of this pytest; see pyproject.toml", returncode=2)


def _group(item: pytest.Item) -> str:
    """A file, for its fixtures; a test with a cluster of its own stands alone, but the calm run is done once."""
    fixtures = getattr(item, "fixturenames", ())
    if "undisturbed" in fixtures:
        return "undisturbed"
    return item.nodeid if "story_lab" in fixtures else item.nodeid.partition("::")[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for root in item.config.stash[_LABS]:
            report.sections += [(f"{path.name} of the lab in {root}", words) for path, words in _last_words(root)]
    return report


def _last_words(root: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted((root / "log").glob("*.log")):
        lines = [line for line in path.read_text("utf-8", "replace").splitlines() if not _HARMLESS.search(line)]
        telling = [line for line in lines if _TELLING.search(line)][-15:]
        if path.name == "slurmctld.log":
            telling += ["...", *lines[-15:]]
        if telling:
            yield path, "\n".join(telling)


@pytest.fixture(scope="session")
def attach_logs(pytestconfig: pytest.Config) -> Callable[[Path], None]:
    """Name the directory of a lab, so that a failing test shows what its daemons said."""
    return pytestconfig.stash[_LABS].append


@pytest.fixture(scope="session")
def new_root() -> Iterator[Callable[[], Path]]:
    """Makes short directories that every user can read, for labs; whatever runs there is stopped at the end."""
    made: list[Path] = []

    def make() -> Path:
        root = Path(tempfile.mkdtemp(prefix="sov", dir="/var/tmp"))
        root.chmod(0o755)
        made.append(root)
        return root / "lab"

    yield make
    for root in made:
        # A test may have spoilt the record on purpose, or stopped the lab itself.
        with suppress(SovctlError):
            cluster.down(root / "lab")
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def lab(new_root: Callable[[], Path], attach_logs: Callable[[Path], None]) -> Iterator[cluster.Lab]:
    """Plain Slurm with four nodes: no health checks, no watchers."""
    if shutil.which("slurmctld", path=f"{cluster.SYSTEM_PATH}") is None:
        pytest.skip("Slurm is not installed")
    root = new_root()
    attach_logs(root)
    started = cluster.up(cluster.Request(root, nodes=4, gpus=2, health=False))
    try:
        yield started
    finally:
        cluster.down(root)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """Waits for a state: calls `look` until it gives something true, and returns that."""

    def wait(look: Callable[[], Found], what: str, within_s: float = 30.0) -> Found:
        deadline = time.monotonic() + within_s
        while not (found := look()):
            assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s; last seen: {found!r}"
            time.sleep(0.02)
        return found

    return wait
