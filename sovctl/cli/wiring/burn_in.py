"""Burn-in of a node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.cli.wiring.places import cluster_journal_dir, node_name, node_records
from sovctl.config import Config

if TYPE_CHECKING:
    from sovctl.operations.node.burn_in import BurnInPorts, BurnInSettings


def burn_in_ports(config: Config, own_job: str = "") -> BurnInPorts:
    """What a burn-in of this node touches; `own_job`: the one that just ended here."""
    from sovctl.adapters.journal import FileTurn
    from sovctl.adapters.node.burn_in import ReferenceFile, TorchBurnIn
    from sovctl.adapters.node.other_jobs import OtherJobs
    from sovctl.operations.node.burn_in import BurnInPorts

    records = node_records(config)
    shared = cluster_journal_dir(config)
    program = Path(__file__).resolve().parents[2] / "train" / "burn_in.py"
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


def burn_in_settings(config: Config) -> BurnInSettings:
    """How long and with what. Raises ConfigError."""
    from sovctl.errors import ConfigError
    from sovctl.operations.node.burn_in import BurnInSettings

    chosen = config.burn_in
    if chosen.device not in ("auto", "cuda", "cpu"):
        raise ConfigError("burn_in.device", f"must be auto, cuda or cpu, not {chosen.device!r}")
    return BurnInSettings(node_name(config), chosen.device, chosen.seconds, chosen.timeout_s, chosen.every_s)
