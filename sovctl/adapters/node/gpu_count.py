"""How many GPUs the driver enumerates and which of them it calls lost, without the binding.

For the prolog, where every job waits: importing pynvml and asking each sensor takes longer than everything else there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

from sovctl.adapters.forked import Forked, Nursery
from sovctl.errors import SovctlError
from sovctl.model.gpu import GpuSample

_LIBRARY = "libnvidia-ml.so.1"
_LOST = 15
"""NVML_ERROR_GPU_IS_LOST"""
_BY_HAND = "Is the driver loaded? Try it on this node: nvidia-smi"


class GpuCount:
    """`GpuProbe` that knows index and presence of each GPU and nothing else."""

    def __init__(self, timeout_s: float, library: str = "") -> None:
        self._timeout_s = timeout_s
        self._library = library or _LIBRARY
        self._nursery = Nursery()
        self._child: Forked | None = None

    def read(self) -> tuple[GpuSample, ...]:
        """Raises SovctlError when the library is absent, refuses, or does not answer in time."""
        self.begin()
        return self.collect(self._timeout_s) or ()

    def begin(self) -> None:
        self._child = self._nursery.start(lambda: _count(self._library), self._timeout_s)

    def collect(self, wait_s: float) -> tuple[GpuSample, ...] | None:
        child = self._child
        if child is None or not (child.receive(wait_s) or child.overdue):
            return None
        self._child = None
        self._nursery.end(child)
        messages = child.messages()
        if not messages:
            raise SovctlError(f"NVML gave no answer within {self._timeout_s:g} s", hint=_BY_HAND)
        if "fatal" in messages[-1]:
            raise SovctlError(f"NVML cannot be used: {messages[-1]['fatal']}", hint=_BY_HAND)
        return tuple(_sample(index, status) for index, status in enumerate(messages[-1]["statuses"]))


def _sample(index: int, status: int) -> GpuSample:
    error = "GPU is lost" if status == _LOST else f"status {status}" if status else ""
    return GpuSample(index, "", None, "", "", lost=status == _LOST, error=error)


def _count(library: str) -> Iterator[dict[str, Any]]:
    nvml = ctypes.CDLL(library)
    status = nvml.nvmlInit_v2()
    if status:
        yield {"fatal": f"nvmlInit: status {status}"}
        return
    count = ctypes.c_uint()
    status = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    if status:
        yield {"fatal": f"nvmlDeviceGetCount: status {status}"}
        return
    handle = ctypes.c_void_p()
    yield {
        "statuses": [
            nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle))
            for index in range(count.value)
        ]
    }
