"""The controller's side: the watch, sweeps, installs and the records of a site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from sovctl.model.node import NodeView
from sovctl.model.site import HookProgram
from sovctl.model.site_answer import SiteAnswer
from sovctl.model.user_run import UserRun
from sovctl.model.watched_run import WatchedRun


class AliveMarks(Protocol):
    """The marks of all nodes, as the controller sees them."""

    def look(self, nodes: Sequence[str]) -> Mapping[str, float]:
        """For how many seconds each node's mark has not changed, of those that have one."""
        ...

    def boot_id(self, node: str) -> str:
        """Of the boot that wrote the mark; empty when nobody knows."""
        ...


class PowerWitness(Protocol):
    """The nodes' BMCs."""

    def off(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        """Names of those whose power is off for certain."""
        ...


class RunWords(Protocol):
    """What supervisors wrote lately, read as hostile: with the rights of the run's owner, bounded, JSON only."""

    def read(self, runs: Sequence[WatchedRun]) -> Mapping[str, list[dict[str, Any]]]:
        """The last events by job id, of those runs whose record changed since the last question."""
        ...


class SiteAnswers(Protocol):
    """What the site found on nodes that a run suspected, where the run's owner can read and only the site write."""

    def save(self, job_id: str, answers: Sequence[SiteAnswer]) -> None:
        """Raises SovctlError."""
        ...

    def load(self, job_id: str) -> tuple[SiteAnswer, ...]:
        """`job_id`: Slurm's raw id."""
        ...

    def prune(self, older_than: float) -> int:
        """Remove what was written before `older_than` (seconds since the epoch)."""
        ...


class WatchMemory(Protocol):
    """What the watch on the controller knows beyond Slurm."""

    def load(self) -> Any:
        """The JSON in it; None when absent, not root's or not JSON."""
        ...

    def save(self, record: dict[str, Any]) -> None:
        """Raises SovctlError."""
        ...


class SiteFiles(Protocol):
    """The files of an install; paths are those of the machine, wherever they are staged."""

    def source(self, name: str) -> bytes: ...
    def outside(self, path: str) -> bytes: ...
    def read(self, path: str) -> bytes | None:
        """None: no plain file there."""
        ...

    def digests(self, paths: Iterable[str]) -> dict[str, str | None]:
        """None: nothing there; empty: no plain file."""
        ...

    def write(self, path: str, data: bytes, mode: int) -> tuple[str, ...]:
        """The directories that had to be made."""
        ...

    def remove(self, path: str) -> None: ...
    def remove_empty(self, directories: Iterable[str]) -> None: ...
    def load(self) -> Any: ...
    def save(self, record: Mapping[str, Any]) -> None: ...
    def forget(self) -> None: ...
    def enabled_units(self, names: Iterable[str]) -> tuple[str, ...]: ...
    def resolved(self, paths: Iterable[str]) -> dict[str, str]:
        """Each with every link followed; none has to be there."""
        ...

    def programs(self, values: Iterable[str]) -> tuple[HookProgram, ...]:
        """What these paths and patterns (glob(7)) name here; a path without a pattern is named whether it is there or
        not."""
        ...


class SiteRecords(Protocol):
    """What the whole site wrote down."""

    def entries(self) -> tuple[list[dict[str, Any]], list[str]]:
        """(every entry of every journal of the site, which could not be read)."""
        ...

    def ledgers(self) -> list[Any]:
        """The JSON of what each node knows of its GPUs."""
        ...

    def tallies(self) -> list[Any]:
        """The JSON of how often the probes of each node were right."""
        ...


class SshFailure(StrEnum):
    """Why a node could not be heard; the value is the code of the finding."""

    UNREACHABLE = "SSH_UNREACHABLE"
    TIMEOUT = "SSH_TIMEOUT"
    HOST_KEY = "SSH_HOST_KEY"
    REFUSED = "SSH_REFUSED"
    FLOOD = "SSH_FLOOD"


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """What one node said to one command."""

    stdout: bytes = b""
    """Bounded; what was read before a failure is kept."""
    stderr: bytes = b""
    status: int | None = None
    """Exit status; None when the command did not end."""
    sent_at: float = 0.0
    """When the command was sent; seconds since the epoch, here."""
    answered_at: float = 0.0
    """When its first byte arrived."""
    failure: SshFailure | None = None
    problem: str = ""
    """The failure in words."""


class RemoteShell(Protocol):
    """Runs a command on many nodes, each with its own deadline."""

    def ask(self, nodes: Mapping[str, str], command: str, timeout_s: float) -> dict[str, RemoteAnswer]:
        """`nodes`: address by name. Every node is in the answer; nothing is raised for one that fails.

        Raises SovctlError when the SSH configuration itself cannot be used.
        """
        ...


class UserRecords(Protocol):
    """Records of other users' runs, for root: read with the rights of each owner, each within a share of his own."""

    def read(self, places: Mapping[int, Sequence[str]], note: Callable[[str], None]) -> Iterator[UserRun]:
        """The runs right below the directories of each uid, of each user the newest first; `note` hears in words what
        was left out."""
        ...
