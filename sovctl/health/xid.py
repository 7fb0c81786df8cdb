"""What each fault number of the NVIDIA driver means for the node. The one place that knows.

Sources: NVIDIA's "Analyzing XID errors" catalogue (docs.nvidia.com/deploy/xid-errors), the NVSwitch section of the
fabric manager guide for SXids, and operators' reports where these contradict practice; `source` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sovctl.model.verdict import Repair, Severity


class XidClass(StrEnum):
    """What a code says about the node, not about the job."""

    IGNORE = "ignore"
    """Noise, test messages, notices."""
    APP = "app"
    """The program's own mistake; says nothing against the node."""
    SYMPATHETIC = "sympathetic"
    """Clean-up after another fault; never evidence by itself."""
    COUNT = "count"
    """The message calls itself non-fatal: one says nothing, a rising number of them does."""
    WARN = "warn"
    """Worth showing, not enough to act on."""
    SOFT = "soft"
    """The job is over, the node goes on; the GPU wants a reset when it is idle."""
    RESET = "reset"
    """The GPU works again only after a reset: no job may start on it until then."""
    DRAIN = "drain"
    """Needs a reboot or hands on the machine."""
    LINK = "link"
    """NVLink of generation 5 and NVSwitch: the message itself says fatal or non-fatal."""
    ACTION = "action"
    """XID 154: the driver names the recovery, and is believed before anything else."""


@dataclass(frozen=True, slots=True)
class XidMeaning:
    """One row of the catalogue."""

    code: int
    kind: XidClass
    repair: Repair
    meaning: str
    source: str = "nvidia"

    @property
    def severity(self) -> Severity:
        """How much it says against the node; LINK and ACTION are decided by the words of the message."""
        return _SEVERITY[self.kind]


_SEVERITY = {
    XidClass.IGNORE: Severity.INFO,
    XidClass.APP: Severity.INFO,
    XidClass.SYMPATHETIC: Severity.INFO,
    XidClass.COUNT: Severity.INFO,
    XidClass.WARN: Severity.WARN,
    XidClass.SOFT: Severity.WARN,
    XidClass.RESET: Severity.FAIL,
    XidClass.DRAIN: Severity.FAIL,
    XidClass.LINK: Severity.WARN,
    XidClass.ACTION: Severity.WARN,
}


def meaning_of(code: int) -> XidMeaning:
    """The row of a code. One we do not know is shown and never acted on: new drivers add harmless ones."""
    known = CATALOGUE.get(code)
    return known or XidMeaning(code, XidClass.WARN, Repair.NONE, "not in our catalogue", "unknown")


def _rows(kind: XidClass, repair: Repair, rows: dict[int, str], source: str = "nvidia") -> list[XidMeaning]:
    return [XidMeaning(code, kind, repair, meaning, source) for code, meaning in rows.items()]


_APP = _rows(
    XidClass.APP,
    Repair.RESTART_APP,
    {
        13: "graphics engine exception",
        31: "GPU memory page fault",
        43: "GPU stopped processing a channel of the program",
        137: "NVLink privilege error",
    },
)
_SOFT = _rows(
    XidClass.SOFT,
    Repair.RESTART_APP,
    {
        8: "GPU stopped processing (watchdog)",
        11: "invalid or corrupted push buffer stream",
        25: "invalid or illegal push buffer stream",
        32: "invalid or corrupted push buffer stream",
        39: "copy engine 0 exception",
        40: "copy engine 1 exception",
        41: "copy engine 2 exception",
        60: "video processor exception",
        68: "video decoder 0 exception",
        69: "graphics engine class error",
        70: "copy engine 3 error",
        71: "copy engine 4 error",
        72: "copy engine 5 error",
        75: "copy engine 6 error",
        76: "copy engine 7 error",
        77: "copy engine 8 error",
        80: "corrupted data sent to the GPU",
        82: "JPEG decoder 0 error",
        83: "video decoder 1 error",
        84: "video decoder 2 error",
        85: "copy engine 9 error",
        86: "optical flow accelerator exception",
        88: "video decoder 3 error",
        89: "video decoder 4 error",
        94: "contained memory error",
        96: "video decoder 5 error",
        97: "video decoder 6 error",
        98: "video decoder 7 error",
        99: "JPEG decoder 1 error",
        100: "JPEG decoder 2 error",
        101: "JPEG decoder 3 error",
        102: "JPEG decoder 4 error",
        103: "JPEG decoder 5 error",
        104: "JPEG decoder 6 error",
        105: "JPEG decoder 7 error",
        126: "copy engine 10 error",
        127: "copy engine 11 error",
        128: "copy engine 12 error",
        129: "copy engine 13 error",
        130: "copy engine 14 error",
        131: "copy engine 15 error",
        132: "copy engine 16 error",
        133: "copy engine 17 error",
        134: "copy engine 18 error",
        135: "copy engine 19 error",
        139: "optical flow accelerator 1 error",
    },
)
_IGNORE = _rows(
    XidClass.IGNORE,
    Repair.NONE,
    {
        14: "unused",
        37: "driver firmware error",
        38: "driver firmware error",
        44: "graphics engine fault during a context switch",
        66: "illegal access by the driver",
        67: "illegal access by the driver",
        78: "vGPU start error",
        93: "InfoROM wear limit passed, not fatal",
        106: "test message for a SMBPBI client",
        107: "test message for a SMBPBI client, silent",
        108: "NVLink remote translation notice",
        141: "CUDA fast path error",
        152: "DLA memory management error",
        153: "DLA timeout",
    },
)
_SYMPATHETIC = _rows(
    XidClass.SYMPATHETIC,
    Repair.NONE,
    {45: "preemptive cleanup after another fault"},
    "nvidia; seen by the thousand on healthy racks",
)
_WARN = [
    *_rows(
        XidClass.WARN,
        Repair.NONE,
        {
            92: "high rate of corrected memory errors",
            121: "C2C error",
            142: "video encoder 3 error",
            157: "resource retirement failed",
            159: "CHI non-data error",
            160: "memory channel retired",
            161: "memory channel retirement failed",
            162: "power smoothing circuit engaged again",
            163: "power smoothing circuit disengaged",
            164: "power smoothing circuit near the end of its life",
            165: "power smoothing circuit at the end of its life",
            166: "confidential computing: traffic before the link was set up for it",
            170: "confidential computing: unexpected interrupt",
            171: "uncorrectable DRAM error, detail of XID 48",
            173: "C2C fatal link error",
        },
    ),
    XidMeaning(63, XidClass.SOFT, Repair.RESET_GPU, "row remap recorded, active after a reset", "nvidia"),
]
_RESET = _rows(
    XidClass.RESET,
    Repair.RESET_GPU,
    {
        46: "GPU stopped processing",
        48: "double-bit memory error",
        61: "internal micro-controller breakpoint",
        62: "internal micro-controller halt",
        74: "NVLink error",
        95: "uncontained memory error",
        109: "context switch timeout",
        110: "security fault",
        119: "GSP firmware gave no answer",
        120: "GSP firmware error",
        136: "NVLink training failed",
        140: "unrecovered memory error",
        155: "NVLink software-defined error",
        156: "resource retired, active after a reset",
        158: "GPU fatal timeout",
        167: "PCIe fatal timeout",
        169: "security micro-controller halt",
        172: "uncorrectable SRAM error, detail of XID 48",
    },
)
_DRAIN = [
    XidMeaning(54, XidClass.DRAIN, Repair.RMA, "auxiliary power is not connected"),
    XidMeaning(64, XidClass.DRAIN, Repair.RMA, "row remap failed"),
    XidMeaning(79, XidClass.DRAIN, Repair.REBOOT, "GPU has fallen off the bus"),
    XidMeaning(81, XidClass.DRAIN, Repair.RMA, "VGA subsystem error"),
    XidMeaning(143, XidClass.DRAIN, Repair.REBOOT, "GPU initialisation failed"),
    XidMeaning(151, XidClass.DRAIN, Repair.REBOOT, "key rotation error"),
    XidMeaning(168, XidClass.DRAIN, Repair.REBOOT, "reduced memory: errors in the write-protected region"),
]
_LINK = _rows(
    XidClass.LINK,
    Repair.RESET_GPU,
    {
        144: "NVLink SAW error",
        145: "NVLink RLW error",
        146: "NVLink TLW error",
        147: "NVLink TREX error",
        148: "NVLink NVLPW error",
        149: "NVLink NETIR error",
    },
)
_LINK_ALWAYS = [XidMeaning(150, XidClass.RESET, Repair.RESET_GPU, "NVLink MSE error")]
_ACTION = [XidMeaning(154, XidClass.ACTION, Repair.NONE, "GPU recovery action changed")]

_ALL = [*_APP, *_SOFT, *_IGNORE, *_SYMPATHETIC, *_WARN, *_RESET, *_DRAIN, *_LINK, *_LINK_ALWAYS, *_ACTION]
CATALOGUE = {row.code: row for row in _ALL}

RECOVERY_ACTIONS: dict[int, tuple[Severity, Repair, str]] = {
    0: (Severity.INFO, Repair.NONE, "none"),
    1: (Severity.FAIL, Repair.RESET_GPU, "reset the GPU"),
    2: (Severity.FAIL, Repair.REBOOT, "reboot the node"),
    3: (Severity.FAIL, Repair.RESET_GPU, "drain peer-to-peer work"),
    4: (Severity.FAIL, Repair.RESET_GPU, "drain and reset the GPU"),
    5: (Severity.WARN, Repair.NONE, "recover the IMEX domain"),
    6: (Severity.FAIL, Repair.REBOOT, "reset the bus"),
    7: (Severity.FAIL, Repair.REBOOT, "reboot the system"),
}
"""NVML's nvmlDeviceGpuRecoveryAction_t, the same numbers in XID 154 and in the NVML field."""

CAUSES_MEMORY_CODES = 48
MEMORY_FOLLOWERS = frozenset({94, 95})
"""Written after a 48 for the same error: they never raise its class."""
