"""The slurmstepds of this node by the sockets they listen on, and the requests of `sovctl watch` to end some.

Title and environment of a process can be forged; a socket in slurmd's spool directory cannot: only root writes there.
"""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovctl.adapters.node.verdict_file import read_trusted, replace_json

_FRESH_S = 30.0
_FRESH_END_S = 10.0
_CLOCK_S = 2.0
"""/proc tells the time of the boot in whole seconds, and the clocks of two machines are not quite the same."""
_BATCH = "4294967291"
"""The batch script's step in the name of its socket (slurm.h, 22.05 to 26.05)."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What `sovctl watch` asks of the watchers."""

    job_id: str
    at: float
    end: bool
    """The job's steps are to be ended, and not only what waits."""
    steps: frozenset[int] | None
    """Only these; None: all of the job."""


def ask_to_free(directory: Path, job_id: str, nodes: Sequence[str], steps: Sequence[int] | None = None) -> None:
    """Ask the watchers of these nodes to free them from a job that leaves them, or only from `steps` of one that runs
    on. Raises NodeFileUnusable."""
    record = {"job_id": job_id, "nodes": list(nodes), "at": time.time()}
    only = {} if steps is None else {"steps": list(steps)}
    replace_json(directory / f"{job_id}.json", record | only, durable=False)


def ask_to_end(directory: Path, job_id: str, nodes: Sequence[str]) -> None:
    """Ask the watchers of these nodes to end what runs there now of a job that Slurm has requeued. Raises
    NodeFileUnusable."""
    record = {"job_id": job_id, "nodes": list(nodes), "at": time.time(), "end": True}
    replace_json(directory / f"{job_id}.json", record, durable=False)


def _below(pid: int, chosen: Collection[int], parents: Mapping[int, int]) -> bool:
    seen = set[int]()
    while pid in parents and pid not in seen:
        seen.add(pid)
        pid = parents[pid]
        if pid in chosen:
            return True
    return False


class ProcStepDaemons:
    """ports.StepDaemons on /proc."""

    def __init__(self, directory: Path, node: str, spool: Callable[[], str], proc: Path = Path("/proc")) -> None:
        """`directory`: the requests; `spool`: this node's SlurmdSpoolDir, asked for only when there is one."""
        self._directory = directory
        self._node = node
        self._spool = spool
        self._proc = proc
        self._asked: dict[str, _Request] = {}
        """From which jobs this node is to be freed, by the last look."""

    def asked(self) -> tuple[str, ...]:
        """Jobs this node is to be freed from."""
        self._asked = {request.job_id: request for request in self._requests() if not request.end}
        return tuple(self._asked)

    def to_end(self) -> Mapping[str, float]:
        """Jobs whose steps of before the request are to be ended here."""
        return {request.job_id: request.at for request in self._requests() if request.end}

    def _requests(self) -> list[_Request]:
        """Fresh ones for this node."""
        found = []
        try:
            paths = sorted(self._directory.glob("[0-9]*.json"))
        except OSError:
            return []
        for path in paths:
            record = read_trusted(path)
            if not isinstance(record, dict) or not isinstance(record.get("at"), int | float):
                continue
            nodes, job_id, end = record.get("nodes"), record.get("job_id"), record.get("end") is True
            fresh = abs(time.time() - record["at"]) < (_FRESH_END_S if end else _FRESH_S)
            if fresh and isinstance(nodes, list) and self._node in nodes and path.stem == job_id:
                found.append(_Request(path.stem, float(record["at"]), end, _only(record)))
        return found

    def childless(self, job_id: str) -> Mapping[int, str]:
        """pid -> step, of the job's slurmstepds here that have no process below them. One that is younger than the
        request belongs to the job's next start: on a busy node it takes seconds to its first process."""
        request = self._asked.get(job_id)
        daemons = self._daemons(job_id, request.at if request else math.inf)
        if request is not None and request.steps is not None:
            wanted = {f"{job_id}.{step}" for step in request.steps}
            daemons = {pid: step for pid, step in daemons.items() if step in wanted}
        parents = set(self._parents().values()) if daemons else set()
        return {pid: step for pid, step in daemons.items() if pid not in parents}

    def end_tasks(self, job_id: str, before: float, *, batch: bool) -> int:
        """SIGKILL to the processes below the job's slurmstepds here that began before then. A process that left its
        parent is not found: Slurm's own KillWait is there for it."""
        handles: dict[int, int] = {}
        try:
            for pid in self._tasks(job_id, before, batch):
                with suppress(OSError):
                    handles[pid] = os.pidfd_open(pid)
            # Whoever is still one of them now is the process that was opened.
            still = self._tasks(job_id, before, batch) if handles else frozenset()
            for pid in still & set(handles):
                with suppress(OSError):
                    signal.pidfd_send_signal(handles[pid], signal.SIGKILL)
        finally:
            for handle in handles.values():
                os.close(handle)
        return len(still & set(handles))

    def _tasks(self, job_id: str, before: float, batch: bool) -> frozenset[int]:
        daemons = self._daemons(job_id)
        chosen = {
            pid
            for pid, step in daemons.items()
            if self._began(pid) < before - _CLOCK_S and (batch or not step.endswith(".batch"))
        }
        parents = self._parents() if chosen else {}
        return frozenset(pid for pid in parents if pid not in chosen and _below(pid, chosen, parents))

    def _daemons(self, job_id: str, made_before: float = math.inf) -> dict[int, str]:
        """pid -> step of the job's slurmstepds here."""
        sockets = self._sockets(job_id, made_before)
        found: dict[int, str] = {}
        for pid in self._pids() if sockets else ():
            if self._read(pid, "comm").strip() == "slurmstepd":
                steps = [step for inode, step in sockets.items() if inode in self._open_sockets(pid)]
                found |= dict.fromkeys([pid], steps[0]) if steps else {}
        return found

    def _pids(self) -> list[int]:
        return [int(entry) for entry in os.listdir(self._proc) if entry.isdigit()]

    def _parents(self) -> dict[int, int]:
        return {pid: self._parent(pid) for pid in self._pids()}

    def end(self, pid: int, job_id: str) -> bool:
        """SIGKILL, if it still is what it was."""
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if pid not in self.childless(job_id):
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def _sockets(self, job_id: str, made_before: float) -> dict[int, str]:
        """Inode -> step of the sockets `SPOOL/NODE_JOB.STEP` (stepd_api.c, 22.05 to 26.05)."""
        stem = f"{self._spool()}/{self._node}_{job_id}."
        found = {}
        try:
            lines = (self._proc / "net/unix").read_text("utf-8", "replace").split("\n")
        except OSError:
            return {}
        for line in lines:
            columns = line.split(None, 7)
            mine = len(columns) == 8 and columns[7].startswith(stem) and columns[6].isdigit()
            if mine and _made_at(columns[7]) < made_before:
                step = columns[7].removeprefix(stem)
                found[int(columns[6])] = f"{job_id}.{'batch' if step == _BATCH else step}"
        return found

    def _open_sockets(self, pid: int) -> set[int]:
        inodes = set()
        try:
            for name in os.listdir(self._proc / str(pid) / "fd"):
                target = os.readlink(self._proc / str(pid) / "fd" / name)
                if target.startswith("socket:["):
                    inodes.add(int(target[8:-1]))
        except OSError:
            return inodes
        return inodes

    def _began(self, pid: int) -> float:
        """Seconds since the epoch; infinity: it is gone."""
        fields = self._fields(pid)
        boot = re.search(r"^btime (\d+)$", self._read_text(self._proc / "stat"), re.MULTILINE)
        if len(fields) < 20 or boot is None:
            return math.inf
        return int(boot[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")

    def _parent(self, pid: int) -> int:
        fields = self._fields(pid)
        return int(fields[1]) if len(fields) > 1 else 0

    def _fields(self, pid: int) -> list[str]:
        """Of /proc/PID/stat, from the state on; empty: it is gone."""
        return self._read(pid, "stat").rpartition(")")[2].split()

    def _read(self, pid: int, name: str) -> str:
        return self._read_text(self._proc / str(pid) / name)

    def _read_text(self, path: Path) -> str:
        try:
            return path.read_text("utf-8", "replace")
        except OSError:
            return ""


def _only(record: Mapping[str, Any]) -> frozenset[int] | None:
    """The steps a request is for; None: all. A list that is none asks for nothing."""
    if "steps" not in record:
        return None
    steps = record["steps"]
    return frozenset(step for step in steps if type(step) is int) if isinstance(steps, list) else frozenset()


def _made_at(path: str) -> float:
    """When a socket was made; long ago where its file is gone."""
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0
