"""Slurm's commands in an image: the node's programs, run by the node's own loader with the node's own libraries.

So the image needs neither Slurm nor a libc that fits, only a shell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from sovctl.model.image import Mount
from sovctl.model.isolated import HostSlurm

PLACE = "/run/sovctl/slurm"
PATH = f"{PLACE}/bin"
SHELL = "/bin/sh"
COMMANDS = (
    *("srun", "sbatch", "salloc", "squeue", "scontrol", "scancel", "sinfo", "sacct", "sstat", "sprio", "sshare"),
    *("sacctmgr", "sattach", "sbcast", "sreport", "sdiag", "strigger", "scrontab"),
)
_HOST = f"{PLACE}/host"


def starter(slurm: HostSlurm) -> str:
    """The program behind every command: which one, it sees by its name."""
    libraries = ":".join(f"{_HOST}{path}" for path in slurm.libraries)
    return (
        f"#!{SHELL}\n# The node's Slurm, with the node's libraries.\n"
        f"exec {_HOST}{slurm.loader} --inhibit-cache --library-path {libraries} "
        f'{_HOST}{slurm.prefix}/bin/"${{0##*/}}" "$@"\n'
    )


def client_mounts(slurm: HostSlurm, taken: Sequence[str]) -> tuple[Mount, ...]:
    """What the commands need of the node; nothing at a place that the user's own mounts take."""
    shown = [slurm.prefix]
    for path in (*slurm.libraries, str(PurePosixPath(slurm.loader).parent)):
        if not any(PurePosixPath(path).is_relative_to(one) for one in shown):
            shown.append(path)
    same = dict.fromkeys((slurm.plugins, *slurm.places))
    mounts = [Mount(path, f"{_HOST}{path}", read_only=True) for path in shown]
    mounts += [Mount(path, path, read_only=True) for path in same if path and path not in taken]
    return tuple(mounts)
