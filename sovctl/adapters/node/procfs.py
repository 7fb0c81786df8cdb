"""What the kernel shows of mounts, memory, processes and services under /proc and /run. `root` as in sysfs.py."""

from __future__ import annotations

import os
import re
import time

from sovctl.adapters.node.sysfs import text, whole
from sovctl.model.host import MountSample, NfsSample, ProcessSample, RamSample, ServiceSample, SharedFile

_LARGEST = 4 * 1024 * 1024
_MOST = 2000
"""Processes or files that are told one by one."""
_OCTAL = r"\\([0-7]{3})"
_NO_STORAGE = frozenset(
    {"proc", "sysfs", "devtmpfs", "tmpfs", "devpts", "cgroup", "cgroup2", "overlay", "squashfs", "mqueue", "hugetlbfs"}
    | {"debugfs", "tracefs", "securityfs", "pstore", "configfs", "fusectl", "bpf", "autofs", "binfmt_misc", "nsfs"}
    | {"rpc_pipefs", "ramfs", "efivarfs", "selinuxfs", "nfsd", "iso9660", "fuse.lxcfs"}
)
_STEP = r"slurmstepd: \[(\d+)[._]"
_XPRT_FIELDS = {"tcp": (5, 6, 9), "rdma": (5, 6, 9), "udp": (2, 3, 6)}
"""Positions of sends, receives and backlog after the word (linux/net/sunrpc/xprtsock.c, xprtrdma/transport.c)."""
_SERVICE_BY_COMMAND = {
    "nv-fabricmanage": "nvidia-fabricmanager",
    "nvidia-persiste": "nvidia-persistenced",
    "nvidia-imex": "nvidia-imex",
    "nv-hostengine": "nvidia-dcgm",
    "chronyd": "chrony",
    "ntpd": "ntp",
    "systemd-timesyn": "systemd-timesyncd",
    "munged": "munge",
}
"""By command name as the kernel keeps it (15 characters), for nodes without systemd."""


def mounts(root: str) -> tuple[MountSample, ...]:
    """Storage in mountinfo; the last mount on a path is the one that is seen."""
    found, automounters = {}, set()
    # Of init: ProtectSystem lets the watcher's own unit, and nobody else, see /usr and /etc read-only. For whom may not
    # look at init, of this process.
    lines = text(f"{root}/proc/1/mountinfo", _LARGEST) or text(f"{root}/proc/self/mountinfo", _LARGEST)
    for line in lines.splitlines():
        left, _, right = line.partition(" - ")
        own, other = left.split(), right.split()
        if len(own) >= 6 and other[:1] == ["autofs"]:
            automounters.add(own[0])
        if len(own) < 6 or len(other) < 3 or other[0] in _NO_STORAGE:
            continue
        path = unescaped(own[4])
        read_only = "ro" in own[5].split(",") or "ro" in other[2].split(",")
        found[path] = MountSample(path, other[0], read_only, automatic=own[1] in automounters)
    return tuple(found.values())


def nfs(root: str) -> tuple[NfsSample, ...]:
    """RPC totals of each NFS mount, all its connections (nconnect) together."""
    totals: dict[str, list[int]] = {}
    path = ""
    for line in text(f"{root}/proc/self/mountstats", _LARGEST).splitlines():
        if line.startswith("device "):
            words = line.split()
            path = unescaped(words[4]) if len(words) > 7 and words[7].startswith("nfs") else ""
        elif path and line.lstrip().startswith("xprt:"):
            values = _xprt(line.split())
            if values:
                totals[path] = [sum(pair) for pair in zip(totals.get(path, [0, 0, 0]), values, strict=True)]
    return tuple(NfsSample(path, *values) for path, values in totals.items())


def ram(root: str) -> tuple[RamSample, ...]:
    """Main memory."""
    values: dict[str, int] = {}
    for line in text(f"{root}/proc/meminfo").splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            values[words[0]] = int(words[1])
    total = values.get("MemTotal:")
    if not total:
        return ()
    return (RamSample(total, values.get("MemAvailable:"), values.get("Shmem:"), values.get("HardwareCorrupted:")),)


def processes(root: str) -> tuple[ProcessSample, ...]:
    """Those in uninterruptible sleep and zombies; of the rest only the state is read."""
    found = []
    for pid in pids(root):
        status = text(f"{root}/proc/{pid}/stat", 4096)
        command, _, rest = status.partition("(")[2].rpartition(")")
        fields = rest.split()
        if len(fields) > 19 and fields[0] in ("D", "Z"):
            found.append(ProcessSample(int(pid), fields[0], command[:64], int(fields[19])))
    return tuple(found[:_MOST])


def services(root: str) -> tuple[ServiceSample, ...]:
    """Units that systemd has started, or the known daemons by their command where there is no systemd."""
    try:
        units = os.listdir(f"{root}/run/systemd/units")
    except OSError:
        commands = {text(f"{root}/proc/{pid}/comm", 64) for pid in pids(root)}
        return tuple(ServiceSample(name) for command, name in _SERVICE_BY_COMMAND.items() if command in commands)
    prefix, suffix = "invocation:", ".service"
    return tuple(
        ServiceSample(unit[len(prefix) : -len(suffix)])
        for unit in sorted(units)
        if unit.startswith(prefix) and unit.endswith(suffix)
    )


def shared_files(root: str) -> tuple[SharedFile, ...]:
    """What lies in /dev/shm, the biggest first."""
    files = []
    now = time.time()
    try:
        with os.scandir(f"{root}/dev/shm") as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                size_kib = status.st_blocks // 2
                files.append(SharedFile(entry.name[:128], size_kib, status.st_uid, max(0.0, now - status.st_mtime)))
    except OSError:
        return ()
    return tuple(sorted(files, key=lambda file: -file.size_kib)[:_MOST])


def job_of(root: str, pid: int) -> str | None:
    """The Slurm job a process says it belongs to; empty: none; None: the process is gone or not ours to read."""
    try:
        with open(f"{root}/proc/{pid}/environ", "rb") as stream:
            environment = stream.read(256 * 1024)
    except OSError:
        return None
    for variable in environment.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name == b"SLURM_JOB_ID":
            return value.decode("ascii", "replace")
    return ""


def slurm_jobs(root: str) -> frozenset[str]:
    """Jobs that have a step here, as slurmstepd's own title says: `slurmstepd: [123.extern]`.

    With PrologFlags=Contain each allocation has one from its first second.
    """
    found = set()
    for pid in pids(root):
        if title := re.match(_STEP, text(f"{root}/proc/{pid}/cmdline", 256)):
            found.add(title[1])
    return frozenset(found)


def _xprt(words: list[str]) -> tuple[int, int, int] | None:
    positions = _XPRT_FIELDS.get(words[1]) if len(words) > 2 else None
    if positions is None:
        return None
    numbers = [whole(word) for word in words[2:]]
    picked = [numbers[at] if at < len(numbers) else None for at in positions]
    sends, receives, backlog = picked
    if sends is None or receives is None or backlog is None:
        return None
    return sends, receives, backlog


def pids(root: str) -> list[str]:
    """Every process."""
    try:
        return [name for name in os.listdir(f"{root}/proc") if name.isdigit()]
    except OSError:
        return []


def unescaped(path: str) -> str:
    r"""The kernel writes a space in a path as `\040`."""
    return re.sub(_OCTAL, lambda match: chr(int(match[1], 8)), path)
