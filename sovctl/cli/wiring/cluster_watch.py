"""`sovctl watch` on the controller."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sovctl.cli.wiring.places import cluster_journal, cluster_journal_dir
from sovctl.cli.wiring.slurm_access import remote_shell, slurm
from sovctl.cli.wiring.spares import spares_short
from sovctl.cli.wiring.sweeps import sweep_settings
from sovctl.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from sovctl.adapters.slurm.cli import SlurmCli
    from sovctl.operations.watch.cluster import ClusterWatch
    from sovctl.operations.watch.deaths import DeathPorts, DeathSettings
    from sovctl.operations.watch.suspects import SuspectPorts
    from sovctl.ports.common import Journal
    from sovctl.ports.site import SiteAnswers


def cluster_watch(config: Config, *, act: bool, say: Callable[[str], None]) -> ClusterWatch:
    """The watch on the controller. Raises RefusedError when another one runs, ConfigError."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.journal import FileJournal
    from sovctl.adapters.single_instance import claim
    from sovctl.adapters.site.watch_memory import WatchMemoryFile
    from sovctl.adapters.slurm.pool import SlurmPool
    from sovctl.adapters.slurm.state_save import StateSave
    from sovctl.adapters.slurm.step_daemons import ask_to_end, ask_to_free
    from sovctl.operations.spares import spares_set
    from sovctl.operations.watch.cluster import ClusterWatch, WatchPorts, WatchSettings

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
    from sovctl.adapters.background import InThread
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.node.alive import AliveMarks
    from sovctl.adapters.site.bmc import PowerCommand
    from sovctl.adapters.slurm.node_ping import SlurmdPing
    from sovctl.operations.watch.deaths import DeathPorts, WitnessPorts

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
    from sovctl.operations.watch.deaths import DeathSettings

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
    from sovctl.adapters.run.run_words import RunRecordWords
    from sovctl.operations.sweep import SweepPorts
    from sovctl.operations.watch.suspects import SuspectPorts

    clock = SystemClock()
    turn = FileTurn(cluster_journal_dir(config) / "drain.lock")
    sweep = SweepPorts(site=site, shell=remote_shell(config), journal=journal, turn=turn, clock=clock)
    return SuspectPorts(RunRecordWords(), site_answers(config), sweep, InThread, clock)


def site_answers(config: Config) -> SiteAnswers:
    """What the site found on nodes that runs suspected."""
    from sovctl.adapters.site.site_answers import SiteAnswerFiles

    return SiteAnswerFiles(cluster_journal_dir(config))
