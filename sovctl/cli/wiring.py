"""The only place that picks adapters. Each function imports what it needs, so that no command pays for another's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.config import Config, load_config
from sovctl.errors import SovctlError, StorageSilent, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sovctl.adapters.known_names import KnownNames
    from sovctl.adapters.node_roots import NodeRoots
    from sovctl.adapters.oci_bundle import OciBundles
    from sovctl.adapters.rank_processes import RankProcesses
    from sovctl.adapters.slurm_cli import SlurmCli
    from sovctl.adapters.tiny_image import TinyImage
    from sovctl.isolation.inside import Inside
    from sovctl.model.alert import Alert
    from sovctl.model.site import MachineView
    from sovctl.operations.burn_in import BurnInPorts, BurnInSettings
    from sovctl.operations.check_node import CheckSettings, NodePorts
    from sovctl.operations.doctor import DoctorPorts, DoctorSettings
    from sovctl.operations.exec_step import ExecPorts, ExecSettings, StepRunner
    from sovctl.operations.free_steps import StepFreer
    from sovctl.operations.guard_job import JobPorts, JobSettings
    from sovctl.operations.image_of_run import RunImage
    from sovctl.operations.images import ImagePorts
    from sovctl.operations.live_run import Ports as SupervisorPorts
    from sovctl.operations.look_at_job import JobLookPorts
    from sovctl.operations.node_by_hand import HandPorts
    from sovctl.operations.prove_runtimes import RuntimeProof
    from sovctl.operations.report import ReportPorts
    from sovctl.operations.report import SitePorts as ReportSitePorts
    from sovctl.operations.runs import RunPorts
    from sovctl.operations.send_alerts import AlertSender, FollowedJournal
    from sovctl.operations.site import SitePorts
    from sovctl.operations.spares import SparePorts
    from sovctl.operations.sweep import SweepPorts, SweepSettings
    from sovctl.operations.watch_cluster import ClusterWatch
    from sovctl.operations.watch_deaths import DeathPorts, DeathSettings
    from sovctl.operations.watch_suspects import SuspectPorts
    from sovctl.ports import (
        AlertChannel,
        AlertSpool,
        AliveMark,
        EnvLayers,
        EvidenceFiles,
        GpuProbe,
        HostProbe,
        HostWatch,
        Journal,
        Ledgers,
        MadeOfFiles,
        NodeRecords,
        Preemption,
        RemoteShell,
        RunIndex,
        RunRecords,
        SiteAnswers,
        StepCommand,
        SubmissionFiles,
        Submitter,
    )
    from sovctl.recovery.spares import Classes
    from sovctl.site.catalogue import Places


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


def preemption() -> Preemption:
    """How Slurm preempts; a controller that is slow to answer is not waited for."""
    return slurm(_ASK_S)


def preemptible_partition() -> str:
    """The partition of preemptible jobs; empty: this cluster has none of that name, or does not say."""
    name = load_config().run.preemptible_partition
    try:
        return name if name and name in slurm(_ASK_S).partitions() else ""
    except SovctlError:
        return ""


def known_names(kind: str) -> KnownNames:
    """Names of this kind that a shell completes. Raises KeyError for a kind that there is not."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.known_names import KnownNames

    return KnownNames(kind, CommandRunner(), os.environ, bin_dir=load_config().slurm.bin_dir)


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
    from sovctl.adapters.run_index import RunIndexFiles, index_directory
    from sovctl.adapters.run_records import RunRecordFiles
    from sovctl.operations.runs import RunPorts

    slurm_commands, kept = slurm(), _made_of_files()
    return RunPorts(
        RunIndexFiles(index_directory(os.environ), kept),
        RunRecordFiles(),
        slurm_commands,
        slurm_commands,
        SystemClock(),
        slurm_commands,
        kept,
    )


def _made_of_files() -> MadeOfFiles:
    from sovctl import __version__
    from sovctl.adapters.made_of_files import MadeOfFiles, cache_file
    from sovctl.recovery.run_digest import DIGEST

    return MadeOfFiles(cache_file(os.environ), f"sovctl {__version__}, digest {DIGEST}")


def report_ports(config: Config) -> ReportPorts:
    """What a report reads: root everything, others what is theirs."""
    from sovctl.adapters.background import InThread
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.sacct import Sacct
    from sovctl.operations.report import ReportPorts

    return ReportPorts(
        runs=run_ports(),
        accounting=Sacct(CommandRunner(), bin_dir=config.slurm.bin_dir),
        active=lambda: {job.job_id.partition("_")[0]: job.uid for job in slurm().jobs() if not job.over},
        beside=InThread,
        site=_site_records(config) if os.geteuid() == 0 else None,
    )


def _site_records(config: Config) -> ReportSitePorts:
    from sovctl.adapters.site_records import SiteRecordFiles
    from sovctl.adapters.user_records import UserRecordFiles
    from sovctl.operations.report import SitePorts

    return SitePorts(SiteRecordFiles(cluster_journal_dir(config)), UserRecordFiles(), os.geteuid())


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
    kind = SlurmCli
    if config.pyslurm:
        from sovctl.adapters.slurm_api import SlurmApi as kind
    return kind(CommandRunner(), bin_dir=config.bin_dir, timeout_s=timeout_s or config.timeout_s)


def become_behind(front: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Become a program that is found in the PATH behind the directory `front`."""
    from sovctl.adapters.command import become_behind as become

    become(front, argv, env)


def run_journal(run_dir: Path) -> Journal:
    """The record of a run; its storage is waited for only so long."""
    from sovctl.adapters.journal import FileJournal
    from sovctl.adapters.patient import Patience, PatientJournal

    return PatientJournal(FileJournal(run_dir / "events.jsonl"), Patience())


def supervisor_ports(run_dir: Path, inside: Inside | None = None) -> SupervisorPorts:
    """Everything the supervisor of a run touches; `inside`: the image of the run."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import spawn
    from sovctl.adapters.crowding import Crowding
    from sovctl.adapters.job_look import SrunLook
    from sovctl.adapters.journal import FileJournal
    from sovctl.adapters.leftover import Leftover
    from sovctl.adapters.node_ping import SlurmdPing
    from sovctl.adapters.patient import Patience, PatientJournal, PatientOutput, PatientRunFiles, PatientRunOutput
    from sovctl.adapters.run_files import FileTail, RunDirectory
    from sovctl.adapters.run_output import OutputFiles
    from sovctl.adapters.signals import SignalQueue
    from sovctl.adapters.spare_steps import SrunHold
    from sovctl.adapters.step_output import written_by_sruns
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
        lemons=lemons,
        site_answers=site_answers(load_config()).load,
        site_wrote=_site_wrote(load_config()),
        looks=SrunLook(os.environ.get("SLURM_JOB_ID", ""), os.environ, bin_dir=load_config().slurm.bin_dir),
        spares=SrunHold(os.environ.get("SLURM_JOB_ID", ""), os.environ, bin_dir=load_config().slurm.bin_dir),
        run_output=PatientRunOutput(OutputFiles(), of_output),
        written=written_by_sruns,
        kept=files,
        checkpoints=Patience().ask,
        crowding=Crowding(),
        image=_image_of_run(run_dir, inside) if inside else None,
    )


def _site_wrote(config: Config) -> Callable[[Sequence[str]], bool]:
    from sovctl.adapters.node_news import NodeNews
    from sovctl.adapters.patient import Patience

    news, patience = NodeNews(cluster_journal_dir(config)), Patience()

    def wrote(nodes: Sequence[str]) -> bool:
        try:
            return patience.ask(lambda: news.about(nodes))
        except StorageSilent:
            return False

    return wrote


def _image_of_run(run_dir: Path, inside: Inside) -> RunImage:
    from sovctl.adapters.oci_bundle import OciBundles
    from sovctl.adapters.run_files import RunDirectory
    from sovctl.model.image import ImageOfRun
    from sovctl.operations.image_of_run import ImagePlaces, RunImage

    def fetch(inside: Inside, own: str) -> tuple[str, str]:
        return image_runner(config, inside, {"SOVCTL_RUN_DIR": own}).fetch(ImageOfRun(inside.digest, inside.stamp))

    config = load_config()
    bundles = OciBundles(bundle_roots(config), _say)
    user = (os.geteuid(), os.getegid())
    places = ImagePlaces(
        fetch,
        RunDirectory(run_dir).put_before,
        bundles,
        step_command(config, here=False).offers,
        check_plugin_owner,
        lambda runtime: _nodes_outside(config, runtime, bundles),
        user,
    )
    return RunImage(inside, str(run_dir), (sys.executable, "-P", "-m", "sovctl"), places)


def _nodes_outside(config: Config, runtime: str, bundles: OciBundles) -> tuple[str, ...]:
    """Of this job's nodes; of a job of one node the batch host's own answer is enough."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.step_command import StepInJob
    from sovctl.operations.prove_runtimes import nodes_outside

    nodes = expand_hostlist(os.environ.get("SLURM_JOB_NODELIST", ""))
    if len(nodes) < 2:
        return ()
    runner = CommandRunner()
    tiny = tiny_image()
    step = StepInJob(runner, os.environ.get("SLURM_JOB_ID", ""), config.slurm.bin_dir)
    return nodes_outside(runtime, nodes, tiny, step, bundles, (os.geteuid(), os.getegid()))


def check_plugin_owner(path: str) -> None:
    """Raises RefusedError where the SPANK plugin of this machine would not mount this image."""
    from sovctl.adapters.plugstack import plugin_lines
    from sovctl.isolation.plugin_owners import check_owner, image_owners

    place = Path(path)
    owner = place.stat().st_uid if place.exists() else os.geteuid()  # who loads it will own it
    check_owner(image_owners(plugin_lines()), owner, path)


def cached_image(config: Config, digest: str) -> str:
    """Path of an image in the cache; of one that is not there yet, of the cache."""
    cache = image_ports(config).cache
    found = cache.find(digest)
    return found.path if found else f"{cache.where()}/..."


def runtime_proofs(
    config: Config, srun_options: Sequence[str], nodes: Sequence[str] = (), *, here: bool
) -> tuple[RuntimeProof, ...]:
    """What each runtime made of a tiny image, on all of some nodes."""
    from sovctl.adapters.oci_bundle import OciBundles
    from sovctl.operations.prove_runtimes import prove_runtimes

    tiny = tiny_image()
    bundles = OciBundles(bundle_roots(config), _say)
    step = step_command(config, here=here)
    return prove_runtimes(tiny, step, bundles, srun_options, (os.geteuid(), os.getegid()), nodes)


def measure_by_plugin(config: Config) -> str:
    """What a step sees that the SPANK plugin isolates, on this node."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.inside_view import Decoys
    from sovctl.adapters.plugstack import plugin_lines
    from sovctl.adapters.step_command import StepInJob
    from sovctl.isolation.plugin_owners import kept_paths
    from sovctl.operations.measure_plugin import measure_by_plugin as measure

    def lay() -> tuple[str, Callable[[], None]]:
        decoys = Decoys()
        return decoys.name, decoys.remove

    step = StepInJob(CommandRunner(), os.environ.get("SLURM_JOB_ID", ""), config.slurm.bin_dir)
    node = os.environ.get("SLURMD_NODENAME", "")
    return measure(step, node, kept_paths(plugin_lines(), node), lay)


def look_around(about: str) -> str:
    """What this process sees, isolated by whoever started it."""
    import json

    from sovctl.adapters.inside_view import look_around as look
    from sovctl.adapters.isolation_host import IsolationHost
    from sovctl.adapters.node_roots import NodeRoots
    from sovctl.isolation.devices import step_gpus, visible_devices

    devices = IsolationHost(NodeRoots(Path("/nonexistent"))).devices()
    return look(json.loads(about), os.environ, visible_devices(devices, step_gpus(os.environ)).paths)


def image_runner(config: Config, inside: Inside, environment: Mapping[str, str]) -> StepRunner:
    """Judges and fetches the image of a run."""
    from sovctl.operations.exec_step import ExecOptions, ExecPlace, StepRunner

    options = ExecOptions((), inside.image, inside.mount, runtime=inside.runtime)
    place = ExecPlace({**environment}, "/", "")
    return StepRunner(options, exec_settings(config), place, exec_ports(config), _say)


def _say(words: str) -> None:
    print(f"sovctl: {words}", file=sys.stderr, flush=True)


def stay_ended(job_id: str) -> bool:
    """The batch script is about to end with a status other than 0, which must not bring an expedited job back."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.operations.stay_ended import stay_ended as stay

    return stay(job_id, slurm(), SystemClock())


def keep_alive(work: Callable[[], int], give_up: Callable[[], int], progress: Callable[[], int]) -> int:
    """Run the supervisor in a process that may be killed."""
    from sovctl.adapters.kept_alive import keep_alive as keep

    return keep(work, give_up, progress=progress)


# A node looks at itself


def config_of_this_node() -> Config:
    """The settings of the node a job step runs on; the nodes of a lab have settings of their own on one machine."""
    lab, node = os.environ.get("SOVCTL_LAB_DIR"), os.environ.get("SLURMD_NODENAME")
    own = Path(lab, "nodes", node, "sovctl.toml") if lab and node else None
    if own is not None and own.exists():
        return load_config({**os.environ, "SOVCTL_CONFIG": str(own)})
    return load_config()


def rank_probe() -> RankProcesses:
    """The ranks of a job on this node."""
    from sovctl.adapters.rank_processes import RankProcesses

    return RankProcesses()


def job_look_ports(config: Config) -> JobLookPorts:
    """What a look at the ranks of a job touches."""
    import time

    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.kmsg import KernelLogFile
    from sovctl.adapters.sysfs import infiniband
    from sovctl.adapters.verdict_file import VerdictFile
    from sovctl.operations.look_at_job import JobLookPorts

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


def lemons() -> frozenset[str]:
    """Nodes with a bad record, by what everybody may read in the cluster journal."""
    import time

    from sovctl.operations.nodes import known_lemons

    return known_lemons(ledgers(load_config()), time.time())


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


def node_journal(config: Config, node: str, most_bytes: int = 0) -> Journal:
    """What was written about one node in the cluster journal; `most_bytes`: of a larger file only the newest part."""
    from sovctl.adapters.journal import LARGEST_READ, FileJournal

    path = cluster_journal_dir(config) / "nodes" / f"{node}.jsonl"
    return FileJournal(path, most_bytes=most_bytes or LARGEST_READ)


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
    """The watch on the controller. Raises RefusedError when another one runs, ConfigError."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.journal import FileJournal
    from sovctl.adapters.single_instance import claim
    from sovctl.adapters.slurm_pool import SlurmPool
    from sovctl.adapters.state_save import StateSave
    from sovctl.adapters.step_daemons import ask_to_end, ask_to_free
    from sovctl.adapters.watch_memory import WatchMemoryFile
    from sovctl.operations.spares import spares_set
    from sovctl.operations.watch_cluster import ClusterWatch, WatchPorts, WatchSettings

    journal_dir = cluster_journal_dir(config)
    claim(journal_dir / "watch.lock", "sovctl watch", say)
    journal, site = FileJournal(journal_dir / "watch.jsonl", lock_wait_s=2.0), slurm()
    ports = WatchPorts(
        deaths=_death_ports(config, site),
        suspects=_suspect_ports(config, site, journal),
        changes=StateSave(site.settings),
        memory=WatchMemoryFile(journal_dir / "watch.json"),
        journal=journal,
        clock=SystemClock(),
        ask_to_free=partial(ask_to_free, journal_dir / "stuck"),
        ask_to_end=partial(ask_to_end, journal_dir / "stuck"),
        pool=SlurmPool(CommandRunner(), bin_dir=config.slurm.bin_dir, timeout_s=config.slurm.timeout_s),
        spares=lambda: spares_set(cluster_journal(config, "spare").events()),
        shortage=lambda: spares_short(config),
    )
    deaths = _death_settings(config, act=act)
    sweeping = sweep_settings(config, act=act and config.health.act, only=())
    settings = WatchSettings(deaths, sweeping, config.watch.interval_s, config.run.preemptible_qos)
    return ClusterWatch(ports, settings, say)


def _death_ports(config: Config, site: SlurmCli) -> DeathPorts:
    from sovctl.adapters.alive import AliveMarks
    from sovctl.adapters.background import InThread
    from sovctl.adapters.bmc import PowerCommand
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.node_ping import SlurmdPing
    from sovctl.operations.watch_deaths import DeathPorts, WitnessPorts

    return DeathPorts(
        site=site,
        ping=SlurmdPing(),
        marks=AliveMarks(cluster_journal_dir(config) / "alive"),
        witnesses=WitnessPorts(
            shell=remote_shell(config) if config.watch.ssh else None,
            power=PowerCommand(CommandRunner(), config.watch.bmc_command, config.watch.bmc_timeout_s),
        ),
        beside=InThread,
        clock=SystemClock(),
    )


def _death_settings(config: Config, *, act: bool) -> DeathSettings:
    from sovctl.health.death import DeathLimits
    from sovctl.operations.watch_deaths import DeathSettings

    watch = config.watch
    return DeathSettings(
        act=act,
        silent_for_s=watch.silent_for_s,
        limits=DeathLimits(watch.dead_limit_per_hour, watch.dead_share_per_hour, watch.silent_share),
        boot_id_file=config.node.boot_id_file,
        shell_timeout_s=watch.ssh_timeout_s,
        ask_unwatched_s=watch.ask_unwatched_s,
    )


def _suspect_ports(config: Config, site: SlurmCli, journal: Journal) -> SuspectPorts:
    from sovctl.adapters.background import InThread
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.journal import FileTurn
    from sovctl.adapters.run_words import RunRecordWords
    from sovctl.operations.sweep import SweepPorts
    from sovctl.operations.watch_suspects import SuspectPorts

    clock = SystemClock()
    turn = FileTurn(cluster_journal_dir(config) / "drain.lock")
    sweep = SweepPorts(site=site, shell=remote_shell(config), journal=journal, turn=turn, clock=clock)
    return SuspectPorts(RunRecordWords(), site_answers(config), sweep, InThread, clock)


def site_answers(config: Config) -> SiteAnswers:
    """What the site found on nodes that runs suspected."""
    from sovctl.adapters.site_answers import SiteAnswerFiles

    return SiteAnswerFiles(cluster_journal_dir(config))


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


def spare_ports(config: Config) -> SparePorts:
    """What spares in the pool are made of."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.journal import FileTurn
    from sovctl.adapters.slurm_pool import SlurmPool
    from sovctl.operations.spares import SparePorts

    return SparePorts(
        site=SlurmPool(CommandRunner(), bin_dir=config.slurm.bin_dir, timeout_s=config.slurm.timeout_s),
        journal=cluster_journal(config, "spare"),
        turn=FileTurn(cluster_journal_dir(config) / "spare.lock"),
        clock=SystemClock(),
        shell=remote_shell(config),
        # What a node said last is at the end; the watch reads that of every spare each minute.
        node_journal=lambda node: node_journal(config, node, most_bytes=256 * 1024),
    )


def spares_short(config: Config) -> tuple[str, ...]:
    """What is new about how many spares are left, in words; nothing where none are kept. Raises SovctlError."""
    from sovctl.operations.spares import tell_shortage

    return tell_shortage(spare_ports(config), lambda: spare_classes(config))


def spare_classes(config: Config) -> Classes:
    """The team's classes. Raises ConfigError."""
    from sovctl.errors import ConfigError
    from sovctl.recovery.spares import Classes

    above = tuple(config.spare.classes.split())
    names = (*above, config.run.preemptible_qos)
    if not above or len(set(names)) < len(names) or not config.run.preemptible_qos:
        words = f"must name at least one QOS, none twice, and not {config.run.preemptible_qos!r}"
        raise ConfigError("spare.classes", f"{words}: {config.spare.classes!r}")
    if not config.run.preemptible_partition:
        raise ConfigError("run.preemptible_partition", "must name the partition of preemptible jobs")
    return Classes(
        above,
        config.run.preemptible_qos,
        config.run.preemptible_partition,
        int(config.spare.grace_s),
        config.spare.preempt_lower,
    )


def failure_journals(config: Config) -> list[Journal]:
    """Every journal of the site that tells of nodes taken out of service and given back."""
    from sovctl.adapters.journal import FileJournal

    shared = cluster_journal_dir(config)
    writers = [FileJournal(shared / f"{writer}.jsonl") for writer in ("sweep", "watch", "hand")]
    return [*writers, *(FileJournal(path) for path in sorted((shared / "nodes").glob("*.jsonl")))]


def hand_ports(config: Config) -> HandPorts:
    """What a person's command on a node touches."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.operations.node_by_hand import HandPorts

    return HandPorts(slurm(), cluster_journal(config, "hand"), SystemClock())


@contextmanager
def sweep_turn(config: Config, *, act: bool, say: Callable[[str], None]) -> Iterator[None]:
    """One sweep at a time. Raises RefusedError when another runs. Who may not write there only looks, and may."""
    from sovctl.adapters.single_instance import claim
    from sovctl.errors import RefusedError, SovctlError

    descriptor = -1
    try:
        descriptor = claim(cluster_journal_dir(config) / "sweep.lock", "sovctl sweep", say)
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
    from sovctl.isolation.cache import architecture, digest_of, file_name
    from sovctl.operations.images import ImagePorts

    chosen, own = config.isolation, architecture(os.uname().machine)
    cache = ImageCache(image_cache_dir(config), partial(file_name, of=own), digest_of)
    tools = ImageTools(CommandRunner(), own, chosen.plain_http.split(), chosen.pull_timeout_s)
    return ImagePorts(tools, cache, SystemClock(), (NodeRoots(Path(chosen.node_dir)), bundle_roots(config)))


def bundle_roots(config: Config) -> NodeRoots:
    """Images unpacked where every node sees them."""
    from sovctl.adapters.node_roots import NodeRoots

    return NodeRoots(image_cache_dir(config))


def image_cache_dir(config: Config) -> Path:
    """Where images are kept: the site's directory, else one of the user."""
    if config.isolation.cache_dir:
        return Path(config.isolation.cache_dir)
    return _own_cache_dir() / "images"


def tiny_image() -> TinyImage:
    """For trying runtimes; the user's own, since the site's cache may be root's to write."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.tiny_image import TinyImage

    return TinyImage(CommandRunner(), _own_cache_dir())


def _own_cache_dir() -> Path:
    from sovctl.adapters.own_place import own_place

    return own_place(os.environ, "XDG_CACHE_HOME", ".cache") / "sovctl"


def exec_ports(config: Config) -> ExecPorts:
    """What `sovctl exec` touches."""
    from sovctl.adapters.command import become
    from sovctl.adapters.isolated_step import IsolatedSteps
    from sovctl.adapters.isolation_host import IsolationHost
    from sovctl.adapters.node_roots import NodeRoots
    from sovctl.adapters.step_holder import Recipe
    from sovctl.isolation.bubblewrap import mount_points, sandbox_argv
    from sovctl.operations.exec_step import ExecPorts

    host = IsolationHost(NodeRoots(Path(config.isolation.node_dir)), config.slurm.bin_dir)
    steps = IsolatedSteps(Recipe(sandbox_argv, mount_points))
    return ExecPorts(image_ports(config), host, steps, env_layers(config), become)


def exec_settings(config: Config) -> ExecSettings:
    """What the site allows in isolated steps."""
    from sovctl.operations.exec_step import ExecSettings, words_of

    chosen = config.isolation
    return ExecSettings(words_of(chosen.allow_images), words_of(chosen.allow_mounts), words_of(chosen.allow_env))


def site(root: Path) -> SitePorts:
    """What `sovctl site` touches; below another root than / no Slurm is asked."""
    import inspect

    from sovctl import config
    from sovctl.adapters.site_files import SiteFiles
    from sovctl.operations.site import SitePorts
    from sovctl.site.settings_file import settings_file

    staged = root.resolve() != Path("/")

    def settings() -> Mapping[str, str]:
        if staged:
            raise SovctlError(f"{root} is a staging directory", hint="See them with: sovctl site lines")
        return slurm(_ASK_S).settings()

    return SitePorts(SiteFiles(root), settings, lambda: settings_file(Config(), inspect.getsource(config)), staged)


def site_places(prefix: str, conf_dir: str) -> Places:
    """Where things go on this machine."""
    from sovctl.adapters.machine_view import own_program
    from sovctl.site.catalogue import Places

    if not prefix.startswith("/"):
        raise UsageError(
            f"--prefix must be a full path, not {prefix!r}",
            hint="Write it as in: sovctl site lines --prefix /usr/local",
        )
    found = conf_dir or str(Path(os.environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf").parent)
    return Places(prefix, found, own_program(), sys.executable)


def doctor(
    directories: Sequence[Path], *, ask_nodes: bool, try_steps: bool, told: Mapping[str, str] | None
) -> tuple[DoctorPorts, DoctorSettings]:
    """What `sovctl doctor` touches. A configuration that cannot be read is one of its findings."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.machine_view import absent_programs
    from sovctl.adapters.sbatch import Sbatch
    from sovctl.adapters.slurm_cli import SlurmCli
    from sovctl.operations.doctor import DoctorPorts, DoctorSettings

    config, problem = _config_or_problem()
    bin_dir = config.slurm.bin_dir
    ports = DoctorPorts(
        missing_programs=absent_programs(("scontrol", "sbatch", "srun", "squeue", "scancel"), bin_dir),
        slurm=SlurmCli(CommandRunner(), bin_dir=bin_dir, timeout_s=_ASK_S),
        machine=lambda settings, is_node: _machine_view(config, problem, settings, directories, is_node=is_node),
        remote=lambda: remote_shell(config),
        sbatch=Sbatch(CommandRunner(), bin_dir=bin_dir, give_up_s=3 * _ASK_S).answer,
        step=lambda words, options: step_command(config, here=False).program(words, options, 60.0, {}),
        fold=fold_hostlist,
    )
    program = config.sweep.check_command.partition(" health ")[0] or "sovctl"
    clock_s, timeout_s = config.sweep.clock_offset_s, max(config.ssh.timeout_s, 30.0)
    return ports, DoctorSettings(node_name(config), ask_nodes, try_steps, told, program, timeout_s, clock_s)


def _config_or_problem() -> tuple[Config, str]:
    from sovctl.health.probes import resolve

    try:
        config = load_config()
        resolve(config.probes.settings)
    except SovctlError as error:
        return Config(), error.message
    return config, ""


def _machine_view(
    config: Config, problem: str, settings: Mapping[str, str], directories: Sequence[Path], *, is_node: bool
) -> MachineView:
    import time

    from sovctl import __version__
    from sovctl.adapters import machine_view as look
    from sovctl.adapters.clock_state import clock
    from sovctl.adapters.file_trial import try_directory
    from sovctl.config import config_files, unknown_variables
    from sovctl.model.site import MachineView
    from sovctl.operations.doctor import HOOKS

    name = node_name(config)
    files = config_files()
    steered = clock("" if config.node.host_root == "/" else config.node.host_root)
    gpus, gpu_problem = _gpus_here(config)
    conf = settings.get("SLURM_CONF", "")
    named = settings.get("PlugStackConfig", "(null)")
    conf_dir = Path(conf).parent if conf else Path("/etc/slurm")
    spank = look.plugin_in(Path(named) if named.startswith("/") else conf_dir / "plugstack.conf")
    running, loaded, replaced = look.slurmd_maps(name, conf) if is_node else (False, None, False)
    journal = config.cluster.journal_dir
    return MachineView(
        node=name,
        root=os.geteuid() == 0,
        host=os.uname().nodename,
        version=__version__,
        at=time.time(),
        config_files=tuple(str(path) for path in files),
        config_problem=problem,
        config_digest=look.digest(files[0]) if files else "",
        unknown_variables=tuple(map(str, unknown_variables())),
        clock_steered=steered[0].synchronised if steered else None,
        clock_error_ms=steered[0].max_error_ms if steered else None,
        gpus=gpus,
        gpu_problem=gpu_problem,
        driver_loaded=look.driver_loaded(),
        expected_gpus=config.node.expected_gpus if config.node.expected_gpus >= 0 else None,
        files=tuple(try_directory(path) for path in directories or _shared_directories(journal, is_node=is_node)),
        journal_dir=journal,
        watchers=_watchers(journal),
        programs=look.programs(),
        user_namespaces=look.user_namespaces(),
        hooks=look.hooks([(key, settings[key]) for key in HOOKS if settings.get(key, "(null)") != "(null)"])
        if is_node
        else (),
        slurmd_running=running,
        spank_wanted=spank,
        spank_there=bool(spank) and Path(spank.replace("%n", name)).is_file(),
        spank_loaded=loaded,
        spank_replaced=replaced,
        spank_steps=look.steps_with(spank.replace("%n", name)) if spank and is_node else None,
        lua_files=look.beside(conf_dir),
    )


def _gpus_here(config: Config) -> tuple[int | None, str]:
    try:
        return len(gpu_probe(config).read()), ""
    except SovctlError as error:
        return None, error.message


def _shared_directories(journal: str, *, is_node: bool) -> list[Path]:
    """The journal, for those who write it, and where a run of this user would keep its record."""
    found = [Path(journal)] if journal and os.access(journal, os.W_OK) else []
    return found if is_node and found else [*found, Path.cwd()]


def _watchers(journal: str) -> Mapping[str, float] | None:
    from sovctl.adapters.alive import read_alive

    try:
        return read_alive(Path(journal) / "alive") if journal else None
    except OSError:
        return None


def step_command(config: Config, *, here: bool) -> StepCommand:
    """A sovctl command in a step of Slurm, or on this machine."""
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.step_command import StepCommand

    return StepCommand(CommandRunner(), config.slurm.bin_dir, here=here)


def env_layers(config: Config) -> EnvLayers:
    """The named layers of this user."""
    from sovctl.adapters.env_layers import EnvLayers
    from sovctl.adapters.own_place import own_name, own_place

    chosen = config.isolation.env_dir
    if "%u" in chosen:
        chosen = chosen.replace("%u", own_name())
    own = own_place(os.environ, "XDG_DATA_HOME", ".local/share") / "sovctl" / "env"
    return EnvLayers(Path(chosen) if chosen else own)


# Alerts


def alert_channels(config: Config, *, tolerant: bool = False) -> tuple[AlertChannel, ...]:
    """The ways out that are configured. Raises ConfigError; `tolerant`: what cannot be used is left out, such as a
    secret that is only root's in a supervisor."""
    found: list[AlertChannel] = []
    for make in (_webhook, _email):
        try:
            found += make(config)
        except SovctlError:
            if not tolerant:
                raise
    return tuple(found)


def _webhook(config: Config) -> list[AlertChannel]:
    from sovctl.adapters.alert_channels import Webhook, read_secret, webhook_url
    from sovctl.errors import ConfigError

    alerts = config.alerts
    if alerts.webhook_format not in ("json", "slack"):
        raise ConfigError("alerts.webhook_format", f"must be json or slack, not {alerts.webhook_format!r}")
    if not alerts.webhook_file:
        return []
    key = "alerts.webhook_file"
    url = webhook_url(read_secret(alerts.webhook_file, key), key)
    return [Webhook(url, alerts.webhook_format, alerts.timeout_s)]


def _email(config: Config) -> list[AlertChannel]:
    from sovctl.adapters.alert_channels import Email, read_secret
    from sovctl.errors import ConfigError

    alerts = config.alerts
    if alerts.smtp_security not in ("none", "starttls", "tls"):
        raise ConfigError("alerts.smtp_security", f"must be none, starttls or tls, not {alerts.smtp_security!r}")
    recipients = tuple(alerts.email_to.replace(",", " ").split())
    if not recipients:
        return []
    if alerts.smtp_user and not alerts.smtp_password_file:
        raise ConfigError("alerts.smtp_password_file", "must be named where alerts.smtp_user is")
    password = read_secret(alerts.smtp_password_file, "alerts.smtp_password_file") if alerts.smtp_user else ""
    sender = alerts.email_from or f"sovctl@{os.uname().nodename}"
    host, port, security = alerts.smtp_host, alerts.smtp_port, alerts.smtp_security
    return [Email(recipients, sender, host, port, security, alerts.smtp_user, password, alerts.timeout_s)]


def alert_spool(config: Config) -> AlertSpool:
    """Where messages wait: root's belong to the site."""
    from sovctl.adapters.alert_spool import AlertSpoolFiles
    from sovctl.adapters.run_index import index_directory

    if os.geteuid() == 0:
        return AlertSpoolFiles(cluster_journal_dir(config) / "alerts")
    return AlertSpoolFiles(index_directory(os.environ).parent / "alerts")


def alert_sender(config: Config, say: Callable[[str], None], *, tolerant: bool = False) -> AlertSender:
    """Sends what waits; follows nothing. Raises ConfigError."""
    return _alert_sender(config, say, tolerant=tolerant)


def site_alerts(config: Config, say: Callable[[str], None]) -> AlertSender | None:
    """Follows the journals of the site; None where nobody is to be told. Raises ConfigError."""
    if not config.alerts.webhook_file and not config.alerts.email_to:
        return None
    from sovctl.adapters.site_records import SiteRecordFiles
    from sovctl.ledger.alerts import alert_of_site

    records = SiteRecordFiles(cluster_journal_dir(config))
    cluster = _cluster_name()
    known: dict[str, FollowedJournal] = {}

    def follow() -> tuple[FollowedJournal, ...]:
        for name, path in records.journals().items():
            if name not in known:
                known[name] = _followed(name, path, partial(_of_site, alert_of_site, name, cluster))
        return tuple(known.values())

    sender = _alert_sender(config, say, follow, from_start=False)
    return sender if sender.channels else None


def run_alerts(
    config: Config, run_dir: Path, record: Mapping[str, Any], say: Callable[[str], None]
) -> AlertSender | None:
    """Follows the journal of one run, with its user's rights; None where nobody is to be told."""
    if not config.alerts.webhook_file and not config.alerts.email_to:
        return None
    from sovctl.ledger.alerts import alert_of_run

    name = str(record["run_id"])
    journal = _followed(name, run_dir / "events.jsonl", partial(alert_of_run, record))
    sender = _alert_sender(config, say, lambda: (journal,), tolerant=True)
    return sender if sender.channels else None


def _of_site(
    judge: Callable[[str, Mapping[str, Any], str], Alert | None], name: str, cluster: str, entry: Mapping[str, Any]
) -> Alert | None:
    own = {"node": name.removeprefix("nodes/"), **entry} if name.startswith("nodes/") else entry
    return judge(name, own, cluster)


def _cluster_name() -> str:
    try:
        return slurm(_ASK_S).settings().get("ClusterName", "")
    except SovctlError:
        return ""


def _followed(name: str, path: Path, judge: Callable[[Mapping[str, Any]], Alert | None]) -> FollowedJournal:
    from sovctl.adapters.journal import ChangeMark, FileJournal
    from sovctl.operations.send_alerts import FollowedJournal

    return FollowedJournal(name, ChangeMark(path).changed, FileJournal(path).events, judge)


def _alert_sender(
    config: Config,
    say: Callable[[str], None],
    journals: Callable[[], Sequence[FollowedJournal]] = tuple,
    *,
    tolerant: bool = False,
    from_start: bool = True,
) -> AlertSender:
    from sovctl.adapters.clock import SystemClock
    from sovctl.operations.send_alerts import AlertSender, AlertSettings

    alerts = config.alerts
    settings = AlertSettings(
        kinds=frozenset(alerts.kinds.replace(",", " ").split()),
        subject=alerts.subject,
        text=alerts.text,
        limit_per_hour=alerts.limit_per_hour,
        keep_s=alerts.keep_s,
        from_start=from_start,
    )
    channels = alert_channels(config, tolerant=tolerant)
    return AlertSender(alert_spool(config), channels, journals, settings, SystemClock(), say)
