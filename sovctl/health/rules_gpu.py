"""What NVML shows of the GPUs: one function a rule, a snapshot in, findings out."""

from __future__ import annotations

from collections.abc import Iterable

from sovctl.health.memory import BAD_THROTTLE, DAY_S, HOUR_S, held_s, rose
from sovctl.health.xid import RECOVERY_ACTIONS
from sovctl.model.gpu import GpuSample
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import Finding, Repair, Severity

THROTTLED_FOR_S = 120.0
"""A slowdown shorter than this comes and goes with the load; gpud asks for 0.6 events a minute over ten minutes."""
HOT_C = 90
"""Above every data-centre part's slowdown threshold less margin (H100 87 C, B200 90 C): no healthy node runs there."""
REPLAYS_PER_HOUR = {3: 960, 4: 960, 5: 1860, 6: 3720}
"""PCIe replays by generation at 16 lanes, from DCGM's limits a minute and lane (0.96, 1.92, 3.84) over an hour."""
CORRECTED_PER_DAY = 1_000_000
"""Corrected ECC errors; NVIDIA calls none of them a defect, NVSentinel #1748 saw 4,600 a second on dying memory."""
BUSY_PERCENT = 90
SLOW_SHARE = 0.6
"""A busy GPU below this share of its maximum clock without a reason that NVML gives."""
_EXPLAINS_LOW_CLOCK = 0x1 | 0x2 | 0x4 | 0x10 | BAD_THROTTLE
"""Idle, application clocks, power cap, sync boost, or one of the slowdowns another rule reports."""


def gpu_count(snapshot: NodeSnapshot) -> list[Finding]:
    """Fewer GPUs than the node must have fail it; more are a mistake of the configuration."""
    expected, seen = expected_gpus(snapshot), len(snapshot.gpus)
    if expected is None or seen == expected or sees_no_gpus(snapshot):
        return []
    evidence = f"NVML enumerates {seen} of {expected} GPUs"
    if seen > expected:
        return [Finding("GPU_COUNT", Severity.WARN, evidence)]
    return [Finding("GPU_COUNT", Severity.FAIL, evidence, repair=Repair.REBOOT)]


def expected_gpus(snapshot: NodeSnapshot) -> int | None:
    """The site's own word counts before what was learnt."""
    if snapshot.expected_gpus is not None:
        return snapshot.expected_gpus
    return snapshot.inventory.gpus if snapshot.inventory else None


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


def ecc_rate(snapshot: NodeSnapshot) -> list[Finding]:
    """Corrected errors are normal; a million a day are a memory that goes."""
    findings = []
    for gpu in _readable(snapshot):
        count = rose(snapshot, f"gpu/{gpu.uuid}/corrected", DAY_S)
        if count >= CORRECTED_PER_DAY:
            words = f"{count:.0f} corrected ECC errors within a day (limit {CORRECTED_PER_DAY})"
            findings.append(_about(gpu, "ECC_RATE", Severity.FAIL, words, Repair.RESET_GPU))
    return findings


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
        severity, repair, words = action_of(gpu.recovery_action or 0)
        if severity is not Severity.INFO:
            findings.append(_about(gpu, "GPU_RECOVERY", severity, f"NVML asks to {words}", repair))
    return findings


def nvlink_down(snapshot: NodeSnapshot) -> list[Finding]:
    """Fewer active links than a healthy node of this kind; without an inventory a PCIe card would look broken."""
    expected = snapshot.inventory.nvlinks if snapshot.inventory else None
    if not expected:
        return []
    return [
        _about(
            gpu,
            "NVLINK_DOWN",
            Severity.FAIL,
            f"{gpu.nvlinks_active} of {expected} NVLinks are active",
            Repair.RESET_GPU,
        )
        for gpu in _readable(snapshot)
        if gpu.nvlinks_active is not None and gpu.nvlinks_active < expected
    ]


def nvlink_errors(snapshot: NodeSnapshot) -> list[Finding]:
    """Link errors since an hour; DCGM allows 100 CRC errors a second before it warns, GCM none at all."""
    findings = []
    for gpu in _readable(snapshot):
        count = rose(snapshot, f"gpu/{gpu.uuid}/nvlink", HOUR_S)
        if count >= 100:
            words = f"{count:.0f} NVLink replay, recovery or CRC errors within an hour"
            findings.append(_about(gpu, "NVLINK_ERRORS", Severity.FAIL, words, Repair.RESET_GPU))
    return findings


def pcie_link(snapshot: NodeSnapshot) -> list[Finding]:
    """Fewer lanes, or a lower generation at best, than on a healthy node. Idle links slow down by design."""
    findings = []
    for gpu in _readable(snapshot):
        lanes, generation = _pcie_expected(gpu, snapshot)
        if gpu.pcie_width is not None and lanes and gpu.pcie_width < lanes:
            words = f"the PCIe link has {gpu.pcie_width} of {lanes} lanes"
            findings.append(_about(gpu, "PCIE_WIDTH", Severity.FAIL, words, Repair.REBOOT))
        if gpu.pcie_generation_max is not None and generation and gpu.pcie_generation_max < generation:
            words = f"the PCIe link reaches generation {gpu.pcie_generation_max} of {generation}"
            findings.append(_about(gpu, "PCIE_GENERATION", Severity.FAIL, words, Repair.REBOOT))
    return findings


def pcie_replays(snapshot: NodeSnapshot) -> list[Finding]:
    """Replays cost bandwidth long before the link drops."""
    findings = []
    for gpu in _readable(snapshot):
        limit = REPLAYS_PER_HOUR.get(gpu.pcie_generation_max or 0, REPLAYS_PER_HOUR[4])
        count = rose(snapshot, f"gpu/{gpu.uuid}/replays", HOUR_S)
        if count >= limit:
            words = f"{count:.0f} PCIe replays within an hour (limit {limit})"
            findings.append(_about(gpu, "PCIE_REPLAYS", Severity.FAIL, words, Repair.REBOOT))
    return findings


def thermal(snapshot: NodeSnapshot) -> list[Finding]:
    """Hot, or slowed down by heat or the power supply for minutes on end."""
    findings = []
    for gpu in _readable(snapshot):
        if gpu.temperature_c is not None and gpu.temperature_c >= HOT_C:
            findings.append(_about(gpu, "GPU_HOT", Severity.WARN, f"{gpu.temperature_c} C (limit {HOT_C} C)"))
        held = held_s(snapshot, f"gpu/{gpu.uuid}/throttled")
        if held is not None and held >= THROTTLED_FOR_S:
            words = f"slowed down for {held:.0f} s: {_throttle_words(gpu.throttle_reasons or 0)}"
            findings.append(_about(gpu, "GPU_THROTTLED", Severity.FAIL, words))
    return findings


def low_clock(snapshot: NodeSnapshot) -> list[Finding]:
    """A busy GPU that is slow without a reason."""
    findings = []
    for gpu in _readable(snapshot):
        clock, top = gpu.sm_clock_mhz, gpu.sm_clock_max_mhz
        if clock is None or not top or (gpu.utilization_percent or 0) < BUSY_PERCENT:
            continue
        if clock < SLOW_SHARE * top and not (gpu.throttle_reasons or 0) & _EXPLAINS_LOW_CLOCK:
            words = f"busy at {clock} of {top} MHz, and NVML gives no reason"
            findings.append(_about(gpu, "GPU_SLOW", Severity.FAIL, words, Repair.RESET_GPU))
    return findings


def persistence(snapshot: NodeSnapshot) -> list[Finding]:
    """Without persistence mode the driver unloads when idle and every job pays for starting it again."""
    off = [gpu for gpu in _readable(snapshot) if gpu.persistence_mode is False]
    if not off:
        return []
    which = ", ".join(str(gpu.index) for gpu in off)
    return [Finding("GPU_PERSISTENCE", Severity.WARN, f"persistence mode is off on GPU {which}")]


def software(snapshot: NodeSnapshot) -> list[Finding]:
    """Driver, firmware and model against a healthy node of this kind."""
    expected = snapshot.inventory
    if expected is None:
        return []
    gpus = list(_readable(snapshot))
    return [
        *_odd("GPU_DRIVER", "driver", expected.drivers, {gpu.index: gpu.driver_version for gpu in gpus}),
        *_odd("GPU_VBIOS", "VBIOS", expected.vbios, {gpu.index: gpu.vbios_version for gpu in gpus}),
        *_odd("GPU_MODEL", "model", expected.gpu_names, {gpu.index: gpu.name for gpu in gpus}),
    ]


def strays(snapshot: NodeSnapshot) -> list[Finding]:
    """After a job, nothing may be left on the GPUs; asked for only when no other job is here."""
    if not snapshot.epilog:
        return []
    return [
        _about(gpu, "GPU_STRAY", Severity.WARN, f"processes {', '.join(map(str, gpu.process_ids))} after the job's end")
        for gpu in _readable(snapshot)
        if gpu.process_ids
    ]


def action_of(number: int | None) -> tuple[Severity, Repair, str]:
    """An action newer than the table is shown, not guessed."""
    unknown = (Severity.WARN, Repair.NONE, f"take an action we do not know ({number})")
    return unknown if number is None else RECOVERY_ACTIONS.get(number, unknown)


def sees_no_gpus(snapshot: NodeSnapshot) -> bool:
    """NVML did not answer: then no GPU is missing, it is only not seen."""
    return any(source.startswith("nvml:") for source in snapshot.blind)


def _odd(code: str, what: str, allowed: tuple[str, ...], told: dict[int, str | None]) -> list[Finding]:
    odd = {index: value for index, value in told.items() if value and value not in allowed}
    if not allowed or not odd:
        return []
    which = ", ".join(f"GPU {index} {value}" for index, value in odd.items())
    return [Finding(code, Severity.WARN, f"{what} is not {' or '.join(allowed)}: {which}")]


def _pcie_expected(gpu: GpuSample, snapshot: NodeSnapshot) -> tuple[int | None, int | None]:
    """(lanes, generation); without an inventory what the GPU itself could do, and no word about the generation."""
    expected = snapshot.inventory
    if expected is None:
        return None, None
    return expected.pcie_width or gpu.pcie_width_max, expected.pcie_generation


def _throttle_words(reasons: int) -> str:
    names = {0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat (hardware)", 0x80: "power brake"}
    return ", ".join(words for bit, words in names.items() if reasons & bit) or "heat or power"


def _readable(snapshot: NodeSnapshot) -> Iterable[GpuSample]:
    return [gpu for gpu in snapshot.gpus if not gpu.error]


def _about(gpu: GpuSample, code: str, severity: Severity, evidence: str, repair: Repair = Repair.NONE) -> Finding:
    where = f"GPU {gpu.index}" + (f" at {gpu.pci_bus_id}" if gpu.pci_bus_id else "")
    return Finding(code, severity, f"{where}: {evidence}", gpu.uuid, gpu.index, repair)
