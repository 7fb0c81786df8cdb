"""QOS, limits and partitions in memory, told by the commands for Slurm; held to tests/contract/test_slurm_pool.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sovctl.errors import CommandFailed
from sovctl.model.node import NodeState, NodeView
from sovctl.model.pool import Partition, Pool, PoolJob, Qos


@dataclass
class FakePool:
    """Implements ports.PoolSite."""

    state: Pool
    views: list[NodeView] = field(default_factory=list)
    jobs: list[PoolJob] = field(default_factory=list)
    conf: str | None = ""
    """slurm.conf; None: cannot be read."""
    applied: list[tuple[str, ...]] = field(default_factory=list)
    fails_at: int | None = None
    """The command, counted from 0, that fails."""

    def pool(self) -> Pool:
        return self.state

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        return tuple(view for view in self.views if not names or view.name in names)

    def pool_jobs(self) -> tuple[PoolJob, ...]:
        return tuple(self.jobs)

    def conf_names(self, word: str) -> bool | None:
        return None if self.conf is None else word in self.conf

    def apply(self, argv: Sequence[str]) -> None:
        if self.fails_at == len(self.applied):
            raise CommandFailed(argv, 1, "the disk is full")
        match list(argv):
            case ["sacctmgr", "-i", "add", "qos", name]:
                self._refuse(argv, name in self.state.qos)
                self._qos(Qos(name))
            case ["sacctmgr", "-i", "delete", "qos", name]:
                self._refuse(argv, name not in self.state.qos)
                self._delete(name)
            case ["sacctmgr", "-i", "modify", "qos", name, "set", word]:
                self._refuse(argv, name not in self.state.qos)
                self._modify(name, word)
            case ["sacctmgr", "-i", "modify", "account", "root", "cluster=lab", "set", word]:
                sign, name = word[3], word[5:]
                changed = self.state.open_qos | {name} if sign == "+" else self.state.open_qos - {name}
                self.state = replace(self.state, open_qos=changed)
            case ["scontrol", "update", partition, word]:
                self._partition(argv, partition.partition("=")[2], word)
            case _:
                raise AssertionError(argv)
        self.applied.append(tuple(argv))

    def _refuse(self, argv: Sequence[str], wrong: bool) -> None:
        if wrong:
            raise CommandFailed(argv, 1, "Nothing new added.")

    def _qos(self, qos: Qos) -> None:
        self.state = replace(self.state, qos={**self.state.qos, qos.name: qos})

    def _delete(self, name: str) -> None:
        left = {key: replace(qos, preempts=qos.preempts - {name}) for key, qos in self.state.qos.items() if key != name}
        self.state = replace(self.state, qos=left, open_qos=self.state.open_qos - {name})

    def _modify(self, name: str, word: str) -> None:
        qos, (key, _, value) = self.state.qos[name], word.partition("=")
        if key == "GrpTRES":
            limit = int(value.partition("=")[2])
            self._qos(replace(qos, node_limit=None if limit < 0 else limit))
        elif key.startswith("Preempt") and key[-1] in "+-":
            self._qos(replace(qos, preempts=qos.preempts | {value} if key[-1] == "+" else qos.preempts - {value}))
        else:
            field_, convert = {"Priority": ("priority", int), "GraceTime": ("grace_s", int)}.get(
                key, ("preempt_mode", str)
            )
            self._qos(replace(qos, **{field_: convert(value)}))  # type: ignore[arg-type]

    def _partition(self, argv: Sequence[str], name: str, word: str) -> None:
        key, _, value = word.partition("=")
        names = frozenset(filter(None, value.split(",")))
        partition = self.state.partitions[name]
        if key == "QOS":
            if value and value not in self.state.qos:
                raise CommandFailed(argv, 1, "slurm_update error: Invalid qos specification")
            partition = replace(partition, qos=value)
        elif key == "DenyQos":
            partition = replace(partition, deny_qos=names)
        else:
            partition = replace(partition, allow_qos=None if value == "ALL" else names)
        self.state = replace(self.state, partitions={**self.state.partitions, name: partition})


SETTINGS = {
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AccountingStorageEnforce": "associations,limits,qos",
    "PreemptType": "preempt/qos",
    "PreemptMode": "REQUEUE",
    "PriorityType": "priority/multifactor",
    "PriorityWeightQOS": "10000",
}
"""A site where everything is as `spare set` needs it."""


def ready_pool(nodes: int = 6) -> Pool:
    """A fresh cluster that is ready: QOS normal, a partition, and one for preemptible jobs."""
    names = tuple(f"n{number:03d}" for number in range(1, nodes + 1))
    return Pool(
        "lab",
        {"normal": Qos("normal")},
        frozenset({"normal"}),
        {
            "main": Partition("main", names, default=True),
            "preemptible": Partition("preemptible", names, priority_tier=0),
        },
        SETTINGS,
    )


def idle(name: str) -> NodeView:
    return NodeView(name, NodeState("IDLE"), address="127.0.0.1")
