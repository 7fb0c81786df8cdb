"""Partitions, QOS and their jobs, as far as spares in the pool are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Qos:
    """One QOS of slurmdbd (`sacctmgr show qos`)."""

    name: str
    priority: int = 0
    grace_s: int = 0
    """GraceTime: so long a preempted job goes on after its SIGTERM."""
    preempts: frozenset[str] = frozenset()
    preempt_mode: str = "cluster"
    node_limit: int | None = None
    """GrpTRES=node: so many nodes for all its jobs together; None: no limit."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One record of `scontrol show partition`."""

    name: str
    nodes: tuple[str, ...] = ()
    qos: str = ""
    """The partition QOS; empty: none."""
    allow_qos: frozenset[str] | None = None
    """None: all."""
    deny_qos: frozenset[str] = frozenset()
    """Counts where all are allowed."""
    priority_tier: int = 1
    default: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """What limits and preemption hang on."""

    cluster: str
    qos: Mapping[str, Qos] = field(default_factory=dict)
    open_qos: frozenset[str] = frozenset()
    """What the account root, and with it every account without a list of its own, may use."""
    partitions: Mapping[str, Partition] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    """`scontrol show config` by key."""


@dataclass(frozen=True, slots=True)
class PoolJob:
    """An active job by the columns that no user can forge."""

    job_id: str
    state: str
    nodes: tuple[str, ...]
    partitions: tuple[str, ...]
    """Several only while it is pending."""
    qos: str
    uid: int = -1
    reason: str = ""
    """Why it is pending."""
    user: str = ""

    @property
    def holds_nodes(self) -> bool:
        return self.state != "PENDING"


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that a spare pool sets: where it is, and what it is called there."""

    what: str
    """qos, account or partition."""
    name: str
    key: str
    """Priority, GrpTRES=node, ...; `exists` for the QOS itself."""
    item: str = ""
    """The element, where `key` is a list; its values are then "yes" and "no"."""


@dataclass(frozen=True, slots=True)
class Change:
    """A setting from one value to another; both as text, empty: not set."""

    setting: Setting
    before: str
    after: str
    scope: str = ""
    """The partition it is made for; empty: shared by all that keep spares."""
