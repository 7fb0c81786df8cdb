"""The whole cluster from one place: `sovctl node`, `sovctl sweep`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sovctl.cli.wiring.nodes import job_evidence
from sovctl.cli.wiring.places import cluster_journal, cluster_journal_dir, ledgers
from sovctl.cli.wiring.slurm_access import remote_shell, slurm
from sovctl.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from sovctl.operations.node_by_hand import HandPorts
    from sovctl.operations.sweep import SweepPorts, SweepSettings


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
