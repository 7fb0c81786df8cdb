"""The device files of accelerators and fabrics on this node, and what this process may open of them.

access(2) asks the cgroup of the job too (devcgroup_inode_permission in Linux, EPERM), and opens nothing.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

from sovctl.adapters.isolation import linux
from sovctl.model.device import DeviceFile, MigInstance, NodeDevices

_CAPABILITIES = "proc/driver/nvidia/capabilities"
_CHANNELS = "dev/nvidia-caps-imex-channels"
_GPU = re.compile(r"gpu(\d+)")
_MINOR = re.compile(r"^DeviceFileMinor:\s*(\d+)$", re.MULTILINE)
_LARGEST = 4096
_OTHERS_MAY = 0o006


def node_devices(root: str = "/") -> NodeDevices:
    """All of them; `root`: of a made-up /dev and /proc."""
    top = Path(root)
    plain = [path for path in sorted((top / "dev").glob("nvidia*")) if not path.is_dir()]
    fabric = [path for path in [top / "dev" / "infiniband"] if path.exists()]
    # Slurm's switch/nvidia_imex mounts a directory of its own there, which only the step sees.
    private = _file_system(top / _CHANNELS) != _file_system(top / "dev")
    files = [_file(top, path, private=False) for path in (*fabric, *plain)]
    files += [_file(top, path, private=private) for path in sorted((top / _CHANNELS).glob("channel*"))]
    return NodeDevices(tuple(files), tuple(_migs(top)))


def _file(top: Path, path: Path, *, private: bool) -> DeviceFile:
    try:
        private = private or not path.stat().st_mode & _OTHERS_MAY
    except OSError:  # gone, or a link to nothing: it cannot be opened either
        private = False
    why = linux.why_closed(str(path))
    return DeviceFile(f"/{path.relative_to(top)}", not why, why == errno.EPERM, private)


def _migs(top: Path) -> list[MigInstance]:
    found = []
    for access in sorted((top / _CAPABILITIES).glob("gpu*/mig/gi*/ci*/access")):
        gpu = _GPU.fullmatch(access.parents[3].name)
        minors = [_minor(path) for path in (access.parents[1] / "access", access)]
        of_gi, of_ci = [f"dev/nvidia-caps/nvidia-cap{minor}" for minor in minors]
        why = [linux.why_closed(str(top / file)) for file in (of_gi, of_ci)]
        if gpu is not None and None not in minors:
            found.append(MigInstance(int(gpu[1]), (f"/{of_gi}", f"/{of_ci}"), not any(why), errno.EPERM in why))
    return found


def _minor(path: Path) -> int | None:
    """Of the device file that the driver has for a capability."""
    try:
        with path.open("rb") as file:
            told = _MINOR.search(file.read(_LARGEST).decode("ascii", "replace"))
    except OSError:
        return None
    return int(told[1]) if told else None


def _file_system(path: Path) -> int:
    try:
        return path.stat().st_dev
    except OSError:
        return 0
