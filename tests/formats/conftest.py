"""Checkpoints that the real libraries saved, once a session; each test gets its own copy to damage."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from ports import free_ports

from sovctl.lab.cluster import PortClaims

WRITER = Path(__file__).with_name("write_layouts.py")
GROUPS = {
    "torch": ("dcp", "megatron_legacy", "neuronx"),
    "torchtitan": ("torchtitan",),
    "megatron": ("megatron", "nemo"),
    "deepspeed": ("deepspeed_1", "deepspeed_3"),
    "lightning": ("lightning", "lightning_sharded"),
    "transformers": ("hf_trainer", "safetensors", "safetensors_single", "accelerate"),
    "nvidia_resiliency_ext": ("nvrx",),
}
"""Library -> layouts that one process saves with it."""
AGE_S = 3600


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the directory that a library saved a layout into; skips where the library is not installed."""
    root = tmp_path_factory.mktemp("saved")

    def find(layout: str) -> Path:
        library = next(name for name, layouts in GROUPS.items() if layout in layouts)
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed; make test installs it")
        if not (root / layout).exists():
            _save(root, library)
        return root / layout / "checkpoints"

    return find


@pytest.fixture
def shelf(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a layout, its files an hour old, so that no writer is suspected."""

    def copy(layout: str) -> Path:
        place = tmp_path / "checkpoints"
        shutil.copytree(saved(layout), place)
        age(place, AGE_S)
        return place

    return copy


def age(place: Path, seconds: float) -> None:
    """Shift the times of every file and folder into the past, their order kept."""
    for path in [place, *place.rglob("*")]:
        found = path.lstat()
        shifted = found.st_mtime_ns - int(seconds * 1e9)
        os.utime(path, ns=(shifted, shifted), follow_symlinks=False)


def _save(root: Path, library: str) -> None:
    words: list[str] = []
    for layout in GROUPS[library]:
        (root / layout / "checkpoints").mkdir(parents=True)
        words += [layout, str(root / layout / "checkpoints")]
    said = root / f"{library}.log"
    # Not a pipe: helper processes of a library may outlive it, and would keep a pipe open.
    with said.open("wb") as log, PortClaims() as claims:
        (port,) = free_ports(1, claims)
        child = subprocess.Popen(
            [sys.executable, str(WRITER), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "MASTER_PORT": str(port)},
        )
        try:
            status = child.wait(timeout=150)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    assert status == 0, f"{library} could not save:\n{said.read_text('utf-8', 'replace')[-3000:]}"
