"""Which device files of the host an isolated step gets. The SPANK plugin decides alike (plugins/spank/devices.c)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sovctl.model.device import DeviceFile, MigInstance, NodeDevices

_GPU = re.compile(r"/dev/nvidia(\d+)")
_CHANNEL = re.compile(r"/dev/nvidia-caps-imex-channels/channel(\d+)")
_CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
_FABRIC = "/dev/infiniband"
_UNKNOWN = "without ConstrainDevices (cgroup.conf) it cannot be told which MIG instances are the job's, so it has none"


@dataclass(frozen=True, slots=True)
class Shown:
    """The device files of one step."""

    paths: tuple[str, ...]
    lost: str = ""
    """Why GPUs are not among them that are the step's."""
    withheld: tuple[str, ...] = ()
    """Files that may be the step's and may be another's."""


def step_gpus(environment: Mapping[str, str]) -> frozenset[int] | None:
    """What Slurm calls the GPUs of this step or job; None: not in a job, so nothing is withheld.

    These are places in Slurm's list of the node's GPUs (src/plugins/gres/common). They are the numbers of the device
    files where that list holds whole GPUs in their order, and are not where it holds MIG instances.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    text = environment.get("SLURM_STEP_GPUS") or environment.get("SLURM_JOB_GPUS") or ""
    return frozenset(int(word) for word in text.split(",") if word.isdigit())


def visible_devices(node: NodeDevices, listed: frozenset[int] | None) -> Shown:
    """Of the device files that are there: those of its GPUs, with the driver's control files, and the fabric's."""
    gpus = {int(found[1]): file for file in node.files if (found := _GPU.fullmatch(file.path))}
    numbers, migs, lost = _own(gpus, node.migs, listed)
    own = [gpus[number].path for number in numbers] + [path for mig in migs for path in mig.files]
    control = [file.path for file in node.files if file.path in _CONTROL] if own else []
    channels, foreign = _channels(node.files) if own else ([], [])
    fabric = [file.path for file in node.files if file.path == _FABRIC]
    return Shown((*sorted(dict.fromkeys(own)), *control, *channels, *fabric), lost, tuple(foreign))


def _own(
    gpus: Mapping[int, DeviceFile], migs: Sequence[MigInstance], listed: frozenset[int] | None
) -> tuple[set[int], list[MigInstance], str]:
    """Numbers of its GPUs, its MIG instances, and why there are none where that cannot be told.

    Where the cgroup of the job keeps some away (ConstrainDevices), all the others are its own. Else it is by `listed`.
    """
    open_gpus = {number for number, file in gpus.items() if file.openable}
    open_migs = [mig for mig in migs if mig.openable and mig.gpu in open_gpus]
    split = {mig.gpu for mig in migs}
    confined = any(file.confined for file in gpus.values()) or any(mig.confined for mig in migs)
    if listed is not None and not listed:
        return set(), [], ""
    if listed is not None and not migs:
        # What the cgroup lets through may also be a device of which Slurm knows nothing.
        return (open_gpus & listed if listed <= open_gpus or not confined else open_gpus), [], ""
    if listed is not None and not confined and len(listed) < len(migs) + len(gpus.keys() - split):
        return set(), [], _UNKNOWN
    # Without an instance of the job's on it a GPU that is split is of no use.
    return open_gpus - (split - {mig.gpu for mig in open_migs}), open_migs, ""


def _channels(files: Iterable[DeviceFile]) -> tuple[list[str], list[str]]:
    """IMEX channels of the job, and those of which nobody knows.

    Slurm (switch/nvidia_imex) and prologs of sites give a job one that nobody else has; channel 0 is everybody's.
    """
    found = [(file, number[1]) for file in files if (number := _CHANNEL.fullmatch(file.path)) and file.openable]
    own = [file.path for file, number in found if file.private or number == "0"]
    return own, [file.path for file, _ in found if file.path not in own]
