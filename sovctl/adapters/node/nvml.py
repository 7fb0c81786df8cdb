"""NVIDIA GPUs through NVML (the `pynvml` module of nvidia-ml-py), read in a forked child with a deadline (forked.py).

The child writes one line a GPU, so that a driver that hangs on one leaves the others known.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from sovctl.adapters.forked import Forked, Nursery
from sovctl.errors import SovctlError
from sovctl.model.gpu import GpuSample

_NVLINK_ERRORS = (0, 1, 2, 3)
"""NVML's counters replay, recovery, CRC flit, CRC data."""
_RECOVERY_ACTION_FIELD = 230
"""NVML_FI_DEV_GET_GPU_RECOVERY_ACTION; not named in every release of the binding."""


class NvmlUnavailable(SovctlError):
    """The driver's library is absent, refuses to start, or does not answer."""

    def __init__(self, problem: str, hint: str = "Is the driver loaded? Try it on this node: nvidia-smi") -> None:
        super().__init__(f"NVML {problem}", hint=hint)


class NvmlProbe:
    """`GpuProbe` on NVML."""

    def __init__(self, timeout_s: float, library: str = "") -> None:
        """`library`: path of libnvidia-ml.so.1 where the loader does not find it by itself."""
        self._timeout_s = timeout_s
        self._library = library
        self._reading: Forked | None = None
        self._nursery = Nursery()

    def read(self) -> tuple[GpuSample, ...]:
        """Raises NvmlUnavailable. A GPU on which the driver hangs comes back with `error`, those behind it too."""
        self.begin()
        samples = self.collect(self._timeout_s + 1.0)
        assert samples is not None, "collect() ends at its own deadline"
        return samples

    def begin(self) -> None:
        """Nothing happens while an earlier reading goes on."""
        if self._reading is not None:
            return
        _load_binding()
        self._reading = self._nursery.start(lambda: _read_gpus(self._library), self._timeout_s)

    def collect(self, wait_s: float) -> tuple[GpuSample, ...] | None:
        reading = self._reading
        if reading is None or not (reading.receive(wait_s) or reading.overdue):
            return None
        self._reading = None
        self._nursery.end(reading)
        return _samples(reading.messages(), reading.ended, self._timeout_s)


def _load_binding() -> None:
    """In the parent, so that a watcher pays for the import once and not in each child."""
    try:
        import pynvml  # noqa: F401
    except ImportError as error:
        raise NvmlUnavailable("cannot be used: the module pynvml is missing", "pip install nvidia-ml-py") from error


def _samples(messages: list[dict[str, Any]], ended: bool, timeout_s: float) -> tuple[GpuSample, ...]:
    count: int | None = None
    samples: dict[int, GpuSample] = {}
    for message in messages:
        if "fatal" in message:
            raise NvmlUnavailable(str(message["fatal"]))
        if "count" in message:
            count = int(message["count"])
        else:
            sample = GpuSample(**{**message, "process_ids": tuple(message["process_ids"])})
            samples[sample.index] = sample
    if count is None:
        raise NvmlUnavailable("ended without an answer" if ended else f"gave no answer within {timeout_s:g} s")
    missing = [index for index in range(count) if index not in samples]
    for position, index in enumerate(missing):
        said = f"NVML gave no answer within {timeout_s:g} s" if not ended else "the reader of NVML died"
        if position:
            said = f"not read: {said} on GPU {missing[0]}"
        samples[index] = GpuSample(index, "", None, "", "", error=said)
    return tuple(samples[index] for index in sorted(samples))


def _read_gpus(library: str) -> Iterator[dict[str, Any]]:
    """In the child: first the count, then one message a GPU."""
    import pynvml

    try:
        if library:
            # The binding asks the loader for `libnvidia-ml.so.1`; one that is loaded already under this name is taken.
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except (pynvml.NVMLError, OSError) as error:
        yield {"fatal": f"cannot be used: {error}"}
        return
    yield {"count": count}
    for index in range(count):
        yield asdict(_read_gpu(pynvml, index))


def _read_gpu(nvml: Any, index: int) -> GpuSample:
    """One GPU; an error on it is part of the answer."""
    uuid = serial = name = bus_id = ""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = str(nvml.nvmlDeviceGetUUID(handle))
        bus_id = str(nvml.nvmlDeviceGetPciInfo(handle).busId)
        name = str(nvml.nvmlDeviceGetName(handle))
        serial = _ask(nvml, nvml.nvmlDeviceGetSerial, handle) or ""
        values = _sensors(nvml, handle) | _memory_health(nvml, handle) | _links(nvml, handle) | _setup(nvml, handle)
        return GpuSample(index, uuid, serial or None, name, bus_id, **values)
    except nvml.NVMLError as error:
        lost = getattr(error, "value", None) in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_GPU_NOT_FOUND)
        return GpuSample(index, uuid, serial or None, name, bus_id, lost=lost, error=str(error) or "unknown error")


def _ask(nvml: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """The value, or None where this GPU or this driver has no such value; other errors are the GPU's."""
    try:
        return call(*arguments)
    except nvml.NVMLError as error:
        # A library older than the binding lacks the symbol, one newer may refuse an old structure.
        absent = (
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_INVALID_ARGUMENT,
        )
        if getattr(error, "value", None) in absent:
            return None
        raise


def _sensors(nvml: Any, handle: Any) -> dict[str, Any]:
    power_mw = _ask(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    utilization = _ask(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    processes = _ask(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
    return {
        "temperature_c": _temperature(nvml, handle),
        "power_w": None if power_mw is None else power_mw / 1000,
        "sm_clock_mhz": _ask(nvml, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": _ask(nvml, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
        "utilization_percent": None if utilization is None else int(utilization.gpu),
        "throttle_reasons": _ask(nvml, nvml.nvmlDeviceGetCurrentClocksEventReasons, handle),
        "process_ids": tuple(int(process.pid) for process in processes),
    }


def _setup(nvml: Any, handle: Any) -> dict[str, Any]:
    limit_mw = _ask(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    persistence = _ask(nvml, nvml.nvmlDeviceGetPersistenceMode, handle)
    return {
        "sm_clock_max_mhz": _ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
        "power_limit_w": None if limit_mw is None else limit_mw / 1000,
        "persistence_mode": None if persistence is None else bool(persistence),
        "driver_version": _ask(nvml, nvml.nvmlSystemGetDriverVersion),
        "vbios_version": _ask(nvml, nvml.nvmlDeviceGetVbiosVersion, handle),
        "inforom_version": _ask(nvml, nvml.nvmlDeviceGetInforomImageVersion, handle),
    }


def _temperature(nvml: Any, handle: Any) -> Any:
    """Drivers before 560 have only the old call, and the binding is about to drop that."""
    sensor = nvml.NVML_TEMPERATURE_GPU
    value = _ask(nvml, nvml.nvmlDeviceGetTemperatureV, handle, sensor)
    return value if value is not None else _ask(nvml, nvml.nvmlDeviceGetTemperature, handle, sensor)


def _memory_health(nvml: Any, handle: Any) -> dict[str, Any]:
    corrected, uncorrected = nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    total = nvml.nvmlDeviceGetTotalEccErrors
    rows = _ask(nvml, nvml.nvmlDeviceGetRemappedRows, handle)
    return {
        "ecc_volatile_uncorrected": _ask(nvml, total, handle, uncorrected, nvml.NVML_VOLATILE_ECC),
        "ecc_volatile_corrected": _ask(nvml, total, handle, corrected, nvml.NVML_VOLATILE_ECC),
        "ecc_aggregate_uncorrected": _ask(nvml, total, handle, uncorrected, nvml.NVML_AGGREGATE_ECC),
        "ecc_aggregate_corrected": _ask(nvml, total, handle, corrected, nvml.NVML_AGGREGATE_ECC),
        "remapped_rows_uncorrected": None if rows is None else int(rows[1]),
        "remap_pending": None if rows is None else bool(rows[2]),
        "remap_failed": None if rows is None else bool(rows[3]),
        "recovery_action": _recovery_action(nvml, handle),
    }


def _recovery_action(nvml: Any, handle: Any) -> int | None:
    fields = _ask(nvml, nvml.nvmlDeviceGetFieldValues, handle, [_RECOVERY_ACTION_FIELD])
    return int(fields[0].value.uiVal) if fields is not None and fields[0].nvmlReturn == nvml.NVML_SUCCESS else None


def _links(nvml: Any, handle: Any) -> dict[str, Any]:
    active, inactive, errors = _nvlinks(nvml, handle)
    return {
        "nvlinks_active": active,
        "nvlinks_inactive": inactive,
        "nvlink_errors": errors,
        "pcie_generation": _ask(nvml, nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        "pcie_generation_max": _ask(nvml, nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        "pcie_replays": _ask(nvml, nvml.nvmlDeviceGetPcieReplayCounter, handle),
        "pcie_width": _ask(nvml, nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        "pcie_width_max": _ask(nvml, nvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
    }


def _nvlinks(nvml: Any, handle: Any) -> tuple[int | None, int | None, int | None]:
    """(active, inactive, errors of all); None without NVLink. The first link that does not exist ends the list."""
    states: list[int] = []
    errors: list[int] = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        state = _ask(nvml, nvml.nvmlDeviceGetNvLinkState, handle, link)
        if state is None:
            break
        states.append(int(state))
        counts = [_ask(nvml, nvml.nvmlDeviceGetNvLinkErrorCounter, handle, link, kind) for kind in _NVLINK_ERRORS]
        errors += [int(count) for count in counts if count is not None]
    if not states:
        return None, None, None
    active = sum(1 for state in states if state)
    return active, len(states) - active, sum(errors) if errors else None
