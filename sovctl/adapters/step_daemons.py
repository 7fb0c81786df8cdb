"""The slurmstepds of this node by the sockets they listen on, and the requests of `sovctl watch` to end some.

Title and environment of a process can be forged; a socket in slurmd's spool directory cannot: only root writes there.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sovctl.adapters.verdict_file import read_trusted, replace_json

_FRESH_S = 30.0


def ask_to_free(directory: Path, job_id: str, nodes: Sequence[str]) -> None:
    """Ask the watchers of these nodes to free them from a job. Raises NodeFileUnusable."""
    replace_json(
        directory / f"{job_id}.json", {"job_id": job_id, "nodes": list(nodes), "at": time.time()}, durable=False
    )


class ProcStepDaemons:
    """ports.StepDaemons on /proc."""

    def __init__(self, directory: Path, node: str, spool: Callable[[], str], proc: Path = Path("/proc")) -> None:
        """`directory`: the requests; `spool`: this node's SlurmdSpoolDir, asked for only when there is one."""
        self._directory = directory
        self._node = node
        self._spool = spool
        self._proc = proc
        self._asked_at: dict[str, float] = {}

    def asked(self) -> tuple[str, ...]:
        """Jobs this node is to be freed from."""
        found = []
        try:
            paths = sorted(self._directory.glob("[0-9]*.json"))
        except OSError:
            return ()
        for path in paths:
            record = read_trusted(path)
            if not isinstance(record, dict) or not isinstance(record.get("at"), int | float):
                continue
            nodes, job_id = record.get("nodes"), record.get("job_id")
            fresh = abs(time.time() - record["at"]) < _FRESH_S
            if fresh and isinstance(nodes, list) and self._node in nodes and path.stem == job_id:
                found.append(path.stem)
                self._asked_at[path.stem] = float(record["at"])
        return tuple(found)

    def childless(self, job_id: str) -> Mapping[int, str]:
        """pid -> step, of the job's slurmstepds here that have no process below them. One that is younger than the
        request belongs to the job's next start: on a busy node it takes seconds to its first process."""
        sockets = self._sockets(job_id)
        if not sockets:
            return {}
        found: dict[int, str] = {}
        parents = set()
        for entry in os.listdir(self._proc):
            if not entry.isdigit():
                continue
            parents.add(self._parent(int(entry)))
            if self._read(int(entry), "comm").strip() == "slurmstepd":
                steps = [step for inode, step in sockets.items() if inode in self._open_sockets(int(entry))]
                found |= dict.fromkeys([int(entry)], steps[0]) if steps else {}
        return {pid: step for pid, step in found.items() if pid not in parents}

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

    def _sockets(self, job_id: str) -> dict[int, str]:
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
            if mine and _made_at(columns[7]) < self._asked_at.get(job_id, math.inf):
                found[int(columns[6])] = f"{job_id}.{columns[7].removeprefix(stem)}"
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

    def _parent(self, pid: int) -> int:
        fields = self._read(pid, "stat").rpartition(")")[2].split()
        return int(fields[1]) if len(fields) > 1 else 0

    def _read(self, pid: int, name: str) -> str:
        try:
            return (self._proc / str(pid) / name).read_text("utf-8", "replace")
        except OSError:
            return ""


def _made_at(path: str) -> float:
    """When a socket was made; long ago where its file is gone."""
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0
