"""A node that looks at itself: health check, watcher, prolog and epilog."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.cli.wiring.burn_in import burn_in_ports, burn_in_settings
from sovctl.cli.wiring.places import cluster_journal_dir, ledgers, node_name, node_records
from sovctl.cli.wiring.slurm_access import slurm
from sovctl.config import Config, load_config

if TYPE_CHECKING:
    from sovctl.adapters.run.rank_processes import RankProcesses
    from sovctl.operations.node.check_node import CheckSettings, NodePorts
    from sovctl.operations.node.free_steps import StepFreer
    from sovctl.operations.node.guard_job import JobPorts, JobSettings
    from sovctl.operations.supervisor.look_at_job import JobLookPorts
    from sovctl.ports.node import AliveMark, EvidenceFiles, GpuProbe, HostProbe, HostWatch


def rank_probe() -> RankProcesses:
    """The ranks of a job on this node."""
    from sovctl.adapters.run.rank_processes import RankProcesses

    return RankProcesses()


def job_look_ports(config: Config) -> JobLookPorts:
    """What a look at the ranks of a job touches."""
    import time

    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.node.kmsg import KernelLogFile
    from sovctl.adapters.node.sysfs import infiniband
    from sovctl.adapters.node.verdict_file import VerdictFile
    from sovctl.operations.supervisor.look_at_job import JobLookPorts

    kernel_log = KernelLogFile(Path(config.node.kernel_log), Path(config.node.boot_id_file))
    return JobLookPorts(
        ranks=rank_probe(),
        gpus=_nvml(config, 2.5),
        kernel_log=kernel_log,
        verdicts=VerdictFile(Path(config.node.run_dir), Path(config.node.state_dir), kernel_log.boot_id()),
        clock=SystemClock(),
        uptime_s=time.clock_gettime(time.CLOCK_MONOTONIC),
        network=lambda: infiniband(config.node.host_root.rstrip("/")),
    )


def node_ports(config: Config, *, wake: int = -1, host: bool = True) -> NodePorts:
    """What `health check` and `health watch` touch; `wake`: a descriptor that ends a wait for the kernel log.

    `host` False: a look at the GPUs and the kernel log only.
    """
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.journal import FileJournal, FileTurn
    from sovctl.adapters.node.kmsg import KernelLogFile
    from sovctl.adapters.node.nvml import NvmlProbe
    from sovctl.adapters.node.verdict_file import VerdictFile
    from sovctl.adapters.slurm.cli import SlurmCli
    from sovctl.operations.node.check_node import NodePorts

    kernel_log = KernelLogFile(Path(config.node.kernel_log), Path(config.node.boot_id_file), wake)
    slurm = SlurmCli(CommandRunner(), bin_dir=config.slurm.bin_dir, timeout_s=config.slurm.timeout_s)
    journal_dir = cluster_journal_dir(config)
    return NodePorts(
        gpus=NvmlProbe(config.health.probe_timeout_s, config.node.nvml_library),
        kernel_log=kernel_log,
        verdicts=VerdictFile(Path(config.node.run_dir), Path(config.node.state_dir), kernel_log.boot_id()),
        nodes=slurm,
        cluster=slurm,
        journal=FileJournal(journal_dir / "nodes" / f"{node_name(config)}.jsonl", lock_wait_s=2.0),
        turn=FileTurn(journal_dir / "drain.lock"),
        clock=SystemClock(),
        host=host_probe(config, config.health.source_timeout_s) if host else None,
        records=node_records(config),
    )


def host_probe(config: Config, timeout_s: float) -> HostProbe:
    """Adapters, mounts, memory and services of this node."""
    from sovctl.adapters.node.host_probe import HostFiles

    return HostFiles(config.node.host_root, timeout_s)


def host_watch(config: Config) -> HostWatch:
    """The same for the watcher."""
    from sovctl.adapters.node.host_probe import HostFiles

    return HostFiles(config.node.host_root, config.health.source_timeout_s)


def lemons() -> frozenset[str]:
    """Nodes with a bad record, by what everybody may read in the cluster journal."""
    import time

    from sovctl.operations.nodes import known_lemons

    return known_lemons(ledgers(load_config()), time.time())


def job_ports(config: Config, job_id: str, *, prolog: bool) -> JobPorts:
    """What prolog and epilog touch; the prolog asks NVML only which GPUs there are."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.node.kmsg import KernelLogFile
    from sovctl.adapters.node.verdict_file import VerdictFile
    from sovctl.operations.node.guard_job import JobPorts

    kernel_log = KernelLogFile(Path(config.node.kernel_log), Path(config.node.boot_id_file))
    timeout_s = config.health.prolog_timeout_s
    return JobPorts(
        gpus=_gpu_count(config, timeout_s) if prolog else _nvml(config, timeout_s),
        kernel_log=kernel_log,
        verdicts=VerdictFile(Path(config.node.run_dir), Path(config.node.state_dir), kernel_log.boot_id()),
        clock=SystemClock(),
        host=host_probe(config, timeout_s),
        records=node_records(config),
        evidence=None if prolog else job_evidence(config),
        burn_in=burn_in_ports(config, job_id) if config.burn_in.after_jobs and not prolog else None,
    )


def job_evidence(config: Config) -> EvidenceFiles:
    """Where the epilogs of all nodes leave what blame is told by."""
    from sovctl.adapters.node.job_evidence import JobEvidenceFiles

    return JobEvidenceFiles(cluster_journal_dir(config))


def gpu_probe(config: Config) -> GpuProbe:
    """The GPUs of this node, with all that NVML tells."""
    return _nvml(config, config.health.probe_timeout_s)


def _gpu_count(config: Config, timeout_s: float) -> GpuProbe:
    from sovctl.adapters.node.gpu_count import GpuCount

    return GpuCount(timeout_s, config.node.nvml_library)


def _nvml(config: Config, timeout_s: float) -> GpuProbe:
    from sovctl.adapters.node.nvml import NvmlProbe

    return NvmlProbe(timeout_s, config.node.nvml_library)


def job_settings(config: Config, job_id: str) -> JobSettings:
    """How the prolog and the epilog of one job judge."""
    from sovctl.health.probes import resolve
    from sovctl.operations.node.guard_job import JobSettings

    return JobSettings(
        node=node_name(config),
        job_id=job_id,
        act=config.health.act,
        expected_gpus=config.node.expected_gpus if config.node.expected_gpus >= 0 else None,
        probes=resolve(config.probes.settings),
        verdict_valid_s=config.health.verdict_valid_s,
        burn_in=burn_in_settings(config) if config.burn_in.after_jobs else None,
    )


def check_settings(config: Config, *, observe: bool, dry_run: bool = False) -> CheckSettings:
    """How far a look at this node may go."""
    from sovctl.health.probes import resolve
    from sovctl.operations.node.check_node import CheckSettings

    return CheckSettings(
        node=node_name(config),
        uid=os.geteuid(),
        act=config.health.act and not observe,
        dry_run=dry_run,
        expected_gpus=config.node.expected_gpus if config.node.expected_gpus >= 0 else None,
        drain_limit_per_hour=config.health.drain_limit_per_hour,
        verdict_valid_s=config.health.verdict_valid_s,
        probes=resolve(config.probes.settings),
    )


def alive_mark(config: Config) -> AliveMark:
    """This node's mark in the cluster journal."""
    from sovctl.adapters.node.alive import AliveFile

    return AliveFile(cluster_journal_dir(config) / "alive", node_name(config))


def step_freer(config: Config) -> StepFreer:
    """Ends what is left of a job on this node, when the watch on the controller asks for it."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.slurm.step_daemons import ProcStepDaemons
    from sovctl.operations.node.free_steps import StepFreer

    node = node_name(config)

    def spool() -> str:
        host = os.uname().nodename.partition(".")[0]
        return slurm().settings().get("SlurmdSpoolDir", "").replace("%n", node).replace("%h", host)

    return StepFreer(ProcStepDaemons(cluster_journal_dir(config) / "stuck", node, spool), SystemClock())
