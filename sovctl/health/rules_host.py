"""Memory, services, clock and processes of the host: one function a rule, a snapshot in, findings out."""

from __future__ import annotations

from sovctl.health.memory import DAY_S, held_s, rose
from sovctl.model.facts import firmware_of
from sovctl.model.host import Outcome
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import Finding, Repair, Severity

MEMORY_SHARE = 0.98
"""Less than this share of a healthy node's memory: a module is gone. Kernels differ by less than a percent."""
CORRECTED_PER_DAY = 10_000
"""Corrected errors of main memory; vendors replace modules at some thousand a day."""
SERVICE_FOR_S = 120.0
"""An update of a driver package restarts its services within this time."""
NEEDED_SERVICES = frozenset({"nvidia-fabricmanager", "nvidia-imex"})
"""Without these no job can use the GPUs; NVSentinel #891: fabric manager down for 20 days, each GPU looked fine."""
STUCK_FOR_S = 300.0
"""GCM's limit for processes in uninterruptible sleep and for zombies."""
FEW_ZOMBIES = 10
CLOCK_FOR_S = 600.0
SHARED_MEMORY_SHARE = 0.5
"""Of main memory, in /dev/shm while no job should need it."""
OLD_SHARED_FILE_S = 86400.0
LEFT_FOR_S = 60.0
"""Slurm and the runtimes take some seconds to clear away what a job had; one look is not enough."""
UNCORRECTED_WORDS = ("uncorrected", "fatal", "deferred")


def memory_size(snapshot: NodeSnapshot) -> list[Finding]:
    """Less memory than a healthy node: a module was switched off at boot."""
    expected = snapshot.inventory.memory_kib if snapshot.inventory else None
    if not expected or not snapshot.host.ram:
        return []
    seen = snapshot.host.ram[0].total_kib
    if seen >= MEMORY_SHARE * expected:
        return []
    words = f"{seen / 2**20:.0f} of {expected / 2**20:.0f} GiB of memory"
    return [Finding("MEMORY_SIZE", Severity.FAIL, words, repair=Repair.RMA)]


def memory_errors(snapshot: NodeSnapshot) -> list[Finding]:
    """Errors of main memory since this boot was first looked at; what was counted before has been judged before."""
    findings = []
    for controller in snapshot.host.edac or ():
        prefix = f"edac/{controller.controller}"
        fatal, corrected = rose(snapshot, f"{prefix}/uncorrected", DAY_S), rose(snapshot, f"{prefix}/corrected", DAY_S)
        if fatal:
            words = f"{controller.controller}: {fatal:.0f} uncorrected memory errors within a day"
            findings.append(Finding("MEMORY_UNCORRECTED", Severity.FAIL, words, repair=Repair.RMA))
        elif controller.uncorrected:
            words = f"{controller.controller}: {controller.uncorrected} uncorrected memory errors since boot"
            findings.append(Finding("MEMORY_UNCORRECTED", Severity.WARN, words, repair=Repair.RMA))
        if corrected >= CORRECTED_PER_DAY:
            words = f"{controller.controller}: {corrected:.0f} corrected memory errors within a day"
            findings.append(Finding("MEMORY_CORRECTED", Severity.WARN, words, repair=Repair.RMA))
    lost_kib = rose(snapshot, "ram/corrupted", DAY_S)
    if lost_kib:
        words = f"the kernel took {lost_kib:.0f} KiB of broken memory out of use within a day"
        findings.append(Finding("MEMORY_CORRUPTED", Severity.FAIL, words, repair=Repair.RMA))
    return findings + _ras(snapshot)


def _ras(snapshot: NodeSnapshot) -> list[Finding]:
    """What rasdaemon counted since this boot was first looked at."""
    findings = []
    for row in snapshot.host.ras or ():
        times = rose(snapshot, f"ras/{row.kind}/{row.severity}", DAY_S)
        fatal = row.severity.lower().startswith(UNCORRECTED_WORDS)
        if times and (fatal or times >= CORRECTED_PER_DAY):
            words = f"rasdaemon counts {times:.0f} {row.severity.lower() or 'recorded'} {row.kind} errors within a day"
            code, severity = ("RAS_UNCORRECTED", Severity.FAIL) if fatal else ("RAS_CORRECTED", Severity.WARN)
            findings.append(Finding(code, severity, words, repair=Repair.RMA))
    return findings


def services(snapshot: NodeSnapshot) -> list[Finding]:
    """A service that runs on a healthy node does not run here."""
    if snapshot.host.services is None or snapshot.inventory is None:
        return []
    findings = []
    for name in snapshot.inventory.services:
        held = held_s(snapshot, f"service/{name}")
        if held is None:
            continue
        fatal = name in NEEDED_SERVICES and held >= SERVICE_FOR_S
        words = f"the service {name} does not run, seen for {held:.0f} s"
        findings.append(Finding("SERVICE_DOWN", Severity.FAIL if fatal else Severity.WARN, words, repair=Repair.REBOOT))
    return findings


def clock(snapshot: NodeSnapshot) -> list[Finding]:
    """The kernel's clock runs free where a healthy node's is steered; logs and timeouts then lie."""
    if not snapshot.host.clock or snapshot.inventory is None or not snapshot.inventory.clock_synchronised:
        return []
    held = held_s(snapshot, "clock/free")
    if held is None or held < CLOCK_FOR_S:
        return []
    return [Finding("CLOCK_FREE", Severity.WARN, f"the clock is not synchronised for {held:.0f} s")]


def stuck_processes(snapshot: NodeSnapshot) -> list[Finding]:
    """Processes that no signal reaches, and zombies nobody collects."""
    stuck, dead = [], 0
    for process in snapshot.host.processes or ():
        held = held_s(snapshot, f"process/{process.pid}/{process.started_ticks}/{process.state}") or 0.0
        if held >= STUCK_FOR_S and process.state == "D":
            stuck.append(f"{process.command} ({process.pid})")
        dead += held >= STUCK_FOR_S and process.state == "Z"
    findings = []
    if stuck:
        more = f" and {len(stuck) - 3} more" if len(stuck) > 3 else ""
        words = f"in uninterruptible sleep for over {STUCK_FOR_S:.0f} s: {', '.join(stuck[:3])}{more}"
        findings.append(Finding("PROCESS_STUCK", Severity.FAIL, words, repair=Repair.REBOOT))
    if dead >= FEW_ZOMBIES:
        words = f"{dead} zombies for over {STUCK_FOR_S:.0f} s"
        findings.append(Finding("PROCESS_ZOMBIES", Severity.WARN, words))
    return findings


def shared_memory(snapshot: NodeSnapshot) -> list[Finding]:
    """What jobs left in /dev/shm takes memory from the next one."""
    ram = snapshot.host.ram[0] if snapshot.host.ram else None
    files = snapshot.host.shared or ()
    old = [file for file in files if file.age_s >= OLD_SHARED_FILE_S or snapshot.epilog]
    size_kib = sum(file.size_kib for file in old)
    if ram is None or not old or size_kib < SHARED_MEMORY_SHARE * ram.total_kib:
        return []
    biggest = max(old, key=lambda file: file.size_kib)
    words = f"{len(old)} files hold {size_kib / 2**20:.1f} GiB of /dev/shm, {biggest.name} of user {biggest.uid} most"
    return [Finding("SHARED_MEMORY", Severity.WARN, words)]


def leftovers(snapshot: NodeSnapshot) -> list[Finding]:
    """Containers of jobs that have no step here any more hold memory, mounts and disk."""
    live = {item.job_id for item in snapshot.host.containers or () if item.kind == "live"}
    held = [
        item
        for item in snapshot.host.containers or ()
        if item.kind != "live"
        and item.job_id not in live
        and (held_s(snapshot, f"container/{item.kind}/{item.job_id}/{item.name}") or 0.0) >= LEFT_FOR_S
    ]
    if not held:
        return []
    named = ", ".join(f"{item.kind} {item.name} of job {item.job_id}" for item in held[:3])
    more = f" and {len(held) - 3} more" if len(held) > 3 else ""
    return [Finding("CONTAINER_LEFT", Severity.WARN, f"left of containers: {named}{more}")]


def firmware(snapshot: NodeSnapshot) -> list[Finding]:
    """Versions that differ from a healthy node's, and a fabric manager that does not fit the driver."""
    expected = snapshot.inventory.firmware if snapshot.inventory else {}
    seen = firmware_of(snapshot)
    odd = [
        f"{name} is {version}, not {' or '.join(expected[name])}"
        for name, version in seen.items()
        if name in expected and version not in expected[name]
    ]
    findings = [Finding("FIRMWARE", Severity.WARN, "; ".join(odd))] if odd else []
    driver = next((gpu.driver_version for gpu in snapshot.gpus if gpu.driver_version), None)
    manager = seen.get("fabric-manager")
    if driver and manager and driver != manager:
        words = f"the fabric manager is {manager} and the driver {driver}: they must be the same"
        findings.append(Finding("FABRIC_MANAGER_VERSION", Severity.FAIL, words, repair=Repair.REBOOT))
    return findings


def unanswered(snapshot: NodeSnapshot) -> list[Finding]:
    """A source of facts that hangs or breaks is a finding by itself: a blocked driver blocks jobs as well."""
    findings = []
    for reading in snapshot.host.readings:
        if reading.outcome is Outcome.HUNG and not reading.source.startswith("mount:"):
            words = f"{reading.source} gave no answer within {reading.cost_ms / 1000:.1f} s"
            findings.append(Finding("PROBE_HUNG", Severity.FAIL, words, repair=Repair.REBOOT))
        elif reading.outcome is Outcome.FAILED:
            findings.append(Finding("PROBE_FAILED", Severity.WARN, f"{reading.source}: {reading.error}"))
    for source in snapshot.blind:
        if "no answer within" in source:
            findings.append(Finding("PROBE_HUNG", Severity.FAIL, source, repair=Repair.REBOOT))
    return findings
