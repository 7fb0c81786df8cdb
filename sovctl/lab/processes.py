"""Processes on this machine: which are the lab's own, which belong to which node of it.

A process is recorded by its id *and* its start time, so that a reused id is never taken for ours.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """One process, safe against reuse of its id."""

    role: str
    """What it is in the lab: "munged", "slurmctld", "slurmd:n003", ..."""
    pid: int
    started: int
    """Clock ticks after boot at which it started (/proc/PID/stat, field 22)."""

    @property
    def alive(self) -> bool:
        return start_ticks(self.pid) == self.started


def mark(role: str, pid: int) -> ProcessMark:
    """Record a process that runs now; a process that ended gets a mark that is never alive."""
    return ProcessMark(role, pid, start_ticks(pid) or -1)


def start_ticks(pid: int) -> int | None:
    """When a process started; None when there is none with this id, or only a zombie."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] != "Z" else None


def stops(pid: int, seconds: float) -> bool:
    """Wait until a process that was sent SIGSTOP stands still; False when it ends instead, or does neither."""
    deadline = time.monotonic() + seconds
    while (fields := _stat(pid)) and fields[0] not in "ZX" and time.monotonic() < deadline:
        if fields[0] == "T":
            return True
        time.sleep(0.01)
    return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return []
    # The command name may hold blanks and parentheses; the fields after the last ')' cannot.
    return text[text.rfind(")") + 2 :].split()


def stop(marks: Iterable[ProcessMark], *, term_s: float = 5.0) -> None:
    """SIGTERM, then after `term_s` SIGKILL, exactly these processes; returns when all are gone."""
    left = [item for item in marks if item.alive]
    _send(left, signal.SIGTERM)
    if not gone_within(left, term_s):
        _send(left, signal.SIGKILL)
        gone_within(left, 5.0)


def kill(pids: Iterable[int]) -> None:
    """SIGKILL at once; a process that is gone already is no error."""
    for pid in pids:
        _signal(pid, signal.SIGKILL)


def gone_within(marks: list[ProcessMark], seconds: float) -> bool:
    """Wait until none of them is alive."""
    deadline = time.monotonic() + seconds
    while any(item.alive for item in marks):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _send(marks: Iterable[ProcessMark], signum: signal.Signals) -> None:
    for item in marks:
        if item.alive:
            _signal(item.pid, signum)


def _signal(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return


def all_pids() -> Iterator[int]:
    """Every process but init and ourselves."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            yield int(name)


def environment(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty when it cannot be read."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in raw.split(b"\0") if b"=" in item)
    return {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}


def parent(pid: int) -> int | None:
    """The parent's id."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def command(pid: int) -> str:
    """The command line, blank separated."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")).strip()
    except OSError:
        return ""


def holders_of_sockets_below(directory: Path) -> set[int]:
    """Processes that hold a listening Unix socket below a directory: slurmstepd keeps one in its node's spool
    directory, and its environment cannot be read, for it writes its title over it."""
    inodes = _socket_inodes(directory)
    return {pid for pid in all_pids() if inodes & set(_open_sockets(pid))} if inodes else set()


def _socket_inodes(directory: Path) -> set[str]:
    prefix = f"{directory}/"
    lines = Path("/proc/net/unix").read_text("utf-8", "replace").splitlines()[1:]
    rows = (line.split(maxsplit=7) for line in lines)
    return {row[6] for row in rows if len(row) == 8 and row[7].startswith(prefix)}


def _open_sockets(pid: int) -> Iterator[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]
