"""Reads what the kernel itself complains of (not the NVIDIA driver): one message in, one notice out. Pure.

Every pattern is anchored at the start of the message and begins with the kernel's own words. Where the kernel puts a
process name first (page allocation failures), what follows is long enough that no name of 15 characters can forge it.
Formats: kernel/hung_task.c, kernel/watchdog.c, kernel/rcu/tree_stall.h, block/blk-core.c, drivers/nvme/host,
drivers/net/ethernet/mellanox/mlx5/core, fs/{ext4,xfs,btrfs,nfs}, Lustre's libcfs, mm/{oom_kill,page_alloc,
memory-failure}.c, arch/x86/kernel/cpu/mce, drivers/{edac,acpi/apei,pci/pcie/aer}; kernels 5.4 to 6.12.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_STAMP = r"(?:\[ *[0-9]+\.[0-9]+\] *)?"
_OF = r"(?P<of>[\w.:/-]{1,48}?)"
_PCI = r"(?P<of>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])"
_MLX5 = rf"mlx5_core {_PCI}(?: \w+)?:? (?:\w+:\d+:\(pid \d+\): ?)?"
_AER = rf"(?:pcieport|\w[\w-]{{1,20}}) {_PCI}: AER: (?:Multiple )?"
_PATTERNS = (
    ("HUNG_TASK", r"INFO: task .{1,64}? blocked (?:in I/O wait )?for more than \d+ seconds"),
    ("SOFT_LOCKUP", r"(?:NMI )?watchdog: BUG: soft lockup - CPU#\d+ stuck for "),
    ("HARD_LOCKUP", r"(?:NMI )?watchdog: Watchdog detected hard LOCKUP on cpu "),
    ("RCU_STALL", r"(?:rcu: )?INFO: rcu_\w+ (?:self-)?detected (?:expedited )?stalls? on CPU"),
    ("KERNEL_OOPS", r"(?:BUG: unable to handle |kernel BUG at |BUG: kernel NULL pointer|Oops: )"),
    ("KERNEL_OOPS", r"general protection fault, "),
    ("DISK_IO", rf"(?:blk_update_request: |print_req_error: )?I/O error, dev {_OF}[ ,]"),
    ("DISK_IO", rf"(?:blk_update_request: )?critical (?:medium|target) error, dev {_OF}[ ,]"),
    ("DISK_IO", rf"Buffer I/O error on dev(?:ice)? {_OF}, "),
    ("RAID_DEGRADED", rf"md/raid[\w]*:{_OF}: Disk failure on "),
    ("NVME_TIMEOUT", rf"nvme {_OF}: I/O (?:tag )?\d+ .{{0,60}}?timeout, "),
    ("NVME_GONE", rf"nvme {_OF}: (?:controller is down; will reset|Removing after probe failure|Device not ready;)"),
    ("NVME_GONE", rf"nvme {_OF}: (?:Disabling device after reset failure|Device shutdown incomplete)"),
    ("NIC_FATAL", rf"{_MLX5}(?:device's health compromised|Fatal error \d+ detected|health recovery failed)"),
    ("NIC_FATAL", rf"{_MLX5}(?:handling bad device here|print_health_info:\d+:)"),
    ("NIC_COMMAND", rf"{_MLX5}[\w()-]{{1,80}} timeout\. Will cause a leak"),
    ("NIC_MODULE", rf"{_MLX5}Port module event\[error\]"),
    ("NIC_QUEUE", rf"NETDEV WATCHDOG: {_OF} \([\w-]+\): transmit queue \d+ timed out"),
    ("FS_ERROR", rf"EXT4-fs error \(device {_OF}\)"),
    ("FS_ERROR", rf"EXT4-fs \({_OF}\): Remounting filesystem read-only"),
    (
        "FS_ERROR",
        rf"XFS \({_OF}\): (?:Internal error|Corruption |Metadata corruption|[Mm]etadata I/O error|log I/O error)",
    ),
    ("FS_ERROR", rf"BTRFS (?:error|critical) \(device {_OF}[): ]"),
    ("LUSTRE_EVICTED", r"LustreError: \d+-\d+: (?P<of>[\w-]{1,64}).{0,60}? This client was evicted by "),
    ("LUSTRE_ERROR", r"LustreError: "),
    ("LUSTRE_LOST", r"Lustre: (?P<of>[\w-]{1,64}): Connection to .{1,80}? was lost"),
    ("NFS_SILENT", r"nfs: server (?P<of>\S{1,64}) not responding, "),
    ("OUT_OF_MEMORY", r"Out of memory(?: \([\w ]+\))?: Kill(?:ed)? process \d+"),
    ("JOB_OUT_OF_MEMORY", r"Memory cgroup out of memory: Kill(?:ed)? process \d+"),
    ("PAGE_ALLOCATION", r".{1,16}?: page allocation failure: order:\d+, mode:0x"),
    ("MCE_FATAL", r"mce: \[Hardware Error\]: CPU \d+: Machine Check(?: Exception)?: [4-7]"),
    ("MCE_UNCORRECTED", r"(?:mce: Uncorrected hardware memory error|Memory failure: 0x[0-9a-f]+: |EDAC \w+: \d+ UE )"),
    ("MCE_UNCORRECTED", r"\{\d+\}\[Hardware Error\]: event severity: (?:fatal|recoverable)"),
    ("MCE_CORRECTED", r"(?:mce: \[Hardware Error\]: Machine check events logged|EDAC \w+: \d+ CE )"),
    ("MCE_CORRECTED", r"\{\d+\}\[Hardware Error\]: event severity: corrected"),
    ("CPU_HOT", r"(?:mce: )?CPU\d+: (?:Package|Core) temperature (?:is )?above threshold, cpu clock"),
    ("PCIE_FATAL", rf"{_AER}Uncorrect(?:ed|able) \(Fatal\) error"),
    ("PCIE_UNCORRECTED", rf"{_AER}Uncorrect(?:ed|able) \(Non-Fatal\) error"),
    ("PCIE_CORRECTED", rf"{_AER}Correct(?:ed|able) error"),
)
CODES = frozenset(code for code, _ in _PATTERNS)
HINT = re.compile(
    rb"blocked |lockup|LOCKUP|stall|BUG|Oops|general protection|error|md/raid|nvme |mlx5_core|NETDEV|EXT4|XFS|BTRFS"
    rb"|Lustre|nfs: |emory|page alloc|mce: |EDAC|Hardware Error|temperature|AER: "
)
"""Bytes that every message of interest has: most are passed over without being taken apart."""


@dataclass(frozen=True, slots=True)
class KernelNotice:
    """One complaint of the kernel."""

    code: str
    subject: str
    """The device, server or file system it is about; empty: the machine."""
    sequence: int
    """The kernel's sequence number of the record, unique within one boot."""
    since_boot_s: float
    text: str


def parse_kernel_notice(text: str, *, sequence: int = 0, since_boot_s: float = 0.0) -> KernelNotice | None:
    """The complaint in one kernel message; None when it is none we know."""
    for code, pattern in _compiled():
        if match := pattern.match(text):
            return KernelNotice(code, match.groupdict().get("of") or "", sequence, since_boot_s, text)
    return None


@cache
def _compiled() -> list[tuple[str, re.Pattern[str]]]:
    """On the first line that needs it: the prolog of each job imports this."""
    return [(code, re.compile(_STAMP + pattern)) for code, pattern in _PATTERNS]
