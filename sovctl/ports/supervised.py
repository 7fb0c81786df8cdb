"""What the supervisor of a run touches in its job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sovctl.model.progress import Progress
from sovctl.model.rank_look import NodeLook, RankLook


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
