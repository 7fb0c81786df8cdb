"""What the kernel complains of besides the NVIDIA driver: how much of it within an hour says something, and what.

The lines come once, so they are counted in the memory of this boot; a finding stands for an hour after the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sovctl.health.memory import HOUR_S, rose
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import Finding, Repair, Severity

_QUOTE = 140
PREFIX = "kernel/"
"""Of the counters in the memory: `kernel/<code>/<subject>`."""


@dataclass(frozen=True, slots=True)
class NoticeMeaning:
    """One kind of complaint."""

    family: str
    severity: Severity
    repair: Repair
    meaning: str
    an_hour: int = 1
    """So many within an hour are worth a word; fewer are every node's."""


_FAIL, _WARN, _INFO = Severity.FAIL, Severity.WARN, Severity.INFO
MEANINGS = {
    "HUNG_TASK": NoticeMeaning("kernel", _WARN, Repair.NONE, "processes wait without end, mostly for storage", 3),
    "SOFT_LOCKUP": NoticeMeaning("kernel", _FAIL, Repair.REBOOT, "a processor did not come out of the kernel"),
    "HARD_LOCKUP": NoticeMeaning("kernel", _FAIL, Repair.REBOOT, "a processor took no interrupts"),
    "RCU_STALL": NoticeMeaning("kernel", _WARN, Repair.REBOOT, "a processor was away for too long", 2),
    "KERNEL_OOPS": NoticeMeaning("kernel", _FAIL, Repair.REBOOT, "the kernel broke and goes on without what broke"),
    "DISK_IO": NoticeMeaning("storage", _FAIL, Repair.RMA, "a disk does not read or write"),
    "RAID_DEGRADED": NoticeMeaning("storage", _WARN, Repair.RMA, "a disk of an array is gone"),
    "NVME_TIMEOUT": NoticeMeaning("storage", _WARN, Repair.NONE, "an NVMe disk answers late", 3),
    "NVME_GONE": NoticeMeaning("storage", _FAIL, Repair.RMA, "an NVMe disk answers no more"),
    "FS_ERROR": NoticeMeaning("storage", _FAIL, Repair.REBOOT, "a local file system is damaged"),
    "LUSTRE_EVICTED": NoticeMeaning("storage", _WARN, Repair.NONE, "a Lustre server threw this client out"),
    "LUSTRE_ERROR": NoticeMeaning("storage", _WARN, Repair.NONE, "Lustre errors", 20),
    "LUSTRE_LOST": NoticeMeaning("storage", _WARN, Repair.NONE, "connections to Lustre servers were lost", 3),
    "NFS_SILENT": NoticeMeaning("storage", _WARN, Repair.NONE, "an NFS server does not answer", 2),
    "NIC_FATAL": NoticeMeaning("network", _FAIL, Repair.REBOOT, "the adapter's firmware stopped"),
    "NIC_COMMAND": NoticeMeaning("network", _WARN, Repair.REBOOT, "the adapter does not answer its driver"),
    "NIC_MODULE": NoticeMeaning("network", _WARN, Repair.NONE, "a cable or transceiver is at fault"),
    "NIC_QUEUE": NoticeMeaning("network", _WARN, Repair.NONE, "an interface does not send"),
    "OUT_OF_MEMORY": NoticeMeaning("memory", _WARN, Repair.NONE, "the node itself ran out of memory"),
    "JOB_OUT_OF_MEMORY": NoticeMeaning("memory", _INFO, Repair.NONE, "a job ran into its own limit"),
    "PAGE_ALLOCATION": NoticeMeaning("memory", _WARN, Repair.NONE, "the kernel finds no memory in one piece", 5),
    "MCE_FATAL": NoticeMeaning("memory", _FAIL, Repair.RMA, "a machine check that the processor could not undo"),
    "MCE_UNCORRECTED": NoticeMeaning("memory", _FAIL, Repair.RMA, "uncorrected errors of main memory or a processor"),
    "MCE_CORRECTED": NoticeMeaning("memory", _WARN, Repair.RMA, "corrected hardware errors by the hundred", 100),
    "CPU_HOT": NoticeMeaning("memory", _WARN, Repair.NONE, "processors are too hot and slow down", 10),
    "PCIE_FATAL": NoticeMeaning("kernel", _FAIL, Repair.REBOOT, "a PCIe device broke its link"),
    "PCIE_UNCORRECTED": NoticeMeaning("kernel", _WARN, Repair.NONE, "PCIe errors that were not corrected", 5),
    "PCIE_CORRECTED": NoticeMeaning("kernel", _WARN, Repair.NONE, "PCIe errors by the hundred", 500),
}


def family(name: str) -> Callable[[NodeSnapshot], list[Finding]]:
    """The rule of one family: `kernel`, `storage`, `network` or `memory`."""

    def rule(snapshot: NodeSnapshot) -> list[Finding]:
        return [
            finding
            for counter in snapshot.memory.counters
            if counter.startswith(PREFIX) and (finding := _judge(counter, name, snapshot))
        ]

    return rule


def _judge(counter: str, name: str, snapshot: NodeSnapshot) -> Finding | None:
    code, _, subject = counter.removeprefix(PREFIX).partition("/")
    meaning = MEANINGS.get(code)
    if meaning is None or meaning.family != name:
        return None
    times = rose(snapshot, counter, HOUR_S)
    if times < meaning.an_hour:
        return None
    about = f"{subject}: " if subject else ""
    words = f"{about}{meaning.meaning} ({times:.0f} times within an hour)"
    last = next((item for item in reversed(snapshot.notices) if (item.code, item.subject) == (code, subject)), None)
    if last is not None:
        words += f': "{_quoted(last.text)}"'
    return Finding(code, meaning.severity, words, repair=meaning.repair)


def _quoted(text: str) -> str:
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).replace('"', "'").split())
    return plain if len(plain) <= _QUOTE else plain[: _QUOTE - 3] + "..."
