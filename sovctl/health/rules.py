"""One function a rule: a snapshot in, findings out. No I/O, no clock, nothing but what was seen."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from sovctl.health.xid import (
    CAUSES_MEMORY_CODES,
    MEMORY_FOLLOWERS,
    RECOVERY_ACTIONS,
    XidClass,
    XidMeaning,
    meaning_of,
)
from sovctl.model.gpu import GpuSample, XidEvent, pci_address
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import Finding, Repair, Severity
from sovctl.model.xid_line import recovery_action, says_fatal

_LONGEST_QUOTE = 160
_ACTION_CODE = 154


def gpu_count(snapshot: NodeSnapshot) -> list[Finding]:
    """Fewer GPUs than the node must have fail it; more are a mistake of the configuration."""
    expected, seen = snapshot.expected_gpus, len(snapshot.gpus)
    if expected is None or seen == expected or _sees_no_gpus(snapshot):
        return []
    evidence = f"NVML enumerates {seen} of {expected} GPUs"
    if seen > expected:
        return [Finding("GPU_COUNT", Severity.WARN, evidence)]
    return [Finding("GPU_COUNT", Severity.FAIL, evidence, repair=Repair.REBOOT)]


def gpu_unreadable(snapshot: NodeSnapshot) -> list[Finding]:
    """A GPU the driver calls lost fails the node; one that could only not be read is shown."""
    findings = []
    for gpu in snapshot.gpus:
        if gpu.lost:
            findings.append(_about(gpu, "GPU_LOST", Severity.FAIL, f"NVML: {gpu.error}", Repair.REBOOT))
        elif gpu.error:
            findings.append(_about(gpu, "GPU_UNREADABLE", Severity.WARN, f"NVML: {gpu.error}"))
    return findings


def ecc_uncorrected(snapshot: NodeSnapshot) -> list[Finding]:
    """Uncorrected memory errors since the last reset: the GPU's memory is not to be trusted until the next one."""
    return [
        _about(
            gpu,
            "ECC_UNCORRECTED",
            Severity.FAIL,
            f"NVML counts {gpu.ecc_volatile_uncorrected} uncorrected ECC errors since the last reset",
            Repair.RESET_GPU,
        )
        for gpu in _readable(snapshot)
        if gpu.ecc_volatile_uncorrected
    ]


def row_remap(snapshot: NodeSnapshot) -> list[Finding]:
    """A failed remap means no spare rows are left; a pending one waits for the next reset."""
    findings = []
    for gpu in _readable(snapshot):
        if gpu.remap_failed:
            evidence = "NVML reports a failed row remap"
            findings.append(_about(gpu, "REMAP_FAILED", Severity.FAIL, evidence, Repair.RMA))
        elif gpu.remap_pending:
            evidence = "NVML reports a row remap that waits for a GPU reset"
            findings.append(_about(gpu, "REMAP_PENDING", Severity.WARN, evidence, Repair.RESET_GPU))
    return findings


def nvml_recovery(snapshot: NodeSnapshot) -> list[Finding]:
    """The recovery the driver itself asks for."""
    findings = []
    for gpu in _readable(snapshot):
        severity, repair, words = _action(gpu.recovery_action or 0)
        if severity is not Severity.INFO:
            findings.append(_about(gpu, "GPU_RECOVERY", severity, f"NVML asks to {words}", repair))
    return findings


def kernel_faults(snapshot: NodeSnapshot) -> list[Finding]:
    """All XIDs and SXids since the cursor, judged together a GPU; the cause stands before what followed from it."""
    by_device = sorted(snapshot.xids, key=lambda event: (event.switch, event.pci_bus_id, event.sequence))
    findings: list[tuple[int, Finding]] = []
    for _, burst in groupby(by_device, key=lambda event: (event.switch, event.pci_bus_id)):
        findings += _judge_burst(tuple(burst), snapshot)
    return [finding for _, finding in sorted(findings, key=lambda item: item[0])]


ALL_RULES = (kernel_faults, gpu_count, gpu_unreadable, ecc_uncorrected, row_remap, nvml_recovery)
"""In the order in which their findings are shown: the kernel names the cause, NVML mostly the consequence."""


def _judge_burst(burst: tuple[XidEvent, ...], snapshot: NodeSnapshot) -> list[tuple[int, Finding]]:
    """The events of one device in order of sequence; one finding a code, with its first sequence number."""
    gpu = _gpu_at(burst[0].pci_bus_id, snapshot.gpus) if not burst[0].switch else None
    action = _last_action(burst)
    first_48 = next((event.sequence for event in burst if event.code == CAUSES_MEMORY_CODES), None)
    findings = []
    for code, events in _by_code(burst):
        severity, repair = _weigh(events)
        if code in MEMORY_FOLLOWERS and first_48 is not None and events[0].sequence >= first_48:
            severity, repair = Severity.INFO, Repair.NONE
        elif action is not None and meaning_of(code).kind is not XidClass.ACTION and not burst[0].switch:
            severity, repair = _overrule(code, severity, repair, action)
        findings.append((events[0].sequence, _fault(code, events, severity, repair, gpu)))
    return findings


def _weigh(events: tuple[XidEvent, ...]) -> tuple[Severity, Repair]:
    """The weight of one code on one device, by itself."""
    first, meaning = events[0], meaning_of(events[0].code)
    if first.switch:
        # SXids carry their weight in words: NVIDIA numbers several hundred, and only fatal ones stop the fabric.
        # Data lines of a fault (`Data {0x..}`) repeat its number and say neither word.
        fatal = any(says_fatal(event.text) for event in events)
        return (Severity.FAIL, Repair.REBOOT) if fatal else (Severity.INFO, Repair.NONE)
    if meaning.kind is XidClass.ACTION:
        severity, repair, _ = _action(_last_action(events))
        return severity, repair
    if meaning.kind is XidClass.LINK:
        fatal = any(says_fatal(event.text) for event in events)
        return (Severity.FAIL, meaning.repair) if fatal else (Severity.INFO, Repair.NONE)
    repair = Repair.NONE if meaning.severity is Severity.INFO and meaning.kind is not XidClass.APP else meaning.repair
    return meaning.severity, repair


def _overrule(code: int, severity: Severity, repair: Repair, action: int) -> tuple[Severity, Repair]:
    """XID 154 on the same GPU is the driver's own conclusion: its repair counts, and `none` withdraws a reset."""
    asked_severity, asked_repair, _ = _action(action)
    if severity is not Severity.FAIL:
        return severity, repair
    if asked_severity is Severity.FAIL:
        return severity, Repair.RMA if repair is Repair.RMA else asked_repair
    if action == 0 and meaning_of(code).kind is not XidClass.DRAIN:
        return Severity.WARN, repair
    return severity, repair


def _fault(
    code: int, events: tuple[XidEvent, ...], severity: Severity, repair: Repair, gpu: GpuSample | None
) -> Finding:
    first = events[0]
    name = "SXID" if first.switch else "XID"
    where = f"GPU {gpu.index} at {first.pci_bus_id}" if gpu else f"PCI {first.pci_bus_id}"
    evidence = f"{where}: {_words(meaning_of(code), events)}"
    # The driver says 79 a second time in words without the number; that is not a second fault.
    times = sum(1 for event in events if "Xid" in event.text)
    if times > 1:
        evidence += f", {times} times"
    return Finding(
        f"{name}{code}",
        severity,
        f'{evidence} (kernel record {first.sequence}: "{_quote(first.text)}")',
        gpu_uuid=gpu.uuid if gpu else "",
        gpu_index=gpu.index if gpu else None,
        repair=repair,
    )


def _words(meaning: XidMeaning, events: tuple[XidEvent, ...]) -> str:
    if events[0].switch:
        return "NVSwitch fault"
    if meaning.kind is XidClass.ACTION:
        return f"the driver asks to {_action(_last_action(events))[2]}"
    return meaning.meaning


def _action(number: int | None) -> tuple[Severity, Repair, str]:
    """An action newer than this table is shown, not guessed."""
    unknown = (Severity.WARN, Repair.NONE, f"take an action we do not know ({number})")
    return unknown if number is None else RECOVERY_ACTIONS.get(number, unknown)


def _last_action(events: Iterable[XidEvent]) -> int | None:
    actions = [recovery_action(event.text) for event in events if event.code == _ACTION_CODE and not event.switch]
    return next((action for action in reversed(actions) if action is not None), None)


def _by_code(burst: tuple[XidEvent, ...]) -> list[tuple[int, tuple[XidEvent, ...]]]:
    codes = dict.fromkeys(event.code for event in burst)
    return [(code, tuple(event for event in burst if event.code == code)) for code in codes]


def _gpu_at(pci_bus_id: str, gpus: tuple[GpuSample, ...]) -> GpuSample | None:
    address = pci_address(pci_bus_id)
    if address is None:
        return None
    return next((gpu for gpu in gpus if pci_address(gpu.pci_bus_id) == address), None)


def _readable(snapshot: NodeSnapshot) -> list[GpuSample]:
    return [gpu for gpu in snapshot.gpus if not gpu.error]


def _sees_no_gpus(snapshot: NodeSnapshot) -> bool:
    return any(source.startswith("nvml:") for source in snapshot.blind)


def _about(gpu: GpuSample, code: str, severity: Severity, evidence: str, repair: Repair = Repair.NONE) -> Finding:
    where = f"GPU {gpu.index}" + (f" at {gpu.pci_bus_id}" if gpu.pci_bus_id else "")
    return Finding(code, severity, f"{where}: {evidence}", gpu.uuid, gpu.index, repair)


def _quote(text: str) -> str:
    """The kernel's words, printable and short: the evidence ends up in Slurm's Reason and on terminals."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    plain = " ".join(plain.replace('"', "'").split())
    return plain if len(plain) <= _LONGEST_QUOTE else plain[: _LONGEST_QUOTE - 3] + "..."
