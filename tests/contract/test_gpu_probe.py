"""The GPU probe against the simulated library through the real binding, and against a real GPU where there is one.

Each reading runs in a process of its own: the loader looks for the library where LD_LIBRARY_PATH pointed at its start.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sovctl.adapters.command import CommandRunner
from sovctl.errors import SovctlError
from sovctl.lab.gpus import build_nvml, inject_ecc_uncorrectable, inject_xid, update_state, write_healthy_state

READ = """
import dataclasses, json, sys, time
from sovctl.adapters.node.nvml import NvmlProbe, NvmlUnavailable
began = time.monotonic()
try:
    gpus = NvmlProbe(float(sys.argv[1]), sys.argv[2]).read()
    print(json.dumps({"gpus": [dataclasses.asdict(gpu) for gpu in gpus], "seconds": time.monotonic() - began}))
except NvmlUnavailable as error:
    print(json.dumps({"error": error.message, "seconds": time.monotonic() - began}))
"""
RAW = """
import json, pynvml as n
n.nvmlInit()
h = n.nvmlDeviceGetHandleByIndex(1)
pci = n.nvmlDeviceGetPciInfo(h)
print(json.dumps({
    "driver": n.nvmlSystemGetDriverVersion(), "nvml": n.nvmlSystemGetNVMLVersion(),
    "same": [n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByPciBusId("0000" + pci.busId[8:])) == n.nvmlDeviceGetUUID(h),
             n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(h))) == 1],
    "pci": [pci.busId, pci.busIdLegacy, pci.domain, pci.bus],
    "memory": [n.nvmlDeviceGetMemoryInfo(h).total, n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2).total],
    "temperature": [n.nvmlDeviceGetTemperature(h, 0), n.nvmlDeviceGetTemperatureV(h, 0)],
    "ecc": n.nvmlDeviceGetEccMode(h), "persistence": n.nvmlDeviceGetPersistenceMode(h),
    "vbios": n.nvmlDeviceGetVbiosVersion(h), "minor": n.nvmlDeviceGetMinorNumber(h),
    "processes": [[p.pid, p.usedGpuMemory] for p in n.nvmlDeviceGetComputeRunningProcesses(h)],
    "throttle": n.nvmlDeviceGetCurrentClocksThrottleReasons(h),
}))
n.nvmlShutdown()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("no C compiler")
    directory = tmp_path_factory.mktemp("lib")
    built = build_nvml(directory, CommandRunner())
    assert build_nvml(directory, CommandRunner()).stat().st_mtime_ns == built.stat().st_mtime_ns, "built once"
    return built


@pytest.fixture
def node(tmp_path: Path) -> Path:
    directory = tmp_path / "nodes" / "n003"
    directory.mkdir(parents=True)
    write_healthy_state(directory / "nvml.state", "n003", 8)
    return directory


def python(code: str, *arguments: str, library: Path | None, node: Path) -> Any:
    env = {**os.environ, "SOVCTL_LAB_DIR": str(node.parent.parent), "SOVCTL_LAB_NODE": node.name}
    env.pop("SOVCTL_LAB_NVML_STATE", None)
    env["LD_LIBRARY_PATH"] = str(library.parent) if library else "/nonexistent"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def read(library: Path | None, node: Path, timeout_s: float = 10.0, named: str = "") -> Any:
    return python(READ, str(timeout_s), named, library=library, node=node)


def test_a_healthy_node(library: Path, node: Path) -> None:
    gpus = read(library, node)["gpus"]
    assert len(gpus) == 8
    assert len({gpu["uuid"] for gpu in gpus}) == len({gpu["serial"] for gpu in gpus}) == 8
    assert len({gpu["pci_bus_id"] for gpu in gpus}) == 8
    sixth = gpus[5]
    assert (sixth["index"], sixth["name"], sixth["error"], sixth["lost"]) == (5, "NVIDIA B200", "", False)
    assert sixth["nvlinks_active"] == 18 and sixth["nvlinks_inactive"] == 0 and sixth["nvlink_errors"] == 0
    assert sixth["ecc_volatile_uncorrected"] == 0 and sixth["remap_failed"] is False
    assert 20 < sixth["temperature_c"] < 60 and 100 < sixth["power_w"] < 200
    assert all(sixth[key] is not None for key in sixth)


def test_every_other_call_of_the_binding(library: Path, node: Path) -> None:
    update_state(node / "nvml.state", **{"gpu1.processes": "4711:1073741824,4712:5"})
    raw = python(RAW, library=library, node=node)
    assert raw["same"] == [True, True]
    assert raw["pci"] == ["00000000:20:00.0", "0000:20:00.0", 0, 0x20]
    assert raw["memory"] == [183359 * 2**20] * 2
    assert raw["temperature"][0] == raw["temperature"][1]
    assert raw["processes"] == [[4711, 1073741824], [4712, 5]]
    assert (raw["driver"], raw["ecc"], raw["persistence"], raw["minor"]) == ("580.95.05", [1, 1], 1, 1)


def test_a_value_the_gpu_lacks_is_none(library: Path, node: Path) -> None:
    missing = ["serial", "nvlink_count", "remap_pending", "ecc_volatile_uncorrected", "power_mw", "recovery_action"]
    update_state(node / "nvml.state", **{f"gpu0.{key}": None for key in missing})
    first = read(library, node)["gpus"][0]
    assert first["error"] == ""
    for key in ("serial", "nvlinks_active", "nvlink_errors", "remap_failed", "power_w", "recovery_action"):
        assert first[key] is None
    assert first["ecc_volatile_uncorrected"] is None and first["temperature_c"] is not None


def test_a_gpu_that_vanishes(library: Path, node: Path) -> None:
    before = [gpu["uuid"] for gpu in read(library, node)["gpus"]]
    inject_xid(node, 79, 5)
    after = [gpu["uuid"] for gpu in read(library, node)["gpus"]]
    assert after == before[:5] + before[6:]
    assert "79, pid='<unknown>'" in (node / "kmsg").read_text()


def test_a_gpu_that_is_lost(library: Path, node: Path) -> None:
    update_state(node / "nvml.state", **{"gpu5.lost": 1})
    gpus = read(library, node)["gpus"]
    assert len(gpus) == 8
    assert [(gpu["index"], gpu["lost"]) for gpu in gpus if gpu["error"]] == [(5, True)]
    assert "lost" in gpus[5]["error"].lower()


def test_injected_memory_errors(library: Path, node: Path) -> None:
    inject_ecc_uncorrectable(node, 2)
    inject_xid(node, 64, 3)
    inject_xid(node, 63, 4)
    gpus = read(library, node)["gpus"]
    assert [gpu["ecc_volatile_uncorrected"] for gpu in gpus] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert gpus[3]["remap_failed"] and gpus[4]["remap_pending"]


def test_a_driver_that_hangs_on_one_gpu(library: Path, node: Path) -> None:
    update_state(node / "nvml.state", **{"gpu2.hang": 1})
    answer = read(library, node, timeout_s=0.6)
    assert answer["seconds"] < 3
    errors = [gpu["error"] for gpu in answer["gpus"]]
    assert errors[:2] == ["", ""] and len(errors) == 8
    assert errors[2] == "NVML gave no answer within 0.6 s"
    assert all(error.startswith("not read") for error in errors[3:])


def test_a_driver_that_hangs_at_once(library: Path, node: Path) -> None:
    update_state(node / "nvml.state", init_hang=1)
    answer = read(library, node, timeout_s=0.3)
    assert answer["error"] == "NVML gave no answer within 0.3 s"
    assert answer["seconds"] < 3


def test_no_library_and_no_driver(library: Path, node: Path) -> None:
    assert "cannot be used" in read(None, node)["error"]
    assert "cannot be used" in read(None, node, named="/nonexistent/libnvidia-ml.so.1")["error"]
    (node / "nvml.state").unlink()
    assert "Driver Not Loaded" in read(library, node)["error"]


def test_a_library_that_is_named(library: Path, node: Path) -> None:
    assert len(read(None, node, named=str(library))["gpus"]) == 8


@pytest.mark.parametrize(
    "content", ["", "\n\n", "gpu0.uuid", "gpu0.uuid=", "=\n=x", "gpu0.uuid=" + "x" * 500, "\0\xff"]
)
def test_a_strange_state_file_is_an_answer_too(library: Path, node: Path, content: str) -> None:
    (node / "nvml.state").write_text(content)
    assert read(library, node).keys() & {"gpus", "error"}


def test_no_compiler_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SovctlError, match="no C compiler") as caught:
        build_nvml(tmp_path / "lib", CommandRunner())
    assert "apt-get install gcc" in caught.value.hint


@pytest.mark.gpu
def test_a_real_gpu() -> None:
    if not Path("/dev/nvidia0").exists():
        pytest.skip("no NVIDIA GPU here")
    from sovctl.adapters.node.nvml import NvmlProbe

    gpus = NvmlProbe(30.0).read()
    assert gpus and all(gpu.uuid.startswith("GPU-") and not gpu.error for gpu in gpus)
