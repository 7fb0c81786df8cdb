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
        137: "NVLink access without privilege",
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
        39: "copy engine exception",
        40: "copy engine exception",
        41: "copy engine exception",
        60: "video processor exception",
        68: "video decoder exception",
        69: "graphics engine class error",
        70: "copy engine exception",
        71: "copy engine exception",
        72: "copy engine exception",
        75: "copy engine exception",
        76: "copy engine exception",
        77: "copy engine exception",
        80: "corrupted data sent to the GPU",
        82: "JPEG decoder exception",
        83: "video encoder exception",
        84: "video encoder exception",
        85: "copy engine exception",
        86: "optical flow accelerator exception",
        88: "video decoder exception",
        89: "video decoder exception",
        94: "contained memory error",
        96: "video decoder exception",
        97: "video encoder exception",
        98: "copy engine exception",
        99: "optical flow accelerator exception",
        100: "copy engine exception",
        101: "copy engine exception",
        102: "video encoder exception",
        103: "JPEG decoder exception",
        104: "copy engine exception",
        105: "copy engine exception",
        126: "engine exception",
        127: "engine exception",
        128: "engine exception",
        129: "engine exception",
        130: "engine exception",
        131: "engine exception",
        132: "engine exception",
        133: "engine exception",
        134: "engine exception",
        135: "engine exception",
        139: "engine exception",
    },
)
_IGNORE = _rows(
    XidClass.IGNORE,
    Repair.NONE,
    {
        14: "unused",
        37: "driver firmware notice",
        38: "driver firmware notice",
        44: "graphics engine fault during a context switch",
        66: "illegal access by the driver",
        67: "illegal access by the driver",
        78: "vGPU start",
        93: "non-fatal violation of the InfoROM",
        106: "test message for a SMBPBI client",
        107: "test message for a SMBPBI client, in-band",
        141: "firmware notice",
        152: "firmware notice",
        153: "firmware notice",
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
            121: "C2C link error",
            142: "video encoder exception",
            157: "resource retirement failed",
            160: "channel retired",
            161: "channel retirement failed",
            162: "power smoothing",
            163: "confidential computing",
            164: "confidential computing",
            165: "confidential computing",
            166: "confidential computing",
            170: "interrupt notice",
            171: "DRAM error detail, with XID 48",
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
        136: "link training failed",
        140: "unrecovered memory error",
        155: "NVLink software error",
        156: "resource retirement",
        158: "fatal timeout",
        167: "PCIe fatal timeout",
        169: "internal micro-controller halt",
        172: "SRAM error",
    },
)
_DRAIN = [
    XidMeaning(54, XidClass.DRAIN, Repair.RMA, "auxiliary power is not connected"),
    XidMeaning(64, XidClass.DRAIN, Repair.RMA, "row remap failed"),
    XidMeaning(79, XidClass.DRAIN, Repair.REBOOT, "GPU has fallen off the bus"),
    XidMeaning(81, XidClass.DRAIN, Repair.RMA, "VGA subsystem error"),
    XidMeaning(143, XidClass.DRAIN, Repair.REBOOT, "GPU initialisation failed"),
    XidMeaning(151, XidClass.DRAIN, Repair.REBOOT, "key rotation error"),
    XidMeaning(168, XidClass.DRAIN, Repair.REBOOT, "reduced memory"),
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
