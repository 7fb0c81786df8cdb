"""The configuration of an OCI bundle for Slurm's own containers (`srun --container`), without root.

Slurm (src/slurmd/slurmstepd/container.c) puts command, environment and root directory into its copy of it. OCI runtime
specification 1.0; only what crun and runc do for an ordinary user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sovctl.isolation.inside import Inside, all_mounts
from sovctl.isolation.mounts import parse_mounts

_NAMESPACES = ("pid", "ipc", "uts", "mount", "user")
"""Not the network: NCCL and MPI need the host's."""


def bundle_config(inside: Inside, own: Sequence[str], user: tuple[int, int], home: str) -> dict[str, Any]:
    """`config.json`. `own`: directories of the run that must be there; `user`: the ids of the user.

    The user is 0 inside, with no capability: runc runs nothing for an ordinary user who is not.
    """
    uid, gid = user
    mounts = [
        _special("/proc", "proc", "proc"),
        _special("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _special("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        _special("/dev/shm", "tmpfs", "shm", "nosuid", "nodev", "mode=1777"),
        _special("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _bind("/sys", "/sys", "ro"),
        *(_special(place, "tmpfs", "tmpfs", "nosuid", "nodev", "mode=1777") for place in ("/tmp", "/var/tmp")),
    ]
    if inside.home == "mount" and home.startswith("/") and home != "/":
        mounts.append(_bind(home, home))
    for mount in parse_mounts(all_mounts(inside, own)):
        mounts.append(_bind(mount.source, mount.target, *(("ro",) if mount.read_only else ())))
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": True},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": ["true"],
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "noNewPrivileges": True,
        },
        "mounts": mounts,
        "linux": {
            "uidMappings": [{"containerID": 0, "hostID": uid, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": gid, "size": 1}],
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
        },
    }


def _special(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _bind(source: str, target: str, *options: str) -> dict[str, Any]:
    # Only options that an ordinary user may set on somebody else's mount.
    return {"destination": target, "type": "none", "source": source, "options": ["rbind", *options]}
