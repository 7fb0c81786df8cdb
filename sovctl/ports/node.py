"""A node that looks at itself, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sovctl.model.burn_in import BurnInRun, BurnInSpec
from sovctl.model.gpu import GpuSample, KernelLogRead
from sovctl.model.host import HostFacts
from sovctl.model.job_evidence import JobEvidence
from sovctl.model.verdict import Verdict


class GpuProbe(Protocol):
    """Reads the accelerators of this node."""

    def read(self) -> tuple[GpuSample, ...]:
        """Every GPU the driver enumerates. Raises SovctlError when the driver library is absent or hangs."""
        ...

    def begin(self) -> None:
        """Start a reading without waiting for it. Raises SovctlError."""
        ...

    def collect(self, wait_s: float) -> tuple[GpuSample, ...] | None:
        """The reading that `begin` started, as `read` gives it; None while it goes on after `wait_s` seconds."""
        ...


class KernelLog(Protocol):
    """The kernel's own record of this boot."""

    def boot_id(self) -> str: ...
    def read(self, since_sequence: int) -> KernelLogRead:
        """Events with a sequence number of at least `since_sequence`. Raises SovctlError when unreadable."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait until something was written after the last `read`; False when nothing came in time."""
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


class HostProbe(Protocol):
    """Reads everything of this node but the GPUs and the kernel log."""

    def read(self, sources: frozenset[str]) -> HostFacts:
        """Ask the named sources; one that fails or hangs is told in `readings`, never raised."""
        ...


class HostWatch(Protocol):
    """The same for who must not wait: a kernel line may come at any time."""

    def begin(self, sources: frozenset[str]) -> None: ...
    def collect(self, wait_s: float) -> HostFacts | None:
        """What `begin` asked for; None while it goes on after `wait_s` seconds."""
        ...


class NodeRecords(Protocol):
    """The small files of this node: `memory` (of this boot), `ledger`, `probes`, `inventory`,
    `burn-in`, and `job-<id>`."""

    def load(self, name: str) -> Any:
        """The JSON in it; None when absent, not root's or not JSON."""
        ...

    def present(self, name: str) -> bool:
        """Whether there is a file at all, usable or not."""
        ...

    def save(self, name: str, record: dict[str, Any]) -> None: ...
    def drop(self, name: str) -> None: ...
    def notice(self, line: str) -> None:
        """What the tasks of the job that starts are told (plugins/slurmd/task_prolog); empty: nothing."""
        ...

    def ledgers(self) -> tuple[Any, ...]:
        """What the other nodes of the site know of their GPUs; nothing without a shared directory."""
        ...

    def jobs(self) -> tuple[str, ...]:
        """Ids of the jobs with a record."""
        ...


class Ledgers(Protocol):
    """What the nodes of a site know of their GPUs, and the list of lemons that a sweep makes of it."""

    def changed(self, since: float) -> bool:
        """Whether any was written after `since` (seconds since the epoch), as far as that can be told."""
        ...

    def all(self) -> dict[str, tuple[float, Any]]:
        """By node: when it was written, and the JSON in it."""
        ...

    def lemons(self) -> Any:
        """The JSON of the list; None when absent, not root's or not JSON."""
        ...

    def save_lemons(self, record: dict[str, Any]) -> None: ...


class BurnInWork(Protocol):
    """Does one piece of a burn-in in a process of its own."""

    def run(self, spec: BurnInSpec, stop: Callable[[], str]) -> BurnInRun:
        """Never past the deadline of `spec`; `stop` is asked several times a second and says why to end early."""
        ...


class References(Protocol):
    """What accelerators computed before, over the whole site where it shares a directory."""

    def load(self) -> Any:
        """The JSON in it; None when absent, not root's or not JSON."""
        ...

    def save(self, record: dict[str, Any]) -> None: ...


class EvidenceFiles(Protocol):
    """What the nodes leave about jobs, where everybody can read it."""

    def save(self, evidence: JobEvidence) -> None:
        """Raises SovctlError."""
        ...

    def load(self, job_id: str) -> tuple[JobEvidence, ...]:
        """What the nodes left about this job (Slurm's raw id), of each node its newest execution there."""
        ...

    def prune(self, older_than: float) -> int:
        """Remove what was written before `older_than` (seconds since the epoch); returns how many jobs' evidence."""
        ...


class AliveMark(Protocol):
    """Shows the controller that this node's watcher lives, independently of slurmd."""

    def refresh(self, boot_id: str, at: float) -> None: ...


class StepDaemons(Protocol):
    """The slurmstepds of this node, for root."""

    def asked(self) -> Sequence[str]:
        """Jobs, by Slurm's raw id, that `sovctl watch` wants this node freed from."""
        ...

    def childless(self, job_id: str) -> Mapping[int, str]:
        """pid -> step of those of the job that have no process below them."""
        ...

    def end(self, pid: int, job_id: str) -> bool:
        """End one of them; False when it is no longer such a one."""
        ...

    def to_end(self) -> Mapping[str, float]:
        """Preempted jobs, by Slurm's raw id, whose steps here are to be ended if they began before that time."""
        ...

    def end_tasks(self, job_id: str, before: float, *, batch: bool) -> int:
        """SIGKILL to every process below those of the job that began before that time; `batch`: below the batch
        script's too. Returns how many there were."""
        ...
