"""Spares in the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sovctl.cli.wiring.places import cluster_journal, cluster_journal_dir, node_journal
from sovctl.cli.wiring.slurm_access import remote_shell
from sovctl.config import Config

if TYPE_CHECKING:
    from sovctl.operations.spares import SparePorts
    from sovctl.recovery.spares import Classes


def spare_ports(config: Config) -> SparePorts:
    """What spares in the pool are made of."""
    from sovctl.adapters.clock import SystemClock
    from sovctl.adapters.command import CommandRunner
    from sovctl.adapters.journal import FileTurn
    from sovctl.adapters.slurm.pool import SlurmPool
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
