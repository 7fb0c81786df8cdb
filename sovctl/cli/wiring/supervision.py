"""The supervisor of a run."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.cli.wiring.cluster_watch import site_answers
from sovctl.cli.wiring.images import bundle_roots, check_plugin_owner, image_runner, step_command, tell, tiny_image
from sovctl.cli.wiring.nodes import job_evidence, lemons
from sovctl.cli.wiring.places import cluster_journal_dir
from sovctl.cli.wiring.slurm_access import expand_hostlist, fold_hostlist, slurm
from sovctl.config import Config, load_config
from sovctl.errors import StorageSilent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sovctl.adapters.isolation.oci_bundle import OciBundles
    from sovctl.isolation.inside import Inside
    from sovctl.operations.supervisor.image_of_run import RunImage
    from sovctl.operations.supervisor.live_run import Ports as SupervisorPorts


def become_behind(front: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Become a program that is found in the PATH behind the directory `front`."""
    from sovctl.adapters.command import become_behind as become

    become(front, argv, env)


def supervisor_ports(run_dir: Path, inside: Inside | None = None) -> SupervisorPorts:
    """Everything the supervisor of a run touches; `inside`: the image of the run."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import spawn
    from sovctl.adapters.journal import FileJournal
    from sovctl.adapters.run.crowding import Crowding
    from sovctl.adapters.run.leftover import Leftover
    from sovctl.adapters.run.patient import Patience, PatientJournal, PatientOutput, PatientRunFiles, PatientRunOutput
    from sovctl.adapters.run.run_files import FileTail, RunDirectory
    from sovctl.adapters.run.run_output import OutputFiles
    from sovctl.adapters.run.signals import SignalQueue
    from sovctl.adapters.run.step_output import written_by_sruns
    from sovctl.adapters.slurm.job_look import SrunLook
    from sovctl.adapters.slurm.node_ping import SlurmdPing
    from sovctl.adapters.slurm.spare_steps import SrunHold
    from sovctl.operations.supervisor.live_run import Ports

    slurm_commands = slurm()
    # The run directory, the job's output and the checkpoints may lie on storages of their own.
    patience, of_output = Patience(), Patience()
    directory = RunDirectory(run_dir)
    files = PatientRunFiles(directory, directory, patience, str(run_dir))

    def say(words: str) -> None:
        # A full disk, or an output that is gone, costs the line. Not by print: what a later flush trips over must not
        # stay in a buffer.
        line = f"sovctl: {words}\n".encode("utf-8", "backslashreplace")
        with suppress(StorageSilent, OSError):
            of_output.ask(lambda: os.write(2, line), later=True)

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
    from sovctl.adapters.run.node_news import NodeNews
    from sovctl.adapters.run.patient import Patience

    news, patience = NodeNews(cluster_journal_dir(config)), Patience()

    def wrote(nodes: Sequence[str]) -> bool:
        try:
            return patience.ask(lambda: news.about(nodes))
        except StorageSilent:
            return False

    return wrote


def _image_of_run(run_dir: Path, inside: Inside) -> RunImage:
    from sovctl.adapters.isolation.oci_bundle import OciBundles
    from sovctl.adapters.run.run_files import RunDirectory
    from sovctl.model.image import ImageOfRun
    from sovctl.operations.supervisor.image_of_run import ImagePlaces, RunImage

    def fetch(inside: Inside, own: str) -> tuple[str, str]:
        return image_runner(config, inside, {"SOVCTL_RUN_DIR": own}).fetch(ImageOfRun(inside.digest, inside.stamp))

    config = load_config()
    bundles = OciBundles(bundle_roots(config), tell)
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
    from sovctl.adapters.slurm.step_command import StepInJob
    from sovctl.operations.isolation.prove_runtimes import nodes_outside

    nodes = expand_hostlist(os.environ.get("SLURM_JOB_NODELIST", ""))
    if len(nodes) < 2:
        return ()
    runner = CommandRunner()
    tiny = tiny_image()
    step = StepInJob(runner, os.environ.get("SLURM_JOB_ID", ""), config.slurm.bin_dir)
    return nodes_outside(runtime, nodes, tiny, step, bundles, (os.geteuid(), os.getegid()))


def stay_ended(job_id: str) -> bool:
    """The batch script is about to end with a status other than 0, which must not bring an expedited job back."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.operations.supervisor.stay_ended import stay_ended as stay

    return stay(job_id, slurm(), SystemClock())


def keep_alive(work: Callable[[], int], give_up: Callable[[], int], progress: Callable[[], int]) -> int:
    """Run the supervisor in a process that may be killed."""
    from sovctl.adapters.run.kept_alive import keep_alive as keep

    return keep(work, give_up, progress=progress)
