"""`sovctl run` and `sovctl report`: the records of runs, and who reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.cli.wiring.places import cluster_journal_dir
from sovctl.cli.wiring.slurm_access import slurm
from sovctl.config import Config

if TYPE_CHECKING:
    from sovctl.operations.report import ReportPorts
    from sovctl.operations.report import SitePorts as ReportSitePorts
    from sovctl.operations.runs import RunPorts
    from sovctl.ports.common import Journal
    from sovctl.ports.runs import MadeOfFiles, RunIndex, RunRecords


def run_index() -> RunIndex:
    """The user's list of submitted runs."""
    from sovctl.adapters.run.run_index import RunIndexFiles, index_directory

    return RunIndexFiles(index_directory(os.environ))


def run_records() -> RunRecords:
    """The records of runs."""
    from sovctl.adapters.run.run_records import RunRecordFiles

    return RunRecordFiles()


def run_ports() -> RunPorts:
    """What a look at runs touches."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.run.run_index import RunIndexFiles, index_directory
    from sovctl.adapters.run.run_records import RunRecordFiles
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
    from sovctl.adapters.run.made_of_files import MadeOfFiles, cache_file
    from sovctl.recovery.run_digest import DIGEST

    return MadeOfFiles(cache_file(os.environ), f"sovctl {__version__}, digest {DIGEST}")


def report_ports(config: Config) -> ReportPorts:
    """What a report reads: root everything, others what is theirs."""
    from sovctl.adapters.background import InThread
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.slurm.sacct import Sacct
    from sovctl.operations.report import ReportPorts

    return ReportPorts(
        runs=run_ports(),
        accounting=Sacct(CommandRunner(), bin_dir=config.slurm.bin_dir),
        active=lambda: {job.job_id.partition("_")[0]: job.uid for job in slurm().jobs() if not job.over},
        beside=InThread,
        site=_site_records(config) if os.geteuid() == 0 else None,
    )


def _site_records(config: Config) -> ReportSitePorts:
    from sovctl.adapters.run.user_records import UserRecordFiles
    from sovctl.adapters.site.site_records import SiteRecordFiles
    from sovctl.operations.report import SitePorts

    return SitePorts(SiteRecordFiles(cluster_journal_dir(config)), UserRecordFiles(), os.geteuid())


def run_journal(run_dir: Path) -> Journal:
    """The record of a run; its storage is waited for only so long."""
    from sovctl.adapters.journal import FileJournal
    from sovctl.adapters.run.patient import Patience, PatientJournal

    return PatientJournal(FileJournal(run_dir / "events.jsonl"), Patience())
