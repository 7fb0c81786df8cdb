"""Simulated GPUs of one lab node: the NVML library under the real binding, its state file, and the kernel log.

Files of a node, in `<lab>/nodes/<node>/`: `nvml.state` (read by lab/nvml/libnvidia-ml.c), `kmsg` (records as
/dev/kmsg gives them) and `boot_id`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.errors import SovctlError, UsageError

NVML_SOURCE = Path(__file__).parent / "nvml" / "libnvidia-ml.c"
NVML_NAME = "libnvidia-ml.so.1"
_COMPILE_TIMEOUT_S = 60.0
_ECC_CODES = frozenset({48, 94, 95, 140, 171, 172})
_KERNEL_ERROR = 3
"""Priority of facility 0 (kernel), level 3 (error): as the driver logs faults."""
_TAIL_BYTES = 64 * 1024


def build_nvml(lib_dir: Path, runner: CommandRunner) -> Path:
    """Compile the simulated library into `lib_dir` when it is missing or older than its source; returns its path.

    Raises SovctlError without a C compiler.
    """
    library = lib_dir / NVML_NAME
    if library.exists() and library.stat().st_mtime >= NVML_SOURCE.stat().st_mtime:
        return library
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise SovctlError("there is no C compiler for the simulated GPUs", hint="apt-get install gcc libc6-dev")
    lib_dir.mkdir(parents=True, exist_ok=True)
    # Under another name first: a node that loads the library meanwhile must not map half of it.
    with tempfile.TemporaryDirectory(dir=lib_dir) as scratch:
        built = Path(scratch) / NVML_NAME
        flags = ["-O2", "-Wall", "-Wextra", "-shared", "-fPIC", f"-Wl,-soname,{NVML_NAME}", "-pthread"]
        runner.run([compiler, *flags, "-o", str(built), str(NVML_SOURCE)], timeout_s=_COMPILE_TIMEOUT_S)
        built.rename(library)
    return library


def write_healthy_state(path: Path, node: str, gpus: int) -> None:
    """The state of a node on which nothing is wrong; identities depend on the node's name only."""
    lines = {"driver_version": "580.95.05", "nvml_version": "13.580.95.05", "cuda_driver_version": "13000"}
    for index in range(gpus):
        lines |= {f"gpu{index}.{key}": value for key, value in _healthy_gpu(node, index).items()}
    _replace(path, lines)


def read_state(path: Path) -> dict[str, str]:
    """Every `key=value` of a state file."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise SovctlError(f"cannot read the simulated GPUs {path}: {error.strerror}", hint="sovctl lab up") from error
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def update_state(path: Path, /, **changes: object) -> None:
    """Change values (`**{"gpu5.present": 0}`); None takes the key out, so that NVML says "not supported"."""
    with _locked(path.with_name(f".{path.name}.lock")):
        state = read_state(path)
        for key, value in changes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = str(value)
        _replace(path, state)


def append_kernel_line(path: Path, text: str, *, priority: int = _KERNEL_ERROR, since_boot_s: float = -1.0) -> int:
    """Write one record as /dev/kmsg shows it and return its sequence number; -1: stamped with the machine's uptime."""
    stamp_us = int((time.monotonic() if since_boot_s < 0 else since_boot_s) * 1e6)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        sequence = _last_sequence(descriptor) + 1
        os.write(descriptor, f"{priority},{sequence},{stamp_us},-;".encode() + _escape(text) + b"\n")
    finally:
        os.close(descriptor)
    return sequence


def write_boot_id(path: Path) -> None:
    """A new boot of the simulated node."""
    path.write_text(f"{uuid.uuid4()}\n", "ascii")


def xid_line(code: int, pci: str, pid: int | None = None, name: str = "", detail: str = "") -> str:
    """An XID as the NVIDIA driver writes it; `pci` as the kernel prints it (`0000:0f:00`)."""
    process = f"pid={pid}, name={name}" if pid is not None else "pid='<unknown>', name=<unknown>"
    return f"NVRM: Xid (PCI:{pci}): {code}, {process}, {detail or _XID_DETAILS.get(code, 'Ch 00000008')}"


def fell_off_the_bus_lines(pci: str, serial: str) -> list[str]:
    """All the driver writes with XID 79, in its order."""
    return [
        xid_line(79, pci),
        f"NVRM: GPU {pci}.0: GPU has fallen off the bus.",
        f"NVRM: GPU {pci}.0: GPU serial number is {serial}.",
        "NVRM: A GPU crash dump has been created. If possible, please run\n"
        "NVRM: nvidia-bug-report.sh as root to collect this data before\n"
        "NVRM: the NVIDIA kernel module is unloaded.",
    ]


def inject_xid(node_dir: Path, code: int, gpu: int) -> None:
    """One fault of the driver: NVML shows its effect first, then the kernel line, as on a real node."""
    state_path = node_dir / "nvml.state"
    pci, serial = _identity(state_path, gpu)
    effect = _xid_effect(code, gpu, read_state(state_path))
    if effect:
        update_state(state_path, **effect)
    lines = fell_off_the_bus_lines(pci, serial) if code == 79 else [xid_line(code, pci)]
    for line in lines:
        append_kernel_line(node_dir / "kmsg", line)


def inject_ecc_uncorrectable(node_dir: Path, gpu: int) -> None:
    """An uncorrectable memory error that only the counters show."""
    path = node_dir / "nvml.state"
    _identity(path, gpu)
    update_state(path, **_ecc_effect(gpu, read_state(path)))


def _xid_effect(code: int, gpu: int, state: dict[str, str]) -> dict[str, object]:
    if code == 79:
        return {f"gpu{gpu}.present": 0}
    if code == 63:
        return {f"gpu{gpu}.remap_pending": 1, f"gpu{gpu}.remapped_rows_uncorrected": 1}
    if code == 64:
        return {f"gpu{gpu}.remap_failed": 1}
    if code == 74:
        return {f"gpu{gpu}.nvlink0.active": 0}
    return _ecc_effect(gpu, state) if code in _ECC_CODES else {}


def _ecc_effect(gpu: int, state: dict[str, str]) -> dict[str, object]:
    keys = (f"gpu{gpu}.ecc_volatile_uncorrected", f"gpu{gpu}.ecc_aggregate_uncorrected")
    return {key: int(state.get(key, "0")) + 1 for key in keys}


def _identity(state_path: Path, gpu: int) -> tuple[str, str]:
    """(PCI address as the kernel prints it, serial) of a simulated GPU."""
    state = read_state(state_path)
    bus_id = state.get(f"gpu{gpu}.pci_bus_id")
    if bus_id is None:
        count = sum(1 for key in state if key.endswith(".uuid"))
        raise UsageError(
            f"the node {state_path.parent.name} has no GPU {gpu}", hint=f"Name one of 0 to {count - 1} with --gpu."
        )
    return bus_id.lower()[4:].rpartition(".")[0], state.get(f"gpu{gpu}.serial", "0")


def _healthy_gpu(node: str, index: int) -> dict[str, str]:
    digest = hashlib.sha256(f"{node}/{index}".encode()).hexdigest()
    jitter = int(digest[:4], 16)
    return {
        "uuid": f"GPU-{digest[0:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}",
        "serial": f"165{int(digest[32:42], 16) % 10**10:010d}",
        "name": "NVIDIA B200",
        "present": "1",
        "vbios_version": "97.00.82.00.21",
        "inforom_version": "G525.0220.00.03",
        "part_number": "900-2G525-0220-000",
        "pci_bus_id": f"00000000:{0x0F + 0x11 * index % 0xE0:02X}:00.0",
        "temperature_c": str(34 + jitter % 9),
        "power_mw": str(142000 + jitter % 9000),
        "power_limit_mw": "1000000",
        "energy_mj": str(10**9 + jitter),
        "graphics_clock_mhz": "1965",
        "graphics_clock_max_mhz": "1965",
        "sm_clock_mhz": "1965",
        "sm_clock_max_mhz": "1965",
        "memory_clock_mhz": "3996",
        "memory_clock_max_mhz": "3996",
        "video_clock_mhz": "1545",
        "video_clock_max_mhz": "1545",
        "utilization_percent": "0",
        "memory_utilization_percent": "0",
        "memory_total": str(183359 * 2**20),
        "memory_used": str(4 * 2**20),
        "ecc_mode": "1",
        "persistence_mode": "1",
        "mig_mode": "0",
        "ecc_volatile_corrected": "0",
        "ecc_volatile_uncorrected": "0",
        "ecc_aggregate_corrected": str(jitter % 3),
        "ecc_aggregate_uncorrected": "0",
        "remapped_rows_corrected": "0",
        "remapped_rows_uncorrected": "0",
        "remap_pending": "0",
        "remap_failed": "0",
        "recovery_action": "0",
        "nvlink_count": "18",
        "pcie_generation": "5",
        "pcie_generation_max": "5",
        "pcie_width": "16",
        "pcie_width_max": "16",
        "pcie_replays": "0",
        "clocks_event_reasons": "0x1",
        "processes": "",
    }


def _replace(path: Path, state: dict[str, str]) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o644)
        stream.writelines(f"{key}={value}\n" for key, value in state.items())
    Path(temporary).rename(path)


class _locked:
    """Two injections at once must not lose each other's change."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _last_sequence(descriptor: int) -> int:
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    for line in reversed(tail.split(b"\n")):
        fields = line.split(b";", 1)[0].split(b",")
        if len(fields) >= 4 and fields[1].isdigit():
            return int(fields[1])
    return -1


def _escape(text: str) -> bytes:
    """As the kernel does: what is not printable ASCII, and the backslash itself, becomes `\\xNN`."""
    return b"".join(
        bytes([byte]) if 32 <= byte < 127 and byte != 0x5C else b"\\x%02x" % byte for byte in text.encode("utf-8")
    )


_XID_DETAILS = {
    13: "Graphics SM Warp Exception on (GPC 2, TPC 1, SM 0): Out Of Range Address",
    31: "Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x7f2a_00000000. "
    "Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
    43: "Ch 00000008",
    45: "Ch 00000010",
    48: "An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at partition 4, "
    "subpartition 1.",
    63: "Row Remapper: New row (0x00000000023a5c3f) marked for remapping, reset gpu to activate.",
    64: "Row Remapper: Failed to remap row (0x00000000023a5c3f).",
    74: "NVLink: fatal error detected on link 0(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
    79: "GPU has fallen off the bus.",
    92: "High single-bit ECC error rate",
    94: "Contained: SM (0x1). RST: No, D-RST: No",
    95: "Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
    119: "Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76 (GSP_RM_CONTROL) "
    "(0x20801702 0x8).",
    120: "GSP task exception: Load access fault (cause:0x5) @ pc:0x1a0b2c, partition:4#0, task:1",
    145: "RLW_REMAP Nonfatal XC0 i0 Link 00 (0x00000004 0x00000000 0x00000000 0x00000000 0x00000000 0x00000000)",
    149: "NETIR_LINK_EVT Fatal   XC0 i0 Link 00 (0x004505c6 0x00000000 0x00000000 0x00000000 0x00000000 0x00000000)",
    154: "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
}
