"""The command line of bubblewrap, the device files, and the offset in a SIF."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.errors import SovctlError
from sovctl.isolation.bubblewrap import mount_points, sandbox_argv, unseen
from sovctl.isolation.sif import squashfs_offset
from sovctl.model.image import Mount
from sovctl.model.isolated import IsolatedStep

_HEAD = "bwrap --unshare-user --uid 1000 --gid 100 --unshare-pid --unshare-ipc --cap-drop ALL --die-with-parent"
_TMP = "--perms 1777 --tmpfs /tmp --perms 1777 --tmpfs /var/tmp --perms 1777 --tmpfs /dev/shm"
_TAIL = "--block-fd 5 --info-fd 6 -- /sovctl-end-of-step"


def _argv(step: IsolatedStep, root: str = "/r") -> str:
    return " ".join(sandbox_argv(step, root, uid=1000, gid=100, block_fd=5, info_fd=6))


def test_an_image_is_read_only_with_an_empty_home() -> None:
    step = IsolatedStep(squashfs="/c/x.sqsh", home="/home/u", devices=("/dev/nvidia1", "/dev/nvidiactl"))
    assert _argv(step) == (
        f"{_HEAD} --bind /r / --proc /proc --dev /dev --dev-bind /dev/nvidia1 /dev/nvidia1"
        f" --dev-bind /dev/nvidiactl /dev/nvidiactl {_TMP} --ro-bind /sys /sys --perms 0755 --tmpfs /run"
        f" --perms 0700 --tmpfs /home/u --remount-ro / {_TAIL}"
    )
    assert mount_points(step) == ("/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/run", "/home/u")


def test_writable_with_home_and_mounts() -> None:
    mounts = (Mount("/data", "/in", True), Mount("/scratch", "/out"))
    step = IsolatedStep(directory="/d", home="/home/u", home_visible=True, writable=True, mounts=mounts)
    assert _argv(step) == (
        f"{_HEAD} --bind /r / --proc /proc --dev /dev {_TMP} --ro-bind /sys /sys --perms 0755 --tmpfs /run"
        f" --bind /home/u /home/u --ro-bind /data /in --bind /scratch /out {_TAIL}"
    )


def test_the_hosts_own_root_keeps_what_is_not_private() -> None:
    step = IsolatedStep(home="/home/u", home_visible=True)
    assert _argv(step, "/") == f"{_HEAD} --bind / / --proc /proc --dev /dev {_TMP} {_TAIL}"
    assert "--tmpfs /home/u" in _argv(IsolatedStep(home="/home/u"), "/")
    for nowhere in ("/", "/tmp"):
        assert _argv(IsolatedStep(home=nowhere), "/") == _argv(step, "/")


def _sif(*descriptors: tuple[int, int, int, int, int], total: int | None = None) -> bytes:
    """A SIF of these descriptors (data type, used, offset, file system, kind of partition)."""
    header = bytearray(128)
    header[32:41] = b"SIF_MAGIC"
    struct.pack_into("<q", header, 88, len(descriptors) if total is None else total)
    struct.pack_into("<q", header, 96, 4096)
    table = bytearray()
    for kind, used, offset, system, purpose in descriptors:
        one = bytearray(585)
        struct.pack_into("<iBIIIqq", one, 0, kind, used, 1, 1, 0, offset, 100)
        struct.pack_into("<ii", one, 201, system, purpose)
        table += one
    return bytes(header).ljust(4096, b"\0") + bytes(table)


def test_the_squashfs_of_a_sif() -> None:
    sif = _sif((0x4001, 1, 30000, 0, 0), (0x4004, 1, 36864, 1, 3), (0x4004, 1, 40960, 1, 2))
    assert squashfs_offset(sif, "x.sif") == 40960
    for broken in (sif[:100], b"x" * 9000, _sif((0x4004, 1, 40960, 2, 2)), _sif((0x4004, 0, 40960, 1, 2)), sif[:5000]):
        with pytest.raises(SovctlError, match=r"x\.sif"):
            squashfs_offset(broken, "x.sif")


@given(st.binary(max_size=600), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_no_sif_makes_it_fall(tail: bytes, total: int, table: int) -> None:
    header = bytearray(128)
    header[32:41] = b"SIF_MAGIC"
    struct.pack_into("<qq", header, 88, total, table)
    with contextlib.suppress(SovctlError):
        assert squashfs_offset(bytes(header) + tail, "x.sif") > 0


@pytest.mark.parametrize(
    ("work_dir", "mounts", "place"),
    [
        ("/var/tmp/x", [], "/var/tmp"),
        ("/tmp", [], "/tmp"),
        ("/home/u/../../dev/shm/x", [], "/dev/shm"),
        ("/var/tmp/x", ["/var/tmp/x/data", "/data"], "/var/tmp"),
        ("/var/tmp/x", ["/var/tmp/x"], ""),
        ("/var/tmp/x/y", ["/var/tmp/x"], ""),
        ("/var/tmpx", [], ""),
        ("/home/u", [], ""),
    ],
)
def test_a_working_directory_in_a_private_place_is_not_seen(work_dir: str, mounts: list[str], place: str) -> None:
    said = unseen(work_dir, [Mount(one, one) for one in mounts], "--mount .")
    assert f"is not seen inside, where {place} is private; show it with: --mount ." in said if place else said == ""
