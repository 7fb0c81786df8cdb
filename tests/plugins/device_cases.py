"""Which GPUs and MIG instances are a job's, by what it can open and what Slurm calls them: for both runtimes."""

from __future__ import annotations

from sovctl.model.device import DeviceFile, MigInstance, NodeDevices

CASES = [
    # GPUs of the node (! in front: kept away by the cgroup), MIG instances as gpu:gi:ci, what Slurm lists, and its own.
    ("0 1 2 3", "", "", ""),
    ("0 1 2 3", "", "1,2", "1 2"),
    ("0 1 2 3", "", "0,1,2,3", "0 1 2 3"),
    ("!0 1 2 !3", "", "1,2", "1 2"),
    # GPU 3 is none of Slurm's: the cgroup leaves it open to everybody.
    ("!0 1 !2 3", "", "1", "1"),
    # Slurm's order is not that of the device files.
    ("!0 1 2 !3", "", "0,3", "1 2"),
    ("0 !1", "", "", ""),
    # Instances in Slurm's list count like GPUs.
    ("0", "0:3:4 !0:12:13 !0:21:22", "2", "0 0:3:4"),
    ("0 !1", "!0:3:4 0:12:13 !1:30:31", "1", "0 0:12:13"),
    ("0 1", "0:3:4 0:12:13 1:30:31 1:39:40", "0,1,2,3", "0 1 0:3:4 0:12:13 1:30:31 1:39:40"),
    ("0 1", "0:3:4 0:12:13 1:30:31 1:39:40", "0,1,2", None),
    ("0 1", "0:3:4 0:12:13", "0,1,2", "0 1 0:3:4 0:12:13"),
    ("0 1", "0:3:4 0:12:13", "2", None),
    ("0 1", "!0:3:4 !0:12:13", "0", "1"),
    ("!0 1", "!0:3:4 !0:12:13", "0", "1"),
    ("0", "0:3:4", "", ""),
    # Two compute instances of one GPU instance.
    ("0", "0:3:4 !0:3:5", "0", "0 0:3:4"),
    ("!0", "0:3:4", "0", ""),
]
"""Of the last column: None, it cannot be told, and nothing is handed in."""


def node(gpus: str, migs: str) -> NodeDevices:
    """As the adapter would find it."""
    files = [
        DeviceFile(f"/dev/nvidia{word.lstrip('!')}", not word.startswith("!"), word.startswith("!"))
        for word in gpus.split()
    ]
    found = []
    for word in migs.split():
        gpu, gi, ci = word.lstrip("!").split(":")
        caps = f"/dev/nvidia-caps/nvidia-cap{gi}", f"/dev/nvidia-caps/nvidia-cap{ci}"
        found.append(MigInstance(int(gpu), caps, not word.startswith("!"), word.startswith("!")))
    return NodeDevices((*files, DeviceFile("/dev/nvidiactl")), tuple(found))


def paths(own: str) -> set[str]:
    """Device files of the words of the last column."""
    found = set()
    for word in own.split():
        gpu, *caps = word.split(":")
        found |= {f"/dev/nvidia-caps/nvidia-cap{cap}" for cap in caps} if caps else {f"/dev/nvidia{gpu}"}
    return found
