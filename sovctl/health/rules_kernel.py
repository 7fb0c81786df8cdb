"""What the driver wrote to the kernel log: all faults of one device are judged together, by cause and not by count."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

from sovctl.health.rules_gpu import action_of
from sovctl.health.xid import (
    CAUSES_MEMORY_CODES,
    MEMORY_FOLLOWERS,
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
_REPEATS = 2
_BURST_S = {13: 15.0}
_LONGEST_BURST_S = 180.0
"""Lines of one code within so many seconds are one fault (NVSentinel: 15 s for 13, 3 minutes for 31)."""
_DAY_S = 86400.0
_PROCESS = r"pid=\d+"
_SM_PLACE = r"\(GPC \d+, TPC \d+"
"""XID 13 names the processor; a second one counts only there."""


def gpu_faults(snapshot: NodeSnapshot) -> list[Finding]:
    """All XIDs since the cursor, judged together a GPU; the cause stands before what followed from it."""
    return _faults(tuple(event for event in snapshot.xids if not event.switch), snapshot)


def switch_faults(snapshot: NodeSnapshot) -> list[Finding]:
    """All SXids of NVSwitches since the cursor."""
    return _faults(tuple(event for event in snapshot.xids if event.switch), snapshot)


def repeated_faults(snapshot: NodeSnapshot) -> list[Finding]:
    """What a program is blamed for once is the GPU's when it comes back on the same GPU and nowhere else.

    A broken program fails on many GPUs, a broken GPU under many programs (NVIDIA's workflow for 13 and 31). Counted by
    serial number over boots and node names, one burst as one.
    """
    findings = []
    for event in _first_of_each(snapshot.xids):
        gpu = _gpu_at(event.pci_bus_id, snapshot.gpus)
        if gpu is None or not gpu.serial:
            continue
        times = _repeats(event, gpu.serial, snapshot)
        if times >= _REPEATS:
            evidence = (
                f"GPU {gpu.index} serial {gpu.serial}: XID {event.code} ({meaning_of(event.code).meaning}) "
                f"{times} times within a day, on no other GPU of this node"
            )
            findings.append(
                Finding(f"XID{event.code}_REPEATED", Severity.FAIL, evidence, gpu.uuid, gpu.index, Repair.RESET_GPU)
            )
    return findings


def _faults(events: tuple[XidEvent, ...], snapshot: NodeSnapshot) -> list[Finding]:
    by_device = sorted(events, key=lambda event: (event.switch, event.pci_bus_id, event.sequence))
    findings: list[tuple[int, Finding]] = []
    for _, burst in groupby(by_device, key=lambda event: (event.switch, event.pci_bus_id)):
        findings += _judge_burst(tuple(burst), snapshot)
    return [finding for _, finding in sorted(findings, key=lambda item: item[0])]


def _first_of_each(events: tuple[XidEvent, ...]) -> list[XidEvent]:
    """The first line of each application code on each GPU."""
    first: dict[tuple[int, str], XidEvent] = {}
    for event in events:
        if not event.switch and meaning_of(event.code).kind is XidClass.APP:
            first.setdefault((event.code, event.pci_bus_id), event)
    return list(first.values())


def _repeats(event: XidEvent, serial: str, snapshot: NodeSnapshot) -> int:
    """How many separate faults like `event` this GPU had within a day, this one included; 0 when others had it too."""
    alike = [fault for fault in snapshot.past if fault.code == event.code and fault.at > snapshot.observed_at - _DAY_S]
    others = {gpu.serial for gpu in snapshot.gpus} - {serial}
    own = [seen for seen in snapshot.xids if seen.code == event.code and not seen.switch]
    if any(fault.serial in others for fault in alike) or len({seen.pci_bus_id for seen in own}) > 1:
        return 0
    newest = max(seen.since_boot_s for seen in snapshot.xids)
    faults = [(snapshot.observed_at - newest + seen.since_boot_s, seen.text) for seen in own]
    faults += [(fault.at, fault.text) for fault in alike if fault.serial == serial]
    return _bursts(event, faults)


def _bursts(event: XidEvent, faults: list[tuple[float, str]]) -> int:
    """Faults at the same place of the processor, those of one process and those shortly after each other as one."""
    place = re.search(_SM_PLACE, event.text)
    apart = _BURST_S.get(event.code, _LONGEST_BURST_S)
    count, last, processes = 0, 0.0, set[str]()
    for at, text in sorted(faults):
        there, process = re.search(_SM_PLACE, text), re.search(_PROCESS, text)
        if place is not None and there is not None and there[0] != place[0]:
            continue
        new = process is None or process[0] not in processes
        if new and (count == 0 or at - last > apart):
            count += 1
        last = at
        if process is not None:
            processes.add(process[0])
    return count


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
        severity, repair, _ = action_of(_last_action(events))
        return severity, repair
    if meaning.kind is XidClass.LINK:
        fatal = any(says_fatal(event.text) for event in events)
        return (Severity.FAIL, meaning.repair) if fatal else (Severity.INFO, Repair.NONE)
    repair = Repair.NONE if meaning.severity is Severity.INFO and meaning.kind is not XidClass.APP else meaning.repair
    return meaning.severity, repair


def _overrule(code: int, severity: Severity, repair: Repair, action: int) -> tuple[Severity, Repair]:
    """XID 154 on the same GPU is the driver's own conclusion: its repair counts, and `none` withdraws a reset."""
    asked_severity, asked_repair, _ = action_of(action)
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
        return f"the driver asks to {action_of(_last_action(events))[2]}"
    return meaning.meaning


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


def _quote(text: str) -> str:
    """The kernel's words, printable and short: the evidence ends up in Slurm's Reason and on terminals."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    plain = " ".join(plain.replace('"', "'").split())
    return plain if len(plain) <= _LONGEST_QUOTE else plain[: _LONGEST_QUOTE - 3] + "..."
