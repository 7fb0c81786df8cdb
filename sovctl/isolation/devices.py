"""Which device files of the host an isolated step gets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_GPU = re.compile(r"/dev/nvidia(\d+)")
_CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
_FABRIC = "/dev/infiniband"


def step_gpus(environment: Mapping[str, str]) -> frozenset[int] | None:
    """Indices of the GPUs that Slurm gave to this step or job; None: not in a job, so nothing is withheld.

    Slurm numbers them as on the node (SLURM_STEP_GPUS, SLURM_JOB_GPUS), also where cgroups make CUDA count from 0.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    text = environment.get("SLURM_STEP_GPUS") or environment.get("SLURM_JOB_GPUS") or ""
    return frozenset(int(word) for word in text.split(",") if word.isdigit())


def visible_devices(there: Iterable[str], gpus: frozenset[int] | None) -> tuple[str, ...]:
    """Of the device files that are there: those of its GPUs, with the driver's control files, and the fabric's."""
    found = sorted(there)
    own = [path for path in found if (number := _GPU.fullmatch(path)) and (gpus is None or int(number[1]) in gpus)]
    control = [path for path in found if path in _CONTROL] if own else []
    return (*own, *control, *(path for path in found if path == _FABRIC))
