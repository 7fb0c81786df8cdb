"""A burn-in in a process of its own, with a deadline; and the site's file of what accelerators computed before."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from sovctl.adapters.command import Child, spawn
from sovctl.adapters.node.verdict_file import read_trusted, replace_json
from sovctl.errors import CommandMissing
from sovctl.model.burn_in import BurnInRun, BurnInSpec, DeviceAnswer

_POLL_S = 0.05
_LARGEST_ANSWER = 1024 * 1024
_LAST_WORDS = 200
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # NVML's order, so that an index means the same GPU.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # Count GPUs without touching them: the ranks are forked afterwards.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # cuBLAS repeats itself to the last bit only with a workspace of its own.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
}
"""All there is: what the job or the administrator had in theirs must not change the answer."""


class TorchBurnIn:
    """`BurnInWork` with any Python that has torch."""

    def __init__(self, program: Path, python: str = "") -> None:
        """`program`: sovctl/train/burn_in.py; `python` empty: the one that runs sovctl."""
        self._argv = [python or sys.executable, "-I", str(program)]

    def run(self, spec: BurnInSpec, stop: Callable[[], str]) -> BurnInRun:
        at = time.time()
        order = json.dumps({"piece": spec.piece, "seconds": spec.seconds, "device": spec.device})
        with tempfile.TemporaryFile() as said:
            try:
                child = spawn([*self._argv, order], env=_ENVIRONMENT, cwd=Path("/"), stdout=said)
            except CommandMissing:
                return BurnInRun(spec.piece, at, absent=f"there is no Python {self._argv[0]} (burn_in.python)")
            interrupted, problem = _await(child, spec.timeout_s, stop)
            return _run(spec, at, _lines(said), interrupted, problem)


class ReferenceFile:
    """`References` in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Any:
        return read_trusted(self._path)

    def save(self, record: dict[str, Any]) -> None:
        replace_json(self._path, record)


def _await(child: Child, timeout_s: float, stop: Callable[[], str]) -> tuple[str, str]:
    """(why it was ended early, why it broke); one that cannot be killed is left behind."""
    deadline = time.monotonic() + timeout_s
    while child.poll() is None:
        why = stop()
        if not why and time.monotonic() < deadline:
            child.wait(_POLL_S)
            continue
        child.kill_group()
        child.wait(1.0)
        return why, "" if why else f"no answer within {timeout_s:g} s"
    status = child.poll()
    return "", f"it ended with status {status}" if status else ""


def _lines(said: IO[bytes]) -> list[str]:
    said.seek(0)
    return said.read(_LARGEST_ANSWER).decode("utf-8", "replace").splitlines()


def _run(spec: BurnInSpec, at: float, lines: list[str], interrupted: str, problem: str) -> BurnInRun:
    setup: dict[str, Any] = {}
    devices: list[DeviceAnswer] = []
    absent, unit, other = "", "", ""
    for line in lines:
        try:
            message = json.loads(line)
            if "setup" in message:
                setup = dict(message["setup"])
            elif "absent" in message:
                absent = str(message["absent"])
            else:
                unit = str(message.pop("unit", unit))
                devices.append(DeviceAnswer(**message))
        except (ValueError, TypeError):
            other = line.strip() or other
    if problem and other and not interrupted:
        problem = f"{problem}: {other[:_LAST_WORDS]}"
    return BurnInRun(
        piece=spec.piece,
        at=at,
        torch=str(setup.get("torch", "")),
        runtime=str(setup.get("runtime", "")),
        device=spec.device,
        count=int(setup.get("count", 0)),
        size=int(setup.get("size", 0)),
        unit=unit,
        devices=tuple(sorted(devices, key=lambda device: device.rank)),
        absent=absent,
        interrupted=interrupted,
        problem=problem,
    )
