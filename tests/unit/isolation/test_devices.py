"""Which device files an isolated step gets: whole GPUs, MIG instances, IMEX channels; and what a node has of them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from device_cases import CASES, node, paths

from sovctl.adapters.node.device_files import node_devices
from sovctl.isolation.devices import step_gpus, visible_devices
from sovctl.model.device import DeviceFile, NodeDevices

DEVICES = NodeDevices(
    tuple(
        DeviceFile(f"/dev/{name}")
        for name in ("infiniband", "nvidia0", "nvidia1", "nvidia10", "nvidia-uvm", "nvidiactl")
    )
)


@pytest.mark.parametrize(
    ("environment", "visible"),
    [
        ({}, "nvidia0 nvidia1 nvidia10 nvidia-uvm nvidiactl infiniband"),
        ({"SLURM_JOB_ID": "1"}, "infiniband"),
        ({"SLURM_JOB_ID": "1", "SLURM_JOB_GPUS": "1,10"}, "nvidia1 nvidia10 nvidia-uvm nvidiactl infiniband"),
        (
            {"SLURM_JOB_ID": "1", "SLURM_JOB_GPUS": "0,1", "SLURM_STEP_GPUS": "1"},
            "nvidia1 nvidia-uvm nvidiactl infiniband",
        ),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_GPUS": "x,,7", "CUDA_VISIBLE_DEVICES": "0"}, "infiniband"),
    ],
)
def test_only_the_gpus_of_the_step_are_there(environment: dict[str, str], visible: str) -> None:
    shown = visible_devices(DEVICES, step_gpus(environment))
    assert shown.paths == tuple(f"/dev/{name}" for name in visible.split())


@pytest.mark.parametrize(("gpus", "migs", "listed", "own"), CASES)
def test_whose_gpus_and_instances_they_are(gpus: str, migs: str, listed: str, own: str | None) -> None:
    shown = visible_devices(node(gpus, migs), step_gpus({"SLURM_JOB_ID": "1", "SLURM_STEP_GPUS": listed}))
    assert set(shown.paths) == paths(own or "") | ({"/dev/nvidiactl"} if own else set())
    assert len(shown.paths) == len(set(shown.paths))
    assert bool(shown.lost) is (own is None)


@pytest.mark.parametrize(
    ("channels", "own", "foreign"),
    [
        ([DeviceFile("channel7", private=True)], "channel7", False),
        ([DeviceFile("channel0")], "channel0", False),
        ([DeviceFile("channel0"), DeviceFile("channel1"), DeviceFile("channel2")], "channel0", True),
        ([DeviceFile("channel3", openable=False, private=True)], "", False),
    ],
)
def test_only_a_channel_that_nobody_else_has(channels: list[DeviceFile], own: str, foreign: bool) -> None:
    place = "/dev/nvidia-caps-imex-channels"
    files = [DeviceFile(f"{place}/{one.path}", one.openable, private=one.private) for one in channels]
    there = NodeDevices((DeviceFile("/dev/nvidia0"), *files))
    shown = visible_devices(there, frozenset({0}))
    assert shown.paths == ("/dev/nvidia0", *(f"{place}/{name}" for name in own.split()))
    assert bool(shown.withheld) is foreign
    assert visible_devices(there, frozenset()).paths == ()


def test_what_is_not_there_is_no_sign_of_a_cgroup() -> None:
    """The driver makes its files when they are first asked for."""
    there = node("0 1", "0:3:4 0:12:13 1:30:31")
    migs = (replace(there.migs[0], openable=False), *there.migs[1:])
    shown = visible_devices(replace(there, migs=migs), frozenset({1}))
    assert (shown.paths, bool(shown.lost)) == ((), True)
    files = (replace(there.files[0], openable=False), *there.files[1:])
    assert visible_devices(NodeDevices(files), frozenset({1})).paths == ("/dev/nvidia1", "/dev/nvidiactl")


def _capability(root: Path, name: str, minor: int) -> None:
    path = root / "proc/driver/nvidia/capabilities" / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "access").write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    (root / "dev/nvidia-caps").mkdir(parents=True, exist_ok=True)
    (root / f"dev/nvidia-caps/nvidia-cap{minor}").touch(mode=0o444)


def _made_up(root: Path) -> None:
    for name, minor in (("gpu0/mig/gi1", 12), ("gpu0/mig/gi1/ci0", 13), ("gpu1/mig/gi2", 30), ("gpu1/mig/gi2/ci1", 32)):
        _capability(root, name, minor)
    _capability(root, "mig", 1)
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (root / "dev" / name).touch(mode=0o666)
    (root / "dev/nvidia-caps-imex-channels").mkdir()
    (root / "dev/nvidia-caps-imex-channels/channel4").touch()
    (root / "dev/nvidia-caps-imex-channels/channel4").chmod(0o600)


def test_what_a_node_has_is_found(tmp_path: Path) -> None:
    _made_up(tmp_path)
    found = node_devices(str(tmp_path))
    names = ("nvidia0", "nvidia1", "nvidiactl", "nvidia-caps-imex-channels/channel4")
    assert [file.path for file in found.files] == [f"/dev/{name}" for name in names]
    assert [file.private for file in found.files] == [False, False, False, True]
    caps = [(mig.gpu, *(path.removeprefix("/dev/nvidia-caps/nvidia-cap") for path in mig.files)) for mig in found.migs]
    assert caps == [(0, "12", "13"), (1, "30", "32")]
    assert all(mig.openable for mig in found.migs)
    (tmp_path / "proc/driver/nvidia/capabilities/gpu1/mig/gi2/access").write_text("nothing\n")
    (tmp_path / "dev/nvidia-caps/nvidia-cap13").unlink()
    (left,) = node_devices(str(tmp_path)).migs
    assert (left.gpu, left.openable) == (0, False)
    (tmp_path / "dev/nvidia2").symlink_to("nothing")
    assert [file.openable for file in node_devices(str(tmp_path)).files if file.path == "/dev/nvidia2"] == [False]
    assert node_devices(str(tmp_path / "nowhere")) == NodeDevices()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups and device files")
@pytest.mark.skipif(not Path("/sys/fs/cgroup/devices/tasks").exists(), reason="no cgroup v1 controller of devices here")
def test_what_a_cgroup_keeps_away_is_seen_without_opening_it(tmp_path: Path) -> None:
    cgroup = Path(f"/sys/fs/cgroup/devices/sovctl-test-{os.getpid()}")
    for number, minor in (("0", "5"), ("1", "7")):  # /dev/zero, /dev/full
        (tmp_path / "dev").mkdir(exist_ok=True)
        subprocess.run(["mknod", "-m", "666", str(tmp_path / "dev" / f"nvidia{number}"), "c", "1", minor], check=True)
    look = (
        f"echo $$ >{cgroup}/tasks && exec {sys.executable} -c 'from sovctl.adapters.node.device_files import *;"
        f' print(*((file.openable, file.confined) for file in node_devices("{tmp_path}").files))\''
    )
    cgroup.mkdir()
    try:
        (cgroup / "devices.deny").write_text("c 1:7 rwm")
        assert subprocess.check_output(["sh", "-c", look], text=True) == "(True, False) (False, True)\n"
    finally:
        cgroup.rmdir()
