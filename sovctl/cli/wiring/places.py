"""Where this machine keeps things, and what Slurm calls it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.config import Config, load_config

if TYPE_CHECKING:
    from sovctl.ports.common import Journal
    from sovctl.ports.node import Ledgers, NodeRecords


def config_of_this_node() -> Config:
    """The settings of the node a job step runs on; the nodes of a lab have settings of their own on one machine."""
    lab, node = os.environ.get("SOVCTL_LAB_DIR"), os.environ.get("SLURMD_NODENAME")
    own = Path(lab, "nodes", node, "sovctl.toml") if lab and node else None
    if own is not None and own.exists():
        return load_config({**os.environ, "SOVCTL_CONFIG": str(own)})
    return load_config()


def own_name() -> str:
    """Who runs this: a name, or a number where there is none."""
    from sovctl.adapters import own_place

    return own_place.own_name()


def node_records(config: Config) -> NodeRecords:
    """What this node learnt, counted and remembered."""
    from sovctl.adapters.node.node_records import NodeRecordFiles

    inventory = Path(config.node.inventory) if config.node.inventory else None
    name = node_name(config)
    shared = Path(config.cluster.journal_dir) / "ledgers" / f"{name}.json" if config.cluster.journal_dir else None
    return NodeRecordFiles(Path(config.node.run_dir), Path(config.node.state_dir), inventory, shared)


def ledgers(config: Config) -> Ledgers | None:
    """What the nodes show each other; None without a shared directory."""
    from sovctl.adapters.node.node_records import LedgerFiles

    return LedgerFiles(Path(config.cluster.journal_dir)) if config.cluster.journal_dir else None


def inventory_path(config: Config) -> Path:
    """Where `health probes --learn` writes."""
    return Path(config.node.inventory or Path(config.node.state_dir) / "inventory.json")


def own_journal(config: Config) -> Journal:
    """This node's part of the cluster journal."""
    from sovctl.adapters.journal import FileJournal

    return FileJournal(cluster_journal_dir(config) / "nodes" / f"{node_name(config)}.jsonl", lock_wait_s=2.0)


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


def failure_journals(config: Config) -> list[Journal]:
    """Every journal of the site that tells of nodes taken out of service and given back."""
    from sovctl.adapters.journal import FileJournal

    shared = cluster_journal_dir(config)
    writers = [FileJournal(shared / f"{writer}.jsonl") for writer in ("sweep", "watch", "hand")]
    return [*writers, *(FileJournal(path) for path in sorted((shared / "nodes").glob("*.jsonl")))]


def cluster_journal(config: Config, writer: str) -> Journal:
    """The part of the cluster journal that one writer keeps: `sweep`, `watch`, `hand`."""
    from sovctl.adapters.journal import FileJournal

    return FileJournal(cluster_journal_dir(config) / f"{writer}.jsonl", lock_wait_s=2.0)
