"""What a training script knows about its run: who it is, where to resume, and whether to stop.

Nothing here imports torch, so that a script can look at its context before the expensive imports.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, SupportsFloat

from sovctl.checkpoint.find import latest_complete
from sovctl.errors import UsageError
from sovctl.model.progress import FINISHED, STOPPED, Phase
from sovctl.model.step_id import of_srun
from sovctl.train.agreement import StopAgreement
from sovctl.train.run_directory import RunDirectory
from sovctl.train.side_groups import destroy_all

if TYPE_CHECKING:
    from sovctl.train.heartbeat import Heartbeat

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_TASKS = re.compile(r"(\d{1,6})(?:\(x(\d{1,6})\))?", re.ASCII)
_FIRST_PORT, _PORTS = 12000, 8000
"""Below the range from which the kernel gives out ports by itself (32768 and up)."""


@dataclass(slots=True)
class _StopRequest:
    """Set by a signal handler, which may interrupt anything: one plain store, no lock, and no saving there."""

    signalled: bool = False


@dataclass(slots=True)
class _Live:
    """What a context comes to know while the script runs."""

    agreement: StopAgreement = field(default_factory=StopAgreement)
    directory: RunDirectory | None = None
    heartbeat: Heartbeat | None = None
    closers: list[Callable[[], object]] = field(default_factory=list)


_request = _StopRequest()
"""Signals reach the process, not one context."""
_AT_WORK = frozenset({Phase.STARTING, Phase.LOADING, Phase.RUNNING})


@dataclass(frozen=True, slots=True)
class RunContext:
    """The place of this process in its run. Made by `from_env`; every field has a use without sovctl too."""

    stopped_status: ClassVar[int] = STOPPED
    """`sys.exit(ctx.stopped_status)`: stopped on request, run me again."""
    finished_status: ClassVar[int] = FINISHED
    """`sys.exit(ctx.finished_status)`: done, do not restart; 0 says the same."""

    run_id: str = ""
    """Empty outside sovctl."""
    run_dir: Path | None = None
    attempt: int = 0
    checkpoint_dir: Path = Path("checkpoints")
    resume_from: Path | None = None
    """A checkpoint that is proven complete; `None`: start from nothing."""
    resume_step: int = 0
    """Step of `resume_from`; 0 on a fresh start."""
    excluded_nodes: tuple[str, ...] = ()
    """Nodes blamed so far in this run, as host lists."""
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    node: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False, compare=False)
    local_checkpoint_dir: Path | None = None
    """A directory of this node alone, on a local disk or in memory, for the first tier of checkpoints."""
    local_world_size: int = 1
    """Ranks on this node."""
    _live: _Live = field(default_factory=_Live, repr=False, compare=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> RunContext:
        """Read the environment that sovctl, torchrun or srun set, and listen for requests to stop.

        Ranks come from torchrun (RANK, WORLD_SIZE, LOCAL_RANK), else from the Slurm step, else there is one process.
        Outside sovctl, with SOVCTL_CHECKPOINT_DIR set, `resume_from` is the newest complete checkpoint there.
        SIGTERM and SIGUSR1 are taken when this is the main thread and nobody else handles or ignores them.
        Raises UsageError for a variable that cannot be read, CheckpointDirUnreadable.
        """
        env = os.environ if environ is None else environ
        rank, local_rank, world_size = _ranks(env)
        local = env.get("SOVCTL_LOCAL_CHECKPOINT_DIR")
        resume_from, resume_step = _resume(env)
        run_dir = env.get("SOVCTL_RUN_DIR")
        _listen()
        return cls(
            run_id=env.get("SOVCTL_RUN_ID", ""),
            run_dir=Path(run_dir) if run_dir else None,
            attempt=_count(env, "SOVCTL_ATTEMPT", 0),
            checkpoint_dir=Path(env.get("SOVCTL_CHECKPOINT_DIR") or "checkpoints"),
            resume_from=resume_from,
            resume_step=resume_step,
            excluded_nodes=split_hosts(env.get("SOVCTL_EXCLUDED_NODES", "")),
            rank=rank,
            local_rank=local_rank,
            world_size=world_size,
            node=env.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0],
            environ=env,
            local_checkpoint_dir=Path(local) if local else None,
            local_world_size=_local_world_size(env),
        )

    def init_process_group(self, backend: str = "gloo", timeout: timedelta | None = None) -> None:
        """Start torch.distributed among the ranks of this step; all ranks must call it.

        MASTER_ADDR and MASTER_PORT are used where set (torchrun does). Otherwise the address is SOVCTL_MASTER_ADDR or
        the first node of the step, or this machine when that name does not resolve; the port follows from job, step
        and attempt, so that an attempt never meets what an earlier one left listening.
        """
        import torch.distributed as dist

        address, port = master_address(self.environ), master_port(self.environ, self.attempt)
        dist.init_process_group(
            backend,
            init_method=f"tcp://{address}:{port}" if self.world_size > 1 else "tcp://127.0.0.1:0",
            rank=self.rank,
            world_size=self.world_size,
            timeout=timeout,
        )

    def destroy_process_group(self) -> None:
        """End torch.distributed on this rank; call it where model and optimizer are out of scope.

        Checkpoints that are still being written are waited for first. A DDP or FSDP model that outlives the group
        ends the group's threads while it holds the interpreter's lock, and now and then (1 run in 60 here, over gloo)
        the process then hangs or aborts at its very end. So leave the function that holds the model first; garbage is
        collected here before the group goes.
        """
        for close in self._live.closers:
            close()
        self._live.agreement.settle()
        destroy_all()

    def before_destroying(self, close: Callable[[], object]) -> None:
        """Have something called before the process group goes: on every rank, in the order it was asked for."""
        self._live.closers.append(close)

    def stop_requested(self) -> bool:
        """Whether to save and leave: a signal (time limit, preemption, `scancel`) or the run's stop file.

        All ranks must call it equally often, once a step as a rule; every rank gets the same answer at the same call,
        at most about 0.25 s and two calls after the request. Costs some microseconds on average: the ranks ask each
        other four times a second over gloo, and nobody waits for the GPU. A yes stays, and the supervisor is told.
        """
        stop = self._live.agreement.ask(_request.signalled or self._stop_file_seen())
        if stop and self.run_dir is not None and self.phase in _AT_WORK:
            # A script that now ends with status 0 has stopped, not finished, and only this says so.
            self.heartbeat.stopping()
        return stop

    @property
    def stopping(self) -> bool:
        """The last answer of `stop_requested`, without asking again."""
        return self._live.agreement.answer

    @property
    def run_directory(self) -> RunDirectory | None:
        """The thread that writes to the run directory; `None` without one."""
        if self._live.directory is None and self.run_dir is not None:
            self._live.directory = RunDirectory(
                self.run_dir / "progress" / str(self.rank),
                self.run_dir / "attempts" / str(self.attempt) / "stop",
                temporary=str(self.attempt),
            )
        return self._live.directory

    @property
    def heartbeat(self) -> Heartbeat:
        """The heartbeat of this rank; made with the first use."""
        if self._live.heartbeat is None:
            from sovctl.train.heartbeat import Heartbeat

            self._live.heartbeat = Heartbeat(self)
        return self._live.heartbeat

    def adopt(self, heartbeat: Heartbeat) -> None:
        """The heartbeat of this rank, unless there is one already: a rank has one progress file and one writer."""
        self._live.heartbeat = self._live.heartbeat or heartbeat

    @property
    def phase(self) -> Phase:
        """What this rank is doing: starting, training, saving, ..."""
        return self.heartbeat.phase

    def step_done(self, step: int, loss: SupportsFloat | None = None) -> None:
        """Step `step` is done: tells the supervisor that this rank is alive, and where it is. See `Heartbeat.beat`."""
        self.heartbeat.beat(step, loss)

    def compute(self) -> AbstractContextManager[object]:
        """`with ctx.compute():` around what this rank does by itself. See `Heartbeat.compute`."""
        return self.heartbeat.compute()

    def loading_data(self) -> AbstractContextManager[object]:
        """`with ctx.loading_data():` around fetching a batch."""
        return self.heartbeat.loading_data()

    def finished(self) -> None:
        """Every step is done; `sys.exit(0)` or `sys.exit(ctx.finished_status)` comes next."""
        self.heartbeat.finished()

    def _stop_file_seen(self) -> bool:
        """What the directory's thread saw when it looked last, about a second ago at most."""
        directory = self.run_directory
        if directory is None:
            return False
        directory.watch_stop()
        return directory.stop_seen


def split_hosts(hosts: str) -> tuple[str, ...]:
    """Cut a host list at its outer commas: `n[1-2,4],m1` -> (`n[1-2,4]`, `m1`)."""
    depth, parts = 0, [""]
    for char in hosts:
        depth += {"[": 1, "]": -1}.get(char, 0)
        if char == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += char
    return tuple(part.strip() for part in parts if part.strip())


def first_host(hosts: str) -> str:
    """The first name of a host list: `n[003-005,7],m1` -> `n003`; empty when there is none."""
    text, name = (split_hosts(hosts) or ("",))[0], ""
    while "[" in text:
        before, _, rest = text.partition("[")
        inside, _, text = rest.partition("]")
        name += before + inside.split(",")[0].split("-")[0]
    return name + text


def master_address(env: Mapping[str, str]) -> str:
    """Where rank 0 listens."""
    named = env.get("MASTER_ADDR") or env.get("SOVCTL_MASTER_ADDR")
    if named:
        return named
    host = first_host(env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "")
    try:
        socket.getaddrinfo(host or "localhost", None)
    except OSError:
        return "127.0.0.1"
    return host or "127.0.0.1"


def master_port(env: Mapping[str, str], attempt: int) -> int:
    """The TCP port of rank 0: another one for the next attempt, the next step and the next job."""
    if env.get("MASTER_PORT"):
        return _count(env, "MASTER_PORT", 0)
    # Jobs of two clusters may meet on one machine, as in a lab, even under one id: job 1 of the same second.
    run = env.get("SOVCTL_RUN_DIR") or env.get("SOVCTL_RUN_ID") or env.get("SLURM_JOB_ID", "")
    name = f"{run}/{env.get('SLURM_STEP_ID', '')}/{attempt}"
    return _FIRST_PORT + zlib.crc32(name.encode("utf-8", "surrogateescape")) % _PORTS


def _ranks(env: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, local rank, world size). The batch script itself is no step: one process there, whatever SLURM_NTASKS."""
    if "RANK" in env and "WORLD_SIZE" in env:
        return _count(env, "RANK", 0), _count(env, "LOCAL_RANK", 0), _count(env, "WORLD_SIZE", 1)
    if "SLURM_PROCID" in env and (of_srun(env) or "SLURM_STEP_NUM_TASKS" in env):
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
        return _count(env, "SLURM_PROCID", 0), _count(env, "SLURM_LOCALID", 0), _count(env, tasks, 1)
    return 0, 0, 1


def _local_world_size(env: Mapping[str, str]) -> int:
    """Ranks on this node: torchrun's word, else what Slurm started here (`4(x2),3` with this node's place), else 1."""
    if "RANK" in env and "WORLD_SIZE" in env:
        return _count(env, "LOCAL_WORLD_SIZE", 1)
    counts = task_counts(env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or "")
    place = _count(env, "SLURM_NODEID", 0)
    return counts[place] if place < len(counts) and _ranks(env)[2] > 1 else 1


def task_counts(text: str) -> list[int]:
    """Slurm's word for tasks on each node: `4(x2),3` -> [4, 4, 3]. Empty when it cannot be read."""
    counts: list[int] = []
    for part in text.split(",") if text else []:
        found = _TASKS.fullmatch(part.strip())
        if not found:
            return []
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _resume(env: Mapping[str, str]) -> tuple[Path | None, int]:
    path = env.get("SOVCTL_RESUME_FROM")
    if path:
        return Path(path), _count(env, "SOVCTL_RESUME_STEP", 0)
    directory = env.get("SOVCTL_CHECKPOINT_DIR")
    if path is None and directory and "SOVCTL_RUN_ID" not in env:
        latest = latest_complete(Path(directory))
        return (Path(latest.path), latest.step) if latest else (None, 0)
    return None, 0


def _count(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"{name} must be a whole number, not {text!r}", hint=f"Set it, as in {name}=1, or: unset {name}"
        )
    return int(text)


def _listen() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _on_signal)


def take_stop_signals() -> None:
    """Have SIGTERM and SIGUSR1 mean "save and leave" again, after a framework put handlers of its own there."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, _on_signal)


def _on_signal(_number: int, _frame: object) -> None:
    _request.signalled = True
