"""Finds the ranks of a job on this node in /proc, and looks where each of them stands.

Everything with the user's own rights. py-spy reads stacks without stopping a process (`--nonblocking`): a rank that is
well is not held up, and one in uninterruptible sleep does not take the reader with it. Where the kernel forbids the
look (Yama's ptrace_scope), or the process is no Python, the kernel's own words remain: state, wchan, system call.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from sovctl.adapters.command import CommandRunner
from sovctl.errors import CommandMissing, CommandTimeout, SovctlError
from sovctl.model.rank_look import RankLook
from sovctl.model.step_id import of_srun

A_LOOK = "SOVCTL_LOOK"
"""In the environment of every look: several go on side by side in steps of their own, and none is a rank."""
_TELLING = (b"SLURM", b"RANK", b"LOCAL_RANK", b"OMPI_COMM_WORLD_RANK", b"PMIX_RANK", A_LOOK.encode())
_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_LARGEST_ENVIRONMENT = 1024 * 1024
_MOST_THREADS = 256
_MOST_FRAMES = 64
_AT_ONCE = 4
_NETWORK = Path("/sys/class/infiniband")


@dataclass(slots=True)
class _Process:
    """One process of the job on this node."""

    pid: int
    parent: int
    env: Mapping[str, str]
    rank: int
    from_launcher: bool
    """Its RANK was set by a launcher below srun (torchrun), and is not srun's own."""
    children: list[_Process] = field(default_factory=list)


class RankProcesses:
    """ports.RankProbe on /proc and py-spy."""

    def __init__(self, runner: CommandRunner | None = None, proc: Path = _PROC, py_spy: str = "") -> None:
        self._runner = runner or CommandRunner()
        self._proc = proc
        self._py_spy = py_spy or find_py_spy()

    def look(
        self, job_id: str, node: str, *, stacks: bool, interval_s: float, deadline_s: float
    ) -> tuple[tuple[RankLook, ...], float | None]:
        """The ranks of the job, and network bytes a second; takes a little longer than `interval_s`."""
        began = time.monotonic()
        mains = self._mains(job_id, node)
        before = {pid: self._cpu_ticks(pid) for pid in mains.values()}
        sent = network_bytes()
        blocked = {pid: self._blocked(pid) for pid in mains.values()}
        first = self._stacks(mains.values(), deadline_s) if stacks else {}
        time.sleep(max(0.0, began + interval_s - time.monotonic()))
        span = time.monotonic() - began
        looks = []
        shares = {pid: self._share(before[pid], pid, span) for pid in mains.values()}
        # Only a rank that computes can be somewhere else by now.
        again = self._stacks([pid for pid, share in shares.items() if stacks and (share or 0) >= 0.25], deadline_s)
        for rank, pid in sorted(mains.items()):
            stack, problem = first.get(pid, ((), "")) if stacks else ((), "")
            second = again.get(pid)
            looks.append(
                RankLook(
                    rank,
                    pid,
                    command=self._read(pid, "comm").strip(),
                    state=self._state(pid),
                    wait=self._wait(pid),
                    blocked=_still(blocked[pid], self._blocked(pid)),
                    cpu_share=shares[pid],
                    stack=stack,
                    moving=None if second is None else second[0] != stack,
                    problem=problem,
                )
            )
        now = network_bytes()
        rate = None if sent is None or now is None else max(0.0, (now - sent) / max(span, 0.001))
        return tuple(looks), rate

    def end(self, job_id: str, node: str, step: int) -> int:
        """SIGKILL to every process of the user's in this step of the job here; returns how many there were."""
        ended = 0
        for name in filter(str.isdigit, os.listdir(self._proc)):
            try:
                handle = os.pidfd_open(int(name))
            except OSError:
                continue
            try:
                env = self._environment(int(name))
                if self._here(env, job_id, node) and of_srun(env) and env.get("SLURM_STEP_ID") == str(step):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    ended += 1
            except OSError:
                continue
            finally:
                os.close(handle)
        return ended

    # Which processes

    def _mains(self, job_id: str, node: str) -> dict[int, int]:
        """Rank -> the process that trains."""
        found = self._of_job(job_id, node)
        by_pid = {item.pid: item for item in found}
        for item in found:
            if item.parent in by_pid:
                by_pid[item.parent].children.append(item)
        # Where torchrun started ranks of its own, srun's task is only their launcher.
        launched = [item for item in found if item.from_launcher]
        chosen = launched or found
        ranks: dict[int, int] = {}
        for item in chosen:
            above = by_pid.get(item.parent)
            top = above is None or above.rank != item.rank or above.from_launcher != item.from_launcher
            if top and item.rank not in ranks:
                ranks[item.rank] = self._trainer(item).pid
        return ranks

    def _of_job(self, job_id: str, node: str) -> list[_Process]:
        own_step = os.environ.get("SLURM_STEP_ID")
        found = []
        for name in os.listdir(self._proc):
            if not name.isdigit():
                continue
            env = self._environment(int(name))
            if not self._here(env, job_id, node):
                continue
            rank, from_launcher = _rank(env)
            if rank is None or (own_step is not None and env.get("SLURM_STEP_ID") == own_step):
                continue
            found.append(_Process(int(name), self._parent(int(name)), env, rank, from_launcher))
        return sorted(found, key=lambda item: item.pid)

    def _here(self, env: Mapping[str, str], job_id: str, node: str) -> bool:
        """Whether a process belongs to the job on this node, and is no look at it."""
        if env.get("SLURM_JOB_ID") != job_id or env.get("SLURMD_NODENAME", node) != node or A_LOOK in env:
            return False
        # Several clusters may have a node of this name on this machine, and a job of this number.
        own_conf = os.environ.get("SLURM_CONF")
        return not own_conf or env.get("SLURM_CONF", own_conf) == own_conf

    def _trainer(self, item: _Process) -> _Process:
        """Below the shells and wrappers of a task: the first Python, or the end of the line of single children."""
        while not self._python(item.pid) and len(item.children) == 1:
            item = item.children[0]
        if not self._python(item.pid):
            item = next((child for child in item.children if self._python(child.pid)), item)
        return item

    def _python(self, pid: int) -> bool:
        try:
            return os.path.basename(os.readlink(self._proc / str(pid) / "exe")).startswith(("python", "pypy"))  # noqa: PTH119
        except OSError:
            return self._read(pid, "comm").startswith(("python", "pypy"))

    def _environment(self, pid: int) -> dict[str, str]:
        try:
            with open(self._proc / str(pid) / "environ", "rb") as file:
                data = file.read(_LARGEST_ENVIRONMENT)
        except OSError:
            return {}
        pairs = (item.partition(b"=") for item in data.split(b"\0"))
        return {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, _, value in pairs
            if key.startswith(_TELLING)
        }

    # One process

    def _fields(self, pid: int, thread: int | None = None) -> list[str]:
        place = f"{pid}/stat" if thread is None else f"{pid}/task/{thread}/stat"
        text = self._read_path(self._proc / place)
        # The command name may hold blanks and parentheses; the fields after the last ')' cannot.
        return text[text.rfind(")") + 2 :].split() if ")" in text else []

    def _parent(self, pid: int) -> int:
        fields = self._fields(pid)
        return int(fields[1]) if len(fields) > 1 else 0

    def _state(self, pid: int) -> str:
        fields = self._fields(pid)
        return fields[0] if fields else "gone"

    def _cpu_ticks(self, pid: int) -> int | None:
        fields = self._fields(pid)
        return int(fields[11]) + int(fields[12]) if len(fields) > 12 else None

    def _share(self, before: int | None, pid: int, span_s: float) -> float | None:
        after = self._cpu_ticks(pid)
        return None if before is None or after is None else (after - before) / _TICKS / max(span_s, 0.001)

    def _wait(self, pid: int) -> str:
        where = self._read(pid, "wchan").strip()
        call = self._read(pid, "syscall").partition(" ")[0].strip()
        return where if where not in ("", "0") else (f"system call {call}" if call.isdigit() else "")

    def _blocked(self, pid: int) -> dict[int, str]:
        """Threads of the process, and its children, in uninterruptible sleep now: where each of them waits."""
        found = {}
        for thread in self._threads(pid):
            fields = self._fields(pid, thread)
            if fields and fields[0] == "D":
                found[thread] = self._read_path(self._proc / f"{pid}/task/{thread}/wchan").strip() or "the kernel"
        for child in self._children(pid):
            fields = self._fields(child)
            if fields and fields[0] == "D":
                found[child] = self._read(child, "wchan").strip() or "the kernel"
        return found

    def _threads(self, pid: int) -> list[int]:
        try:
            return [int(name) for name in os.listdir(self._proc / str(pid) / "task")][:_MOST_THREADS]
        except OSError:
            return []

    def _children(self, pid: int) -> list[int]:
        text = self._read_path(self._proc / f"{pid}/task/{pid}/children")
        return [int(word) for word in text.split()[:_MOST_THREADS]]

    def _read(self, pid: int, name: str) -> str:
        return self._read_path(self._proc / str(pid) / name)

    def _read_path(self, path: Path) -> str:
        try:
            with open(path, "rb") as file:
                return file.read(4096).decode("utf-8", "replace")
        except OSError:
            return ""

    # Stacks

    def _stacks(self, pids: Iterable[int], deadline_s: float) -> dict[int, tuple[tuple[str, ...], str]]:
        wanted = list(pids)
        if not wanted:
            return {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip(wanted, pool.map(lambda pid: self._stack(pid, deadline_s), wanted), strict=True))

    def _stack(self, pid: int, deadline_s: float) -> tuple[tuple[str, ...], str]:
        """(frames, problem): of the main thread, innermost first."""
        if not self._py_spy:
            return (), "py-spy is not installed"
        argv = [self._py_spy, "dump", "--nonblocking", "--json", "--pid", str(pid)]
        problem = ""
        for _ in range(2):
            # A process that runs on may change under the reader; the second try usually succeeds.
            try:
                done = self._runner.run(argv, timeout_s=deadline_s, check=False)
            except CommandTimeout:
                return (), f"py-spy gave no answer within {deadline_s:g} s"
            except (CommandMissing, SovctlError) as error:
                return (), error.message
            if done.status == 0:
                return _frames(done.stdout, pid), ""
            problem = _why(done.stderr)
            if problem.startswith(("not a Python", "no permission")):
                break
        return (), problem


def network_bytes() -> int | None:
    """Bytes in and out of this machine so far, without the loopback; None where it does not tell."""
    total, seen = 0, False
    try:
        lines = (_PROC / "net/dev").read_text("ascii", "replace").splitlines()[2:]
    except OSError:
        lines = []
    for line in lines:
        name, _, figures = line.partition(":")
        values = figures.split()
        if name.strip() != "lo" and len(values) > 8:
            total, seen = total + int(values[0]) + int(values[8]), True
    for port in _NETWORK.glob("*/ports/*/counters"):
        for counter in ("port_xmit_data", "port_rcv_data"):
            try:
                # InfiniBand counts words of four bytes.
                total, seen = total + 4 * int((port / counter).read_text("ascii")), True
            except (OSError, ValueError):
                continue
    return total if seen else None


def find_py_spy() -> str:
    """Where py-spy lies: beside this interpreter, where its package put it, or on PATH; empty: nowhere."""
    import shutil

    beside = Path(sys.executable).with_name("py-spy")
    if beside.exists():
        return str(beside)
    try:
        files = metadata.distribution("py-spy").files or []
    except metadata.PackageNotFoundError:
        files = []
    found = next((Path(str(item.locate())) for item in files if item.name == "py-spy"), None)
    return str(found) if found is not None and found.exists() else shutil.which("py-spy") or ""


def _rank(env: Mapping[str, str]) -> tuple[int | None, bool]:
    for name in ("RANK", "OMPI_COMM_WORLD_RANK"):
        if env.get(name, "").isdigit() and (name != "RANK" or "LOCAL_RANK" in env):
            return int(env[name]), True
    if of_srun(env) and env.get("SLURM_PROCID", "").isdigit():
        return int(env["SLURM_PROCID"]), False
    return None, False


def _frames(text: str, pid: int) -> tuple[str, ...]:
    try:
        threads: list[Any] = json.loads(text)
        main = next((item for item in threads if item.get("os_thread_id") == pid), threads[0])
        return tuple(
            f"{frame['name']} ({frame.get('short_filename') or frame['filename']}:{frame['line']})"
            for frame in main["frames"][:_MOST_FRAMES]
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return ()


def _why(stderr: str) -> str:
    if "Permission" in stderr or "permission" in stderr:
        return "no permission to read the process (kernel.yama.ptrace_scope?)"
    if "python version" in stderr or "libpython" in stderr:
        return "not a Python process"
    line = next((line for line in stderr.splitlines() if line.strip()), "py-spy failed")
    return line.removeprefix("Error: ")[:200]


def _still(before: Mapping[int, str], after: Mapping[int, str]) -> str:
    both = [after[key] for key in before if key in after]
    return f"{len(both)} of its threads and children in {both[0]}" if len(both) > 1 else "".join(both)
