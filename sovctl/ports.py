"""What the operations need from the outside, as Protocols. The adapters implement them; the tests have fakes
held to the same contract suites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from sovctl.model.accounted import AccountedJob
from sovctl.model.alert import Alert
from sovctl.model.burn_in import BurnInRun, BurnInSpec
from sovctl.model.device import NodeDevices
from sovctl.model.gpu import GpuSample
from sovctl.model.gpu import KernelLogRead as KernelLogRead
from sovctl.model.host import HostFacts
from sovctl.model.image import CachedImage, ImageOfRun, ImageReference, ImageSettings, ResolvedImage
from sovctl.model.isolated import EnvLayer, HostSlurm, IsolatedStep, IsolatedTask
from sovctl.model.job import JobSize, JobView
from sovctl.model.job_evidence import JobEvidence
from sovctl.model.node import NodeView
from sovctl.model.pool import Partition, Pool, PoolJob
from sovctl.model.progress import Progress
from sovctl.model.rank_look import NodeLook, RankLook
from sovctl.model.reservation import Reservation
from sovctl.model.site import HookProgram, Preemptable
from sovctl.model.site_answer import SiteAnswer
from sovctl.model.submitted import SubmittedRun
from sovctl.model.user_run import UserRun
from sovctl.model.verdict import Verdict
from sovctl.model.watched_run import WatchedRun


class Clock(Protocol):
    """Seconds since the epoch, and a wait that tests can skip."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


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


class NodeControl(Protocol):
    """What may be done to a node, by root or SlurmUser."""

    def node(self, name: str) -> NodeView: ...
    def drain(self, node: str, reason: str) -> None:
        """`scontrol update NodeName=... State=DRAIN Reason=...`."""
        ...


class AliveMark(Protocol):
    """Shows the controller that this node's watcher lives, independently of slurmd."""

    def refresh(self, boot_id: str, at: float) -> None: ...


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


class ChangeMark(Protocol):
    """Tells cheaply whether anything changed in Slurm."""

    def mark(self) -> tuple[int, ...] | None:
        """Differs from the last one when something changed; None when that cannot be told."""
        ...


Answer = TypeVar("Answer", covariant=True)


class Pending(Protocol[Answer]):
    """Work that goes on beside a loop."""

    @property
    def done(self) -> bool: ...
    def result(self) -> Answer:
        """Waits until it is done. Raises SovctlError."""
        ...


class Beside(Protocol):
    """Starts work beside a loop that must not stand still."""

    def __call__(self, work: Callable[[], Any]) -> Pending[Any]: ...


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


class Turn(Protocol):
    """One actor of the whole cluster at a time, as far as the shared file system allows."""

    def take(self) -> AbstractContextManager[None]: ...


class JobControl(Protocol):
    """What the owner of a job may do to it."""

    def job(self, job_id: str) -> JobView:
        """Raises JobNotFound, SlurmUnreachable."""
        ...

    def requeue(self, job_id: str, *, hold: bool = False) -> None:
        """Requeue the job only if it is running now: a job that was cancelled meanwhile is not brought back."""
        ...

    def update_pending(
        self,
        job_id: str,
        *,
        exclude: Sequence[str] | None,
        begin: int | None,
        size: JobSize | None = None,
    ) -> None:
        """Replace the job's ExcNodeList and set its begin time (seconds since the epoch), in one request; `size`:
        also how much it asks for."""
        ...

    def drop_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        """Shrink a running job to the nodes in `keep`; the batch host cannot be dropped."""
        ...

    def steps(self, job_id: str) -> Mapping[str, float]:
        """The job's steps without the batch script's own: by id, when each began (seconds since the epoch)."""
        ...

    def kill_steps(
        self, job_id: str, *, patience_s: float | None = None, lost_node: bool = False, looks: bool = True
    ) -> None:
        """SIGKILL every step of the job but the batch script. No steps is no error. `lost_node`: one of their nodes is
        gone; nobody waits for its report, and Slurm may keep the steps on its books until the job leaves its nodes.
        `looks`: also those that look at its nodes, which end by themselves."""
        ...

    def forbid_requeue(self, job_id: str) -> None:
        """Nothing brings a running job back once it has ended, whatever its status."""
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

    def pool_jobs(self) -> tuple[PoolJob, ...]:
        """Every job that is not over, with its partition and QOS."""
        ...

    def reservations(self) -> tuple[Reservation, ...]:
        """Every reservation, also those that have not begun."""
        ...

    def settings(self) -> Mapping[str, str]:
        """`scontrol show config` by key."""
        ...

    def scheduler_passes(self) -> int | None:
        """How often the main scheduler has run since slurmctld started; None when that cannot be known."""
        ...


class PoolSite(Protocol):
    """QOS, limits and preemption: slurmdbd and slurmctld, as root or an administrator of Slurm."""

    def pool(self) -> Pool:
        """Raises SlurmUnreachable, TryLaterError where slurmdbd does not answer, RefusedError where there is none."""
        ...

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]: ...
    def pool_jobs(self) -> tuple[PoolJob, ...]:
        """Every job that is not over."""
        ...

    def apply(self, argv: Sequence[str]) -> None:
        """One sacctmgr or scontrol command. Raises NotPermitted, CommandFailed, TryLaterError."""
        ...

    def conf_names(self, word: str) -> bool | None:
        """Whether slurm.conf or a file beside it has this word; None where that cannot be known."""
        ...


class SlurmSettings(Protocol):
    """How Slurm is set up."""

    def settings(self) -> Mapping[str, str]: ...
    def preemptable_partitions(self) -> tuple[Preemptable, ...]: ...
    def preemptable_qos(self) -> tuple[Preemptable, ...]:
        """Raises SovctlError where there is no slurmdbd."""
        ...

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]: ...


class Preemption(Protocol):
    """How Slurm preempts jobs."""

    def settings(self) -> Mapping[str, str]: ...
    def partitions(self) -> Mapping[str, Partition]: ...
    def preemptable_partitions(self) -> tuple[Preemptable, ...]: ...
    def preemptable_qos(self) -> tuple[Preemptable, ...]:
        """Raises SovctlError where there is no slurmdbd."""
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


class Accounting(Protocol):
    """Slurm's accounting (slurmdbd)."""

    def jobs(self, since: float, *, everybody: bool) -> tuple[AccountedJob, ...]:
        """Every execution of every job that was there after `since` (seconds since the epoch); `everybody`: not only
        the caller's. Raises SovctlError where the site has no accounting."""
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


class AlertChannel(Protocol):
    """One way out for messages."""

    @property
    def name(self) -> str: ...
    def send(self, subject: str, body: str, record: dict[str, Any]) -> None:
        """Raises SovctlError when it did not get through; returns only when somebody else is in charge of it."""
        ...


@dataclass(frozen=True, slots=True)
class SpooledAlert:
    """A message that waits, and the channels that still have to take it."""

    alert: Alert
    channels: tuple[str, ...]


class AlertSpool(Protocol):
    """Messages on their way, on disk."""

    def turn(self) -> AbstractContextManager[None]:
        """One sender at a time. Raises TryLaterError when another one is at work."""
        ...

    def add(self, alert: Alert, channels: tuple[str, ...]) -> None:
        """The same alert twice is one."""
        ...

    def waiting(self) -> tuple[SpooledAlert, ...]:
        """Oldest first."""
        ...

    def keep(self, item: SpooledAlert) -> None:
        """With its channels as they are now; none left: it is done and goes."""
        ...

    def state(self) -> dict[str, Any]:
        """What the sender saved; empty the first time."""
        ...

    def save_state(self, state: dict[str, Any]) -> None: ...


class Journal(Protocol):
    """Append-only record with one writer; what is returned from `append` is on disk."""

    def append(self, kind: str, **fields: Any) -> dict[str, Any]: ...
    def events(self) -> list[dict[str, Any]]: ...


class Submitter(Protocol):
    """sbatch itself."""

    def sbatch(
        self, options: Sequence[str], name: str, text: bytes, arguments: Sequence[str], *, wait: bool = False
    ) -> SubmitOutcome:
        """Submit a script that bears this name. With `wait` sbatch writes to our own stdout and stderr meanwhile.

        Raises CommandMissing.
        """
        ...

    def answer(self, options: Sequence[str]) -> SubmitOutcome:
        """What sbatch says to options alone (--version, a mistake); submits nothing."""
        ...


class SubmissionFiles(Protocol):
    """The files a submission reads and the directory it promises to the supervisor."""

    def read_script(self, name: str, work_dir: str) -> bytes:
        """The script that sbatch would find under this name. Raises ScriptUnreadable."""
        ...

    def read_stdin(self) -> bytes: ...
    def claim(self, run_root: str, work_dir: str) -> None:
        """Make the directory of runs and try to write in it. Raises RunDirUnusable."""
        ...


class AskStorage(Protocol):
    """Has something done that touches a storage which may hang."""

    def __call__(
        self,
        work: Callable[[], Any],
        *,
        patience_s: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        """What `work` returns. Raises StorageSilent after `patience_s`, None: a few seconds. `meanwhile`: done once a
        second until then; what it raises ends the waiting."""
        ...


class RunFiles(Protocol):
    """The directory of one run."""

    def prepare(self, record: Mapping[str, Any]) -> None:
        """Make the directory and, the first time, `run.json`. Raises RunDirUnusable."""
        ...

    def record(self) -> dict[str, Any]:
        """`run.json`; empty when it is not there or not readable as one."""
        ...

    def start_attempt(self, attempt: int, name: str, script: bytes) -> str:
        """Make the attempt's directory and put the user's script there; returns its path. Raises RunDirUnusable."""
        ...

    def guard_requeue(self, attempt: int) -> str:
        """Make the directory for the front of the script's PATH in which `scontrol requeue` of its own job is a wish
        told to the supervisor; empty when it cannot be made."""
        ...

    def put_before(self, attempt: int, name: str, text: str) -> str:
        """Write a program into that directory; returns the directory. Raises RunDirUnusable."""
        ...

    def requeue_asked(self, attempt: int) -> str:
        """The wish the script told so: `requeue` or `requeuehold`; empty: none."""
        ...

    def ask_stop(self, attempt: int, why: str) -> None:
        """Ask the ranks to save and stop, for those that look (RunContext.stop_requested)."""
        ...

    def progress(self, rank: int) -> Progress | None: ...
    def all_progress(self) -> tuple[Progress, ...]: ...


class Bundles(Protocol):
    """OCI bundles for Slurm's own containers."""

    def is_directory(self, path: str) -> bool: ...

    def make(self, run_dir: str, image: str, config: Mapping[str, Any]) -> str:
        """A bundle of this run with the unpacked image and this configuration; its path. Raises SovctlError."""
        ...


class RankProbe(Protocol):
    """Looks at the ranks of a job on this node."""

    def look(
        self, job_id: str, node: str, *, stacks: bool, interval_s: float, deadline_s: float
    ) -> tuple[tuple[RankLook, ...], float | None]:
        """Each rank, and network bytes a second over `interval_s`; `deadline_s`: of each stack."""
        ...


@dataclass(frozen=True, slots=True)
class LookAnswer:
    """What the nodes of a job said about themselves."""

    looks: tuple[NodeLook, ...]
    silent: tuple[str, ...] = ()
    """Nodes that were asked and did not answer in time."""
    problem: str = ""
    """Why there is no answer at all."""
    first_s: float = 0.0
    """How long the first node took to answer."""


class JobLooks(Protocol):
    """Looks at all nodes of the running job, one look at a time."""

    def begin(
        self, nodes: Sequence[str], *, since: float, stacks: bool, gpus: int | None, within_s: float | None = None
    ) -> None:
        """Start it and return. `gpus`: how many each node was given; `within_s`: how long the first of them may take to
        answer, None: as long as is usual at most. Raises CommandMissing."""
        ...

    @property
    def going_on(self) -> bool: ...
    def poll(self) -> LookAnswer | None:
        """The answer once; None while it goes on, or when none was begun."""
        ...

    def cancel(self) -> None: ...
    def end(self, nodes: Sequence[str], step: int) -> None:
        """End what is left of a step on these nodes, by SIGKILL from another step of the job, and wait for nothing.
        Raises CommandMissing."""
        ...


class SpareHold(Protocol):
    """Keeps the steps of the script off the spares of its job."""

    def hold(self, nodes: Sequence[str]) -> None:
        """Hold exactly these nodes from now on, as far as that can be had within seconds."""
        ...

    def release(self, nodes: Sequence[str] | None = None) -> Sequence[str]:
        """Let these nodes go, or all; returns those that could not be let go within seconds: they may be dead."""
        ...


class RunOutput(Protocol):
    """Follows the output files of a job: only what is new."""

    def begin(self, paths: Sequence[str]) -> None:
        """What is there now does not count."""
        ...

    def follow(self, file: WrittenFile) -> None:
        """It is output of the job's too, from now on; where it is appended to, what it holds now does not count."""
        ...

    def read(self, paths: Sequence[str]) -> tuple[list[str], bool]:
        """New whole lines (a bounded number of bytes), and whether a file grew."""
        ...


class AttemptFiles(Protocol):
    """What is kept beside the script of an attempt."""

    def keep(self, attempt: int, name: str, data: bytes) -> str:
        """Write `attempts/<n>/<name>`; returns what went wrong, empty when nothing did."""
        ...

    def changed(self, directory: str) -> float:
        """When something in a directory of checkpoints last changed; seconds since the epoch, 0: never."""
        ...


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


class NodePing(Protocol):
    """Asks slurmd's port. Each question leaves a line in that node's slurmd log, so ask only on suspicion."""

    def silent(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        """Names of those that refuse or do not answer within the adapter's deadline; all are asked at once."""
        ...

    def lifeless(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        """Names of those that refuse, do not answer, or take a connection and do nothing with it for a while."""
        ...


class ChildProcess(Protocol):
    """The user's script while it runs."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout_s: float) -> int | None: ...
    def send(self, signum: int) -> None: ...
    def kill_group(self) -> None: ...


class StartScript(Protocol):
    """Starts the user's script in a session of its own, with our stdout and stderr."""

    def __call__(self, argv: Sequence[str], env: Mapping[str, str]) -> ChildProcess: ...


class Signals(Protocol):
    """Signals to this process, as values."""

    def wait(self, timeout_s: float) -> tuple[int, ...]:
        """Those that came since the last call, or come within `timeout_s`; SIGCHLD included."""
        ...

    @property
    def terminated_at(self) -> float | None:
        """When SIGTERM last came, in seconds since the epoch, also before anybody waited for it; None: never."""
        ...

    def ignore_termination(self) -> None:
        """From now on SIGTERM is neither delivered nor reported: what is left to do must be done."""
        ...


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file to which a script sends the words of its steps."""

    path: str
    appended: bool
    """What was there before stays in front of them."""


class OutputTail(Protocol):
    """The end of the job's output."""

    def follow(self, file: WrittenFile) -> None:
        """It is output of the job's too, from now on; where it is appended to, what it holds now is no word of this
        attempt."""
        ...

    def begin(self) -> None:
        """A new attempt starts: what earlier ones appended to the job's output is no word of this one."""
        ...

    def read(self, path: str) -> str:
        """The last 64 KiB of a regular file, as far as this attempt wrote them; empty when it cannot be read."""
        ...

    def size(self, path: str) -> int | None:
        """Bytes; None when it cannot be known."""
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


class JobQueue(Protocol):
    """The caller's jobs, all in one question."""

    def own_jobs(self) -> tuple[JobView, ...]:
        """Those that Slurm still knows, ended ones included; without priority and times. Raises SlurmUnreachable."""
        ...


class RunRecords(Protocol):
    """Records of runs wherever they lie. They are files of some user: bounded reads, garbage left out, no errors."""

    def below(self, run_root: str) -> tuple[str, ...]:
        """Directories of runs right below a directory; none when it cannot be listed."""
        ...

    def owner(self, run_dir: str) -> int | None:
        """The uid of the run's events; None: there are none."""
        ...

    def record(self, run_dir: str) -> dict[str, Any]:
        """`run.json`; empty when it is not there or not readable as one."""
        ...

    def events(self, run_dir: str, newest_only: str = "") -> list[dict[str, Any]]:
        """`newest_only`: of this kind, and there may be thousands, the newest is enough."""
        ...

    def progress(self, run_dir: str) -> tuple[Progress, ...]: ...
    def kept(self, run_dir: str, attempt: int, name: str) -> Any:
        """The JSON in `attempts/<n>/<name>`; None when it is not there or no JSON."""
        ...


class UserRecords(Protocol):
    """Records of other users' runs, for root: read with the rights of each owner, each within a share of his own."""

    def read(self, places: Mapping[int, Sequence[str]], note: Callable[[str], None]) -> Iterator[UserRun]:
        """The runs right below the directories of each uid, of each user the newest first; `note` hears in words what
        was left out."""
        ...


class MadeOfFiles(Protocol):
    """What a list made of files when it read them last, kept as long as each is the same. It may forget at any time."""

    def recall(self, path: str) -> Any:
        """What was made of this file as it is now; None: nothing."""
        ...

    def keep(self, path: str, made: Any) -> None:
        """Remember it, of the file as it was when it was recalled; JSON."""
        ...

    def save(self) -> None:
        """Put it down for the next time."""
        ...


class RunIndex(Protocol):
    """The user's own list of submitted runs, newest first."""

    def save(self, run: SubmittedRun) -> None:
        """Remember it. Raises OSError."""
        ...

    def load(self, job_id: str) -> tuple[SubmittedRun, ...]:
        """Every run with this job id: ids come back after a while, and clusters have their own."""
        ...

    def list(self) -> tuple[SubmittedRun, ...]:
        """All; entries that cannot be read are left out."""
        ...


@dataclass(frozen=True, slots=True)
class SubmitOutcome:
    """What sbatch said, unchanged."""

    status: int
    stdout: str
    stderr: str


class ImageTools(Protocol):
    """Loads images and makes a squashfs of each."""

    def resolve(self, reference: ImageReference) -> ResolvedImage:
        """The digest that a reference means now. Raises SovctlError, TryLaterError where a registry is silent."""
        ...

    def build(self, image: ResolvedImage, staging: str, progress: Callable[[str], None]) -> CachedImage:
        """Load and verify the image, and leave its squashfs in `staging`; what is there already is not loaded again.

        Raises SovctlError; what was loaded so far stays in `staging`.
        """
        ...


class ImageCache(Protocol):
    """Images as squashfs, keyed by digest, shared by all nodes."""

    def where(self) -> str: ...
    def find(self, digest: str) -> CachedImage | None:
        """The image, if it is there and its owner can be trusted."""
        ...

    def entries(self) -> tuple[CachedImage, ...]: ...
    def free_bytes(self) -> int: ...
    def pulling(self, digest: str, waiting: Callable[[str], None]) -> AbstractContextManager[str]:
        """The turn to load this image, and the directory to load it into. Waits while another has it."""
        ...

    def add(self, image: CachedImage) -> CachedImage:
        """Take an image from its staging directory into the cache by one rename."""
        ...

    def remove(self, image: CachedImage) -> bool:
        """False: it came into use since it was listed, and stays."""
        ...

    def leftovers(self) -> tuple[str, ...]:
        """Staging directories of pulls that nobody goes on with."""
        ...

    def remove_leftover(self, path: str) -> bool: ...


class UnpackedImages(Protocol):
    """Images that this node unpacked because it cannot mount them."""

    def unused(self, since: float) -> tuple[str, ...]:
        """Directories that no step uses, and none used after `since` (seconds since the epoch)."""
        ...

    def remove(self, path: str) -> bool:
        """False: a step uses it by now."""
        ...


class IsolationHost(Protocol):
    """What an isolated step needs to know of the node it is made on."""

    def real_path(self, path: str) -> str | None:
        """With every link resolved; None: it is not there."""
        ...

    def identity(self, path: str) -> str:
        """Names the bytes of an image: the digest in the cache, else the file; a directory names itself."""
        ...

    def make_places(self, root: str, mounts: Sequence[tuple[str, str]]) -> None:
        """Something in an unpacked image to mount each source on. Raises UsageError."""
        ...

    def devices(self) -> NodeDevices:
        """Device files of accelerators and fabrics, and which of them this process may open."""
        ...

    def slurm(self, names: Sequence[str]) -> HostSlurm:
        """Of these commands of Slurm the ones on this node. Raises SovctlError where there are none."""
        ...

    def header(self, path: str) -> tuple[bytes, int]:
        """The first bytes of a file, and its size. Raises SovctlError."""
        ...

    def can_mount(self, squashfs: str) -> bool: ...
    def lookout(
        self, about: Mapping[str, object], environment: Mapping[str, str], own_devices: tuple[str, ...]
    ) -> Callable[[], str]:
        """Lay something outside to be found, and give what looks for it from inside."""
        ...

    def clear(self) -> None:
        """Take away what `lookout` laid."""
        ...

    def keep(self, squashfs: str) -> None:
        """Have the cache not remove it while this process, or one forked from it, lives. Raises SovctlError."""
        ...

    def keep_on(self) -> None:
        """What is kept stays so for the program that this process becomes."""
        ...

    def unpacked(self, squashfs: str, offset: int, say: Callable[[str], None]) -> str:
        """The image as a directory of this node, unpacked once. Raises SovctlError."""
        ...

    def stamp(self, path: str) -> str:
        """Size and time of the last change of a file. Raises SovctlError."""
        ...

    def recorded(self, run_dir: str, name: str) -> ImageOfRun:
        """What a run uses for an image's name; without a digest: nothing yet."""
        ...

    def record(self, run_dir: str, name: str, image: ImageOfRun) -> ImageOfRun:
        """Write it down, unless another was faster; what counts."""
        ...


class IsolatedSteps(Protocol):
    """Joins tasks to the isolated steps of this node."""

    def run(
        self, key: str, prepare: Callable[[], IsolatedStep], task_of: Callable[[ImageSettings], IsolatedTask]
    ) -> int:
        """Run one task; its exit status, negative for a signal. Raises SovctlError when the step cannot be made."""
        ...


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What a command said that was run in a step."""

    status: int
    stdout: str
    stderr: str
    by_step: bool
    """By a step of Slurm; else on this machine."""


class StepCommand(Protocol):
    """Runs a sovctl command in a step of Slurm, or on this machine where there is none."""

    def run(self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float) -> StepAnswer: ...

    def program(
        self, words: Sequence[str], srun_options: Sequence[str], timeout_s: float, variables: Mapping[str, str]
    ) -> StepAnswer:
        """Any program in a step, with variables for srun. Raises SovctlError where there is no srun."""
        ...

    def offers(self, option: str) -> bool:
        """Whether srun here knows an option."""
        ...


class TinyImage(Protocol):
    """A root file system with one program, to try a runtime with."""

    place: str
    """A directory of its own around it."""
    directory: str
    squashfs: str
    """Empty: it cannot be made here."""
    secret: str
    """What `command` prints inside, and the node behind it; elsewhere the word `outside`."""

    @property
    def command(self) -> tuple[str, ...]: ...
    def make(self) -> None: ...
    def remove(self) -> None: ...


class EnvLayers(Protocol):
    """Named layers of this user over images."""

    def open(self, name: str, base: str, reference: str) -> str:
        """The directory of a layer, made if it is new, for this step alone.

        Raises UsageError, RefusedError where it was made over other bytes than `base`, TryLaterError while in use.
        """
        ...

    def reference(self, name: str) -> str:
        """The image below a layer. Raises UsageError where there is none."""
        ...

    def entries(self) -> tuple[EnvLayer, ...]: ...
    def remove(self, name: str) -> None: ...
    def export(self, name: str, step: IsolatedStep, target: str) -> None:
        """Write image and layer as one squashfs."""
        ...
