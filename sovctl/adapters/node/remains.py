"""What jobs leave of containers, versions of firmware, rasdaemon's counts. `root` as in sysfs.py."""

from __future__ import annotations

import os
import re

from sovctl.adapters.node.procfs import job_of, pids, slurm_jobs, unescaped
from sovctl.adapters.node.sysfs import text
from sovctl.model.host import ContainerSample, FirmwareSample, RasSample

_MOST = 200
_JOB_IN_NAME = r"(?:pyxis_|slurm[._-]?|job[._-]?)(\d+)"
_RUNTIME_MOUNTS = ("fuse.squashfuse", "fuse.squashfuse_ll", "fuse.fuse-overlayfs", "squashfs", "overlay")
_DIRECTORIES = ("run/enroot", "run/pyxis", "tmp/enroot-data", "var/lib/enroot", "run/apptainer", "run/singularity")
"""Where enroot (ENROOT_RUNTIME_PATH, ENROOT_DATA_PATH), pyxis and apptainer keep the containers of jobs by default."""
_DEPTH = 2
_DMI = ("bios_version", "bios_date", "board_name", "product_name")
_FABRIC_LOG = "var/log/fabricmanager.log"
_FABRIC_VERSION = r"Fabric Manager version is\s*:\s*([\w.-]{1,40})"
_LOG_TAIL = 512 * 1024
_RAS_DB = "var/lib/rasdaemon/ras-mc_event.db"
_RAS_TABLES = {
    "mc_event": ("memory", "err_type", "err_count"),
    "aer_event": ("pcie", "err_type", None),
    "mce_record": ("machine check", None, None),
    "memory_failure_event": ("memory page", "action_result", None),
}
"""Table of rasdaemon: what it counts, the column of the severity, the column of the number."""


def containers(root: str) -> tuple[ContainerSample, ...]:
    """Containerised processes, mounts and directories that bear a job id; and the jobs that still have a step here."""
    live = slurm_jobs(root)
    found = [ContainerSample("live", job, job) for job in sorted(live)]
    found += _processes(root)
    found += _mounts(root)
    for directory in _DIRECTORIES:
        found += _named(f"{root}/{directory}", _DEPTH)
    return tuple(found[: len(live) + _MOST])


def firmware(root: str) -> tuple[FirmwareSample, ...]:
    """BIOS and board by DMI; the fabric manager by its own log, the newest start counts."""
    samples = []
    for name in _DMI:
        version = text(f"{root}/sys/class/dmi/id/{name}", 256)
        if version:
            samples.append(FirmwareSample(name.replace("_", "-"), version[:80]))
    said = re.findall(_FABRIC_VERSION, _tail(f"{root}/{_FABRIC_LOG}"))
    if said:
        samples.append(FirmwareSample("fabric-manager", said[-1]))
    return tuple(samples)


def ras(root: str) -> tuple[RasSample, ...]:
    """What rasdaemon has counted since its database began, where there is one."""
    path = f"{root}/{_RAS_DB}"
    if not os.access(path, os.R_OK):
        return ()
    import sqlite3

    samples = []
    # Read only, and without a lock file: rasdaemon is to notice nothing of it.
    with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, timeout=0.5) as database:
        for table, (kind, severity, number) in _RAS_TABLES.items():
            count = f"sum({number})" if number else "count(*)"
            columns, group = (f"{severity}, {count}", f" group by {severity}") if severity else (f"'', {count}", "")
            try:
                rows = database.execute(f"select {columns} from {table}{group}").fetchall()
            except sqlite3.OperationalError:
                continue
            samples += [RasSample(kind, str(said or "")[:40], int(total or 0)) for said, total in rows]
    return tuple(sample for sample in samples if sample.count)


def _processes(root: str) -> list[ContainerSample]:
    """Those in a mount namespace of their own that say to which job they belong."""
    own = _namespace(root, "1")
    if not own:
        return []
    found = []
    for pid in sorted(pids(root)):
        namespace = _namespace(root, pid)
        if namespace and namespace != own and (job := job_of(root, int(pid))):
            command = text(f"{root}/proc/{pid}/comm", 64)
            found.append(ContainerSample("process", f"{command} ({pid})", job))
    return found


def _namespace(root: str, pid: str) -> str:
    try:
        return os.readlink(f"{root}/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def _mounts(root: str) -> list[ContainerSample]:
    found = []
    for line in text(f"{root}/proc/self/mountinfo", 4 * 1024 * 1024).splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.partition(" ")[0]
        if len(fields) > 4 and kind in _RUNTIME_MOUNTS and (job := re.search(_JOB_IN_NAME, fields[4])):
            found.append(ContainerSample("mount", unescaped(fields[4])[:200], job[1]))
    return found


def _named(path: str, depth: int) -> list[ContainerSample]:
    """Directories whose name bears a job id, down to `depth` levels."""
    found: list[ContainerSample] = []
    try:
        with os.scandir(path) as entries:
            for entry in list(entries)[:_MOST]:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                if job := re.search(_JOB_IN_NAME, entry.name):
                    found.append(ContainerSample("directory", entry.path[:200], job[1]))
                elif depth > 1:
                    found += _named(entry.path, depth - 1)
    except OSError:
        return found
    return found


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _LOG_TAIL))
            return stream.read(_LOG_TAIL).decode("utf-8", "replace")
    except OSError:
        return ""
