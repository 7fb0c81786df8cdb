"""What the operations need from the outside, as Protocols. The adapters implement them; the tests have fakes
held to the same contract suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sovctl.model.gpu import GpuSample, XidEvent
from sovctl.model.job import JobView
from sovctl.model.node import NodeView
from sovctl.model.verdict import Verdict


@dataclass(frozen=True, slots=True)
class KernelLogRead:
    """The driver's fault lines since a cursor, and the cursor to read from next time."""

    events: tuple[XidEvent, ...]
    next_sequence: int
    """The first sequence number not read yet."""


class Clock(Protocol):
    """Seconds since the epoch, and a wait that tests can skip."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class GpuProbe(Protocol):
    """Reads the accelerators of this node."""

    def read(self) -> tuple[GpuSample, ...]:
        """Every GPU the driver enumerates. Raises SovctlError when the driver library is absent or hangs."""
        ...


class KernelLog(Protocol):
    """The kernel's own record of this boot."""

    def boot_id(self) -> str: ...
    def read(self, since_sequence: int) -> KernelLogRead:
        """Events with a sequence number of at least `since_sequence`. Raises SovctlError when unreadable."""
        ...


class VerdictStore(Protocol):
    """`verdict.json` and the cursor of this node."""

    def load(self) -> Verdict | None:
        """The stored verdict, or None when absent, of another boot, not root's, or not readable as one."""
        ...

    def save(self, verdict: Verdict, valid_for_s: float) -> None: ...
    def cursor(self, boot_id: str) -> int:
        """The first kernel log sequence number of this boot not judged yet; 0 for a new boot."""
        ...

    def save_cursor(self, boot_id: str, sequence: int) -> None: ...


class NodeControl(Protocol):
    """What may be done to a node, by root or SlurmUser."""

    def node(self, name: str) -> NodeView: ...
    def drain(self, node: str, reason: str) -> None:
        """`scontrol update NodeName=... State=DRAIN Reason=...`."""
        ...


class JobControl(Protocol):
    """What the owner of a job may do to it."""

    def job(self, job_id: str) -> JobView:
        """Raises JobNotFound, SlurmUnreachable."""
        ...

    def requeue(self, job_id: str, *, hold: bool = False) -> None:
        """Requeue the job only if it is running now: a job that was cancelled meanwhile is not brought back."""
        ...

    def update_pending(self, job_id: str, *, exclude: Sequence[str] | None, start_in_s: int | None) -> None:
        """Replace the job's ExcNodeList and set its begin time relative to now, in one request."""
        ...

    def drop_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        """Shrink a running job to the nodes in `keep`; the batch host cannot be dropped."""
        ...

    def kill_steps(self, job_id: str) -> None:
        """SIGKILL every step of the job but the batch script. No steps is no error."""
        ...

    def release(self, job_id: str) -> None: ...
    def cancel(self, job_id: str) -> None: ...


class ClusterView(Protocol):
    """Reads about the whole cluster."""

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        """The named nodes, or all."""
        ...

    def jobs_on(self, nodes: Sequence[str]) -> tuple[JobView, ...]:
        """Active jobs that hold any of these nodes."""
        ...

    def settings(self) -> Mapping[str, str]:
        """`scontrol show config` by key."""
        ...


class Journal(Protocol):
    """Append-only record with one writer; what is returned from `append` is on disk."""

    def append(self, kind: str, **fields: Any) -> dict[str, Any]: ...
    def events(self) -> list[dict[str, Any]]: ...


class Submitter(Protocol):
    """sbatch itself."""

    def sbatch(self, options: Sequence[str], script: Path, arguments: Sequence[str]) -> SubmitOutcome: ...


@dataclass(frozen=True, slots=True)
class SubmitOutcome:
    """What sbatch said, unchanged."""

    status: int
    stdout: str
    stderr: str
