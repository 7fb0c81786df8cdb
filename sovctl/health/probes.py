"""Every probe there is: what it reads, how far it goes unless a site says otherwise, and why it exists.

A new probe is a rule function in the file of its family and one line here. A probe that drains by default answers a
hard fault that no healthy node shows; the others warn or wait in shadow until a site has seen what they find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from sovctl.errors import ConfigError
from sovctl.health import (
    rules_gpu,
    rules_host,
    rules_kernel,
    rules_kernel_notice,
    rules_network,
    rules_storage,
)
from sovctl.model.node import NodeSnapshot
from sovctl.model.probe import ProbeSetting, ProbeState
from sovctl.model.verdict import Finding, Severity

Rule = Callable[[NodeSnapshot], list[Finding]]
_DRAIN, _WARN, _SHADOW = ProbeState.DRAIN, ProbeState.WARN, ProbeState.SHADOW


@dataclass(frozen=True, slots=True)
class Probe:
    """One question about a node."""

    name: str
    sources: tuple[str, ...]
    """What is read for it: `nvml`, `kernel-log`, or a source of the host."""
    rule: Rule
    default: ProbeState
    why: str
    quick: bool = False
    """Cheap enough for the prolog of every job."""


def _burn_in(snapshot: NodeSnapshot) -> list[Finding]:
    """Imported when it is asked: the prolog of each job imports this module and never asks."""
    from sovctl.health.burn_in import burn_in_findings

    return burn_in_findings(snapshot)


def _burn_in_slow(snapshot: NodeSnapshot) -> list[Finding]:
    from sovctl.health.burn_in import slow_findings

    return slow_findings(snapshot)


PROBES = (
    Probe("xid", ("kernel-log",), rules_kernel.gpu_faults, _DRAIN, "the driver's own fault messages", True),
    Probe("sxid", ("kernel-log",), rules_kernel.switch_faults, _DRAIN, "fatal NVSwitch faults", True),
    Probe(
        "xid-repeat",
        ("kernel-log",),
        rules_kernel.repeated_faults,
        _WARN,
        "a program's fault that returns on one GPU only is the GPU's",
        True,
    ),
    Probe("gpu-count", ("nvml",), rules_gpu.gpu_count, _DRAIN, "a GPU that no longer enumerates", True),
    Probe("gpu-lost", ("nvml",), rules_gpu.gpu_unreadable, _DRAIN, "a GPU the driver calls lost", True),
    Probe("gpu-ecc", ("nvml",), rules_gpu.ecc_uncorrected, _DRAIN, "uncorrected memory errors corrupt training"),
    Probe("gpu-ecc-rate", ("nvml",), rules_gpu.ecc_rate, _SHADOW, "corrected errors by the million announce worse"),
    Probe("gpu-remap", ("nvml",), rules_gpu.row_remap, _DRAIN, "no spare memory rows are left"),
    Probe("gpu-recovery", ("nvml",), rules_gpu.nvml_recovery, _DRAIN, "the driver asks for a reset or a reboot"),
    Probe("nvlink", ("nvml",), rules_gpu.nvlink_down, _DRAIN, "a link that is down breaks or slows every collective"),
    Probe("nvlink-errors", ("nvml",), rules_gpu.nvlink_errors, _SHADOW, "links that correct themselves too often"),
    Probe("pcie-link", ("nvml",), rules_gpu.pcie_link, _WARN, "lanes lost at boot slow loading and checkpoints"),
    Probe("pcie-replay", ("nvml",), rules_gpu.pcie_replays, _WARN, "a slot or riser that corrupts transfers"),
    Probe("gpu-thermal", ("nvml",), rules_gpu.thermal, _WARN, "one hot GPU slows the whole job down"),
    Probe("gpu-clock", ("nvml",), rules_gpu.low_clock, _SHADOW, "busy and slow without a reason"),
    Probe("gpu-persistence", ("nvml",), rules_gpu.persistence, _WARN, "the driver unloads between jobs"),
    Probe("gpu-software", ("nvml",), rules_gpu.software, _WARN, "driver or firmware differs from the other nodes"),
    Probe("gpu-strays", ("nvml",), rules_gpu.strays, _WARN, "a job's processes that outlived it hold memory"),
    Probe("ib-port", ("infiniband",), rules_network.port_down, _DRAIN, "a fabric port that stays down", True),
    Probe("ib-rate", ("infiniband",), rules_network.port_rate, _WARN, "a port that trained to a lower rate", True),
    Probe("ib-flaps", ("infiniband",), rules_network.port_flaps, _WARN, "a port that goes and comes back", True),
    Probe("ib-errors", ("infiniband",), rules_network.port_errors, _SHADOW, "error counters that rise", True),
    Probe("ethernet", ("ethernet",), rules_network.ethernet, _WARN, "interfaces down, slow or flapping", True),
    Probe("mount", ("mounts",), rules_storage.mount_missing, _DRAIN, "storage that is not there", True),
    Probe("read-only", ("mounts",), rules_storage.mount_read_only, _DRAIN, "a disk the kernel gave up on", True),
    Probe("mount-answer", ("answers",), rules_storage.mount_answer, _WARN, "storage that hangs or errs"),
    Probe("nfs-backlog", ("nfs",), rules_storage.nfs_backlog, _WARN, "requests that queue up in the client"),
    Probe("disk-space", ("answers",), rules_storage.space, _WARN, "full disks fail jobs in disguise"),
    Probe(
        "kernel", ("kernel-log",), rules_kernel_notice.family("kernel"), _WARN, "lockups, stalls, oopses, broken PCIe"
    ),
    Probe(
        "kernel-storage",
        ("kernel-log",),
        rules_kernel_notice.family("storage"),
        _WARN,
        "disks and file systems that fail",
    ),
    Probe(
        "kernel-network", ("kernel-log",), rules_kernel_notice.family("network"), _WARN, "adapters and cables that fail"
    ),
    Probe(
        "kernel-memory",
        ("kernel-log",),
        rules_kernel_notice.family("memory"),
        _WARN,
        "machine checks, memory that ran out",
    ),
    Probe("memory-size", ("ram",), rules_host.memory_size, _WARN, "a memory module is gone", True),
    Probe("memory-errors", ("edac", "ras", "ram"), rules_host.memory_errors, _WARN, "errors of main memory"),
    Probe(
        "firmware", ("firmware", "infiniband"), rules_host.firmware, _WARN, "versions that differ from the other nodes"
    ),
    Probe("service", ("services",), rules_host.services, _DRAIN, "fabric manager and other needed services", True),
    Probe("clock", ("clock",), rules_host.clock, _WARN, "a clock nobody steers", True),
    Probe("processes", ("processes",), rules_host.stuck_processes, _WARN, "processes no signal reaches, zombies"),
    Probe("shared-memory", ("ram", "shared"), rules_host.shared_memory, _WARN, "what jobs left in /dev/shm"),
    Probe("leftovers", ("containers",), rules_host.leftovers, _WARN, "containers of jobs that are over"),
    Probe("burn-in", ("burn-in",), _burn_in, _WARN, "wrong answers to known work corrupt training"),
    Probe("burn-in-slow", ("burn-in",), _burn_in_slow, _SHADOW, "right answers, much slower than its kind"),
    Probe("probe-hang", (), rules_host.unanswered, _WARN, "a source that hangs, named", True),
)
"""In the order in which findings are shown: the kernel names the cause, NVML mostly the consequence."""

NOT_OF_THE_HOST = frozenset({"nvml", "kernel-log", "burn-in"})
"""Sources that a look without the host asks; `burn-in` is the record of the last one, not a new one."""

DEFAULT_STATES: Mapping[str, ProbeState] = {probe.name: probe.default for probe in PROBES}


def resolve(settings: Iterable[ProbeSetting]) -> Mapping[str, ProbeState]:
    """The state of every probe. Raises ConfigError for a name there is not, with the nearest one."""
    states = dict(DEFAULT_STATES)
    for setting in settings:
        if setting.name not in states:
            import difflib

            close = difflib.get_close_matches(setting.name, states, n=1)
            nearest = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(
                setting.source,
                f"there is no probe {setting.name}{nearest}",
                hint="List them: sovctl health probes",
            )
        states[setting.name] = setting.state
    return states


def needed_sources(states: Mapping[str, ProbeState], *, quick: bool = False) -> frozenset[str]:
    """What has to be read for the probes that are not off; `quick`: only for those of the prolog."""
    return frozenset(
        source
        for probe in PROBES
        if states.get(probe.name, probe.default) is not ProbeState.OFF and (probe.quick or not quick)
        for source in probe.sources
    )


def source_groups(states: Mapping[str, ProbeState]) -> tuple[frozenset[str], ...]:
    """Sources of the host that have to be read together, because one probe needs them together; in a fixed order."""
    groups: list[set[str]] = []
    for probe in PROBES:
        if states.get(probe.name, probe.default) is ProbeState.OFF:
            continue
        together = set(probe.sources) - NOT_OF_THE_HOST
        for group in [group for group in groups if group & together]:
            together |= group
            groups.remove(group)
        if together:
            groups.append(together)
    return tuple(sorted((frozenset(group) for group in groups), key=sorted))


def apply(
    snapshot: NodeSnapshot, states: Mapping[str, ProbeState], *, quick: bool = False
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """(findings that count, findings of probes in shadow); each names its probe."""
    counted: list[Finding] = []
    shadow: list[Finding] = []
    for probe in PROBES:
        state = states.get(probe.name, probe.default)
        if state is ProbeState.OFF or (quick and not probe.quick):
            continue
        for finding in probe.rule(snapshot):
            named = replace(finding, probe=probe.name)
            if state is ProbeState.SHADOW:
                shadow.append(named)
            elif state is ProbeState.WARN and finding.severity is Severity.FAIL:
                counted.append(replace(named, severity=Severity.WARN))
            else:
                counted.append(named)
    return tuple(counted), tuple(shadow)


def sources_of(name: str) -> tuple[str, ...]:
    """What a probe reads; nothing for a probe there is not (a file written by another version)."""
    return _BY_NAME[name].sources if name in _BY_NAME else ()


_BY_NAME = {probe.name: probe for probe in PROBES}
