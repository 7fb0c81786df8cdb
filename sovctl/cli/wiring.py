"""The only place that picks adapters. Each function imports what it needs, so that no command pays for another's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.config import Config, load_config
from sovctl.errors import SovctlError, StorageSilent

if TYPE_CHECKING:
    from collections.abc import Callable

    from sovctl.adapters.slurm_cli import SlurmCli
    from sovctl.operations.burn_in import BurnInPorts, BurnInSettings
    from sovctl.operations.check_node import CheckSettings, NodePorts
    from sovctl.operations.exec_step import ExecPorts, ExecSettings
    from sovctl.operations.free_steps import StepFreer
    from sovctl.operations.guard_job import JobPorts, JobSettings
    from sovctl.operations.images import ImagePorts
    from sovctl.operations.live_run import Ports as SupervisorPorts
    from sovctl.operations.look_at_job import JobLookPorts
    from sovctl.operations.node_by_hand import HandPorts
    from sovctl.operations.runs import RunPorts
    from sovctl.operations.sweep import SweepPorts, SweepSettings
    from sovctl.operations.watch_cluster import ClusterWatch
    from sovctl.ports import (
        AliveMark,
        EnvLayers,
        EvidenceFiles,
        GpuProbe,
        HostProbe,
        HostWatch,
        Journal,
        Ledgers,
        NodeRecords,
        RemoteShell,
        RunIndex,
        RunRecords,
        StepCommand,
        SubmissionFiles,
        Submitter,
    )


_ASK_S = 5.0
"""How long a submission waits for what it can do without."""


def submitter() -> Submitter:
    """sbatch of this site."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.sbatch import Sbatch

    return Sbatch(CommandRunner(), bin_dir=load_config().slurm.bin_dir)


def may_expedite() -> bool:
    """Whether the controller and sbatch of this site take --requeue=expedite. A controller that is not there, or slow
    to answer, says no: sbatch itself has the words for that."""
    from sovctl.submit.expedite import enabled, new_enough

    try:
        return enabled(slurm(_ASK_S).settings()) and new_enough(submitter().answer(["--version"]).stdout)
    except SovctlError:
        return False


def submission_files() -> SubmissionFiles:
    """The files of this machine."""
    from sovctl.adapters.submission_files import LocalFiles

    return LocalFiles()


def run_index() -> RunIndex:
    """The user's list of submitted runs."""
    from sovctl.adapters.run_index import RunIndexFiles, index_directory

    return RunIndexFiles(index_directory(os.environ))


def run_records() -> RunRecords:
    """The records of runs."""
    from sovctl.adapters.run_records import RunRecordFiles

    return RunRecordFiles()


def run_ports() -> RunPorts:
    """What a look at runs touches."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.run_records import RunRecordFiles
    from sovctl.operations.runs import RunPorts

    slurm_commands = slurm()
    return RunPorts(run_index(), RunRecordFiles(), slurm_commands, slurm_commands, SystemClock())


def fold_hostlist(names: Iterable[str]) -> str:
    """Names as `n[001-003]`."""
    from sovctl.adapters.slurm_parse import fold

    return fold(names)


def expand_hostlist(hostlist: str) -> tuple[str, ...]:
    """`n[001-003]` as names."""
    from sovctl.adapters.slurm_parse import expand

    return expand(hostlist)


def slurm(timeout_s: float | None = None) -> SlurmCli:
    """The Slurm commands of this site; `timeout_s`: how long each may take, if not as configured."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.slurm_cli import SlurmCli

    config = load_config().slurm
    return SlurmCli(CommandRunner(), bin_dir=config.bin_dir, timeout_s=timeout_s or config.timeout_s)


def supervisor_ports(run_dir: Path) -> SupervisorPorts:
    """Everything the supervisor of a run touches."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import spawn
    from sovctl.adapters.job_look import SrunLook
    from sovctl.adapters.journal import FileJournal
    from sovctl.adapters.leftover import Leftover
    from sovctl.adapters.node_ping import SlurmdPing
    from sovctl.adapters.patient import Patience, PatientJournal, PatientOutput, PatientRunFiles, PatientRunOutput
    from sovctl.adapters.run_files import FileTail, RunDirectory
    from sovctl.adapters.run_output import OutputFiles
    from sovctl.adapters.signals import SignalQueue
    from sovctl.adapters.spare_steps import SrunHold
    from sovctl.operations.live_run import Ports

    slurm_commands = slurm()
    # The run directory, the job's output and the checkpoints may lie on storages of their own.
    patience, of_output = Patience(), Patience()
    directory = RunDirectory(run_dir)
    files = PatientRunFiles(directory, directory, patience, str(run_dir))

    def say(words: str) -> None:
        with suppress(StorageSilent):
            of_output.ask(lambda: print(f"sovctl: {words}", file=sys.stderr, flush=True), later=True)

    return Ports(
        jobs=slurm_commands,
        cluster=slurm_commands,
        journal=PatientJournal(FileJournal(run_dir / "events.jsonl"), patience),
        files=files,
        ping=SlurmdPing(),
        start=lambda argv, env: spawn(argv, env=env),
        signals=SignalQueue(),
        output=PatientOutput(FileTail(), of_output),
        clock=SystemClock(),
        say=say,
        fold=fold_hostlist,
        leftover=Leftover,
        evidence=job_evidence(load_config()).load,
        looks=SrunLook(os.environ.get("SLURM_JOB_ID", ""), os.environ, bin_dir=load_config().slurm.bin_dir),
        spares=SrunHold(os.environ.get("SLURM_JOB_ID", ""), os.environ, bin_dir=load_config().slurm.bin_dir),
        run_output=PatientRunOutput(OutputFiles(), of_output),
        kept=files,
        checkpoints=Patience().ask,
    )


def stay_ended(job_id: str) -> bool:
    """The batch script is about to end with a status other than 0, which must not bring an expedited job back."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.operations.stay_ended import stay_ended as stay

    return stay(job_id, slurm(), SystemClock())


def keep_alive(work: Callable[[], int], give_up: Callable[[], int]) -> int:
    """Run the supervisor in a process that may be killed."""
    from sovctl.adapters.kept_alive import keep_alive as keep

    return keep(work, give_up)


# A node looks at itself


def config_of_this_node() -> Config:
    """The settings of the node a job step runs on; the nodes of a lab have settings of their own on one machine."""
    lab, node = os.environ.get("SOVCTL_LAB_DIR"), os.environ.get("SLURMD_NODENAME")
    own = Path(lab, "nodes", node, "sovctl.toml") if lab and node else None
    if own is not None and own.exists():
        return load_config({**os.environ, "SOVCTL_CONFIG": str(own)})
    return load_config()


def job_look_ports(config: Config) -> JobLookPorts:
    """What a look at the ranks of a job touches."""
    import time

    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.kmsg import KernelLogFile
    from sovctl.adapters.rank_processes import RankProcesses
    from sovctl.adapters.sysfs import infiniband
    from sovctl.adapters.verdict_file import VerdictFile
    from sovctl.operations.look_at_job import JobLookPorts

    kernel_log = KernelLogFile(Path(config.node.kernel_log), Path(config.node.boot_id_file))
    return JobLookPorts(
        ranks=RankProcesses(),
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
    from sovctl.adapters.kmsg import KernelLogFile
    from sovctl.adapters.nvml import NvmlProbe
    from sovctl.adapters.slurm_cli import SlurmCli
    from sovctl.adapters.verdict_file import VerdictFile
    from sovctl.operations.check_node import NodePorts

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
    from sovctl.adapters.host_probe import HostFiles

    return HostFiles(config.node.host_root, timeout_s)


def host_watch(config: Config) -> HostWatch:
    """The same for the watcher."""
    from sovctl.adapters.host_probe import HostFiles

    return HostFiles(config.node.host_root, config.health.source_timeout_s)


def node_records(config: Config) -> NodeRecords:
    """What this node learnt, counted and remembered."""
    from sovctl.adapters.node_records import NodeRecordFiles

    inventory = Path(config.node.inventory) if config.node.inventory else None
    name = node_name(config)
    shared = Path(config.cluster.journal_dir) / "ledgers" / f"{name}.json" if config.cluster.journal_dir else None
    return NodeRecordFiles(Path(config.node.run_dir), Path(config.node.state_dir), inventory, shared)


def ledgers(config: Config) -> Ledgers | None:
    """What the nodes show each other; None without a shared directory."""
    from sovctl.adapters.node_records import LedgerFiles

    return LedgerFiles(Path(config.cluster.journal_dir)) if config.cluster.journal_dir else None


def inventory_path(config: Config) -> Path:
    """Where `health probes --learn` writes."""
    return Path(config.node.inventory or Path(config.node.state_dir) / "inventory.json")


def own_journal(config: Config) -> Journal:
    """This node's part of the cluster journal."""
    from sovctl.adapters.journal import FileJournal

    return FileJournal(cluster_journal_dir(config) / "nodes" / f"{node_name(config)}.jsonl", lock_wait_s=2.0)


def job_ports(config: Config, job_id: str, *, prolog: bool) -> JobPorts:
    """What prolog and epilog touch; the prolog asks NVML only which GPUs there are."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.kmsg import KernelLogFile
    from sovctl.adapters.verdict_file import VerdictFile
    from sovctl.operations.guard_job import JobPorts

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
    from sovctl.adapters.job_evidence import JobEvidenceFiles

    return JobEvidenceFiles(cluster_journal_dir(config))


def burn_in_ports(config: Config, own_job: str = "") -> BurnInPorts:
    """What a burn-in of this node touches; `own_job`: the one that just ended here."""
    from sovctl.adapters.burn_in import ReferenceFile, TorchBurnIn
    from sovctl.adapters.journal import FileTurn
    from sovctl.adapters.other_jobs import OtherJobs
    from sovctl.operations.burn_in import BurnInPorts

    records = node_records(config)
    shared = cluster_journal_dir(config)
    program = Path(__file__).resolve().parents[1] / "train" / "burn_in.py"
    return BurnInPorts(
        work=TorchBurnIn(program, config.burn_in.python),
        records=records,
        references=ReferenceFile(shared / "burn-in-references.json"),
        turn=FileTurn(shared / "burn-in.lock"),
        busy=OtherJobs(records.jobs, config.node.host_root, own_job),
    )


def burn_in_python(config: Config) -> str:
    """The interpreter that is to have torch."""
    return config.burn_in.python or sys.executable


def gpu_probe(config: Config) -> GpuProbe:
    """The GPUs of this node, with all that NVML tells."""
    return _nvml(config, config.health.probe_timeout_s)


def burn_in_settings(config: Config) -> BurnInSettings:
    """How long and with what. Raises ConfigError."""
    from sovctl.errors import ConfigError
    from sovctl.operations.burn_in import BurnInSettings

    chosen = config.burn_in
    if chosen.device not in ("auto", "cuda", "cpu"):
        raise ConfigError("burn_in.device", f"must be auto, cuda or cpu, not {chosen.device!r}")
    return BurnInSettings(node_name(config), chosen.device, chosen.seconds, chosen.timeout_s, chosen.every_s)


def _gpu_count(config: Config, timeout_s: float) -> GpuProbe:
    from sovctl.adapters.gpu_count import GpuCount

    return GpuCount(timeout_s, config.node.nvml_library)


def _nvml(config: Config, timeout_s: float) -> GpuProbe:
    from sovctl.adapters.nvml import NvmlProbe

    return NvmlProbe(timeout_s, config.node.nvml_library)


def job_settings(config: Config, job_id: str) -> JobSettings:
    """How the prolog and the epilog of one job judge."""
    from sovctl.health.probes import resolve
    from sovctl.operations.guard_job import JobSettings

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
    from sovctl.operations.check_node import CheckSettings

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
    from sovctl.adapters.alive import AliveFile

    return AliveFile(cluster_journal_dir(config) / "alive", node_name(config))


def node_journal(config: Config, node: str) -> Journal:
    """What was written about one node in the cluster journal."""
    from sovctl.adapters.journal import FileJournal

    return FileJournal(cluster_journal_dir(config) / "nodes" / f"{node}.jsonl")


def cluster_journal_dir(config: Config) -> Path:
    """The cluster journal; without one, the node keeps its own record."""
    return Path(config.cluster.journal_dir or config.node.state_dir)


def node_name(config: Config) -> str:
    """This node as Slurm calls it."""
    return config.node.name or os.environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]


def step_freer(config: Config) -> StepFreer:
    """Ends what is left of a job on this node, when the watch on the controller asks for it."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.step_daemons import ProcStepDaemons
    from sovctl.operations.free_steps import StepFreer

    node = node_name(config)

    def spool() -> str:
        host = os.uname().nodename.partition(".")[0]
        return slurm().settings().get("SlurmdSpoolDir", "").replace("%n", node).replace("%h", host)

    return StepFreer(ProcStepDaemons(cluster_journal_dir(config) / "stuck", node, spool), SystemClock())


def cluster_watch(config: Config, *, act: bool, say: Callable[[str], None]) -> ClusterWatch:
    """The watch on the controller. Raises RefusedError when another one runs."""
    from sovctl.adapters.alive import read_alive
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.journal import FileJournal
    from sovctl.adapters.node_ping import SlurmdPing
    from sovctl.adapters.single_instance import claim
    from sovctl.adapters.step_daemons import ask_to_free
    from sovctl.operations.watch_cluster import ClusterWatch, WatchPorts, WatchSettings

    journal_dir = cluster_journal_dir(config)
    claim(journal_dir / "watch.lock", "sovctl watch")
    ports = WatchPorts(
        site=slurm(),
        ping=SlurmdPing(),
        alive=lambda: read_alive(journal_dir / "alive"),
        journal=FileJournal(journal_dir / "watch.jsonl"),
        clock=SystemClock(),
        ask_to_free=partial(ask_to_free, journal_dir / "stuck"),
    )
    settings = WatchSettings(
        act=act,
        interval_s=config.watch.interval_s,
        silent_for_s=config.watch.silent_for_s,
        dead_limit_per_hour=config.watch.dead_limit_per_hour,
    )
    return ClusterWatch(ports, settings, say)


# The whole cluster from one place


def local_shell() -> RemoteShell:
    """This machine, for the node it is."""
    from sovctl.adapters.local_shell import LocalShell

    return LocalShell()


def remote_shell(config: Config) -> RemoteShell:
    """SSH; inside `sovctl lab shell` without SSH settings of its own, the nodes are directories of this machine."""
    from sovctl.adapters.ssh import SshSettings, SshShell
    from sovctl.config import SshConfig

    lab = os.environ.get("SOVCTL_LAB_DIR")
    if lab and config.ssh == SshConfig():
        from sovctl.adapters.local_shell import LocalShell

        return LocalShell(Path(lab))
    ssh = config.ssh
    return SshShell(SshSettings(ssh.user, ssh.port, ssh.key_file, ssh.config_file, ssh.known_hosts, ssh.at_once))


def check_command(config: Config) -> str:
    """What a node runs to check itself now."""
    from sovctl.operations.sweep import check_command

    return check_command(config.sweep.check_command, config.node.run_dir)


def hand_ports(config: Config) -> HandPorts:
    """What a person's command on a node touches."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.operations.node_by_hand import HandPorts

    return HandPorts(slurm(), cluster_journal(config, "hand"), SystemClock())


@contextmanager
def sweep_turn(config: Config, *, act: bool) -> Iterator[None]:
    """One sweep at a time. Raises RefusedError when another runs. Who may not write there only looks, and may."""
    from sovctl.adapters.single_instance import claim
    from sovctl.errors import RefusedError, SovctlError

    descriptor = -1
    try:
        descriptor = claim(cluster_journal_dir(config) / "sweep.lock", "sovctl sweep")
    except RefusedError:
        raise
    except SovctlError:
        if act:
            raise
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def sweep_ports(config: Config) -> SweepPorts:
    """What a sweep touches."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.journal import FileTurn
    from sovctl.operations.sweep import SweepPorts

    return SweepPorts(
        site=slurm(),
        shell=remote_shell(config),
        journal=cluster_journal(config, "sweep"),
        turn=FileTurn(cluster_journal_dir(config) / "drain.lock"),
        clock=SystemClock(),
        ledgers=ledgers(config),
        evidence=job_evidence(config),
    )


def sweep_settings(config: Config, *, act: bool, only: tuple[str, ...]) -> SweepSettings:
    """How far a sweep goes."""
    from sovctl.health.sweep import SweepPolicy
    from sovctl.operations.sweep import SweepSettings, stored_command

    chosen = config.sweep
    policy = SweepPolicy(
        drain_limit_per_hour=config.health.drain_limit_per_hour,
        drain_share_per_hour=chosen.drain_share_per_hour,
        retest=bool(chosen.retest_command.strip()),
        resume_limit_per_day=chosen.resume_limit_per_day,
        retest_pause_s=chosen.retest_pause_s,
        completing_s=chosen.completing_s,
        drain_codes=frozenset(chosen.drain_codes.split()),
    )
    return SweepSettings(
        act=act,
        policy=policy,
        stored_command=stored_command(config.node.boot_id_file, config.node.run_dir),
        check_command=check_command(config),
        retest_command=chosen.retest_command,
        ask_timeout_s=config.ssh.timeout_s,
        retest_timeout_s=chosen.retest_timeout_s,
        clock_offset_s=chosen.clock_offset_s,
        only=only,
        lemons_last=chosen.lemons_last,
    )


def cluster_journal(config: Config, writer: str) -> Journal:
    """The part of the cluster journal that one writer keeps: `sweep`, `watch`, `hand`."""
    from sovctl.adapters.journal import FileJournal

    return FileJournal(cluster_journal_dir(config) / f"{writer}.jsonl", lock_wait_s=2.0)


def image_ports(config: Config) -> ImagePorts:
    """What the commands on images touch."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.image_cache import ImageCache
    from sovctl.adapters.image_tools import ImageTools
    from sovctl.adapters.node_roots import NodeRoots
    from sovctl.isolation.cache import digest_of, file_name
    from sovctl.operations.images import ImagePorts

    chosen = config.isolation
    cache = ImageCache(image_cache_dir(config), file_name, digest_of)
    tools = ImageTools(CommandRunner(), chosen.plain_http.split(), chosen.pull_timeout_s)
    return ImagePorts(tools, cache, SystemClock(), NodeRoots(Path(chosen.node_dir)))


def image_cache_dir(config: Config) -> Path:
    """Where images are kept: the site's directory, else one of the user."""
    if config.isolation.cache_dir:
        return Path(config.isolation.cache_dir)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sovctl" / "images"


def exec_ports(config: Config) -> ExecPorts:
    """What `sovctl exec` touches."""
    from sovctl.adapters.command import become
    from sovctl.adapters.isolated_step import IsolatedSteps
    from sovctl.adapters.isolation_host import IsolationHost
    from sovctl.adapters.node_roots import NodeRoots
    from sovctl.adapters.step_holder import Recipe
    from sovctl.isolation.bubblewrap import mount_points, sandbox_argv
    from sovctl.operations.exec_step import ExecPorts

    host = IsolationHost(NodeRoots(Path(config.isolation.node_dir)))
    steps = IsolatedSteps(Recipe(sandbox_argv, mount_points))
    return ExecPorts(image_ports(config), host, steps, env_layers(config), become)


def exec_settings(config: Config) -> ExecSettings:
    """What the site allows in isolated steps."""
    from sovctl.operations.exec_step import ExecSettings, words_of

    chosen = config.isolation
    return ExecSettings(words_of(chosen.allow_images), words_of(chosen.allow_mounts), words_of(chosen.allow_env))


def step_command(config: Config, *, here: bool) -> StepCommand:
    """A sovctl command in a step of Slurm, or on this machine."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.step_command import StepCommand

    return StepCommand(CommandRunner(), config.slurm.bin_dir, here=here)


def env_layers(config: Config) -> EnvLayers:
    """The named layers of this user."""
    from sovctl.adapters.env_layers import EnvLayers

    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return EnvLayers(Path(config.isolation.env_dir) if config.isolation.env_dir else data / "sovctl" / "env")
