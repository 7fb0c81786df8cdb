"""The lab's shared storage: a small file system of its own, which can be filled and frozen for real.

Frozen (`fsfreeze`), everybody who writes waits in uninterruptible sleep, as with a file server that went away; reading
goes on. Needs root and a loop device. And, for one node, a mount whose server stops answering (`silent_mount`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sovctl.adapters.command import CommandRunner, spawn
from sovctl.adapters.isolation.linux import unmount
from sovctl.errors import SovctlError
from sovctl.lab import processes
from sovctl.lab.layout import Layout

_SERVER = "sovctl.lab.silent_mount"
MOUNT_SOURCE = "sovctl-lab-silent"
"""What the table of mounts says of it."""
_BALLAST = ".lab-fills-the-disk"


def make(layout: Layout, size_mib: int) -> None:
    """An ext4 file system in a file, mounted at `scratch`, writable for everybody. Raises SovctlError."""
    if os.geteuid() != 0:
        raise SovctlError("only root can mount the lab's scratch storage", hint="Leave --scratch out.")
    layout.scratch.mkdir()
    image = layout.root / "scratch.img"
    with open(image, "wb") as file:
        file.truncate(size_mib * 1024 * 1024)
    runner = CommandRunner()
    runner.run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], timeout_s=60)
    runner.run(["mount", "-o", "loop", str(image), str(layout.scratch)], timeout_s=30)
    layout.scratch.chmod(0o1777)


def release(layout: Layout) -> None:
    """Thaw and unmount, before anything is removed; nothing happens where there is none."""
    answer_again(layout.root)
    if not _mounted(layout.scratch):
        return
    thaw(layout)
    CommandRunner().run(["umount", "-l", str(layout.scratch)], timeout_s=30)


def fill(layout: Layout) -> int:
    """Write until no byte is left; returns how many bytes it took."""
    _check(layout)
    path, written = layout.scratch / _BALLAST, 0
    with open(path, "ab", buffering=0) as file:
        # Where a large piece has no room any more, a small one may.
        for size in (1024 * 1024, 64 * 1024, 4096, 512):
            with suppress(OSError):
                while True:
                    written += file.write(bytes(size))
        os.fsync(file.fileno())
    return written


def freeze(layout: Layout) -> None:
    """From now on every write waits."""
    _check(layout)
    CommandRunner().run(["fsfreeze", "--freeze", str(layout.scratch)], timeout_s=30)


def thaw(layout: Layout) -> None:
    """Writes go on; not frozen is no error."""
    if _mounted(layout.scratch):
        CommandRunner().run(["fsfreeze", "--unfreeze", str(layout.scratch)], timeout_s=30, check=False)


def empty(layout: Layout) -> None:
    """Give the room back that `fill` took."""
    (layout.scratch / _BALLAST).unlink(missing_ok=True)


def silence(mount_point: Path, env: Mapping[str, str]) -> None:
    """Mount a server there that answers nothing; returns when it is mounted. Raises SovctlError."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        raise SovctlError("a mount that hangs needs root and /dev/fuse", hint="Load the module: modprobe fuse")
    argv = [sys.executable, "-P", "-m", _SERVER, str(mount_point)]
    reader, writer = os.pipe()
    try:
        spawn(argv, env=env, stdout=writer)
    finally:
        os.close(writer)
    with os.fdopen(reader) as said:
        if (words := said.readline()) != "mounted\n":
            raise SovctlError(
                f"cannot mount a silent server at {mount_point}: {(words + said.read())[-300:].strip()}",
                hint="Load the module: modprobe fuse",
            )


def answer_again(below: Path) -> None:
    """End the silent servers below a directory, and their mounts: whoever waits for one goes on with an error."""
    places = [place for place in _silent_mounts() if place.is_relative_to(below)]
    for pid in processes.all_pids():
        words = processes.command(pid).split()
        if _SERVER in words and Path(words[-1]) in places:
            processes.kill([pid])
    for place in places:
        with suppress(OSError):
            unmount(str(place))


def _silent_mounts() -> list[Path]:
    """Read from the kernel's table: asking a silent mount itself would wait for ever."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()]
    return [Path(words[4]) for words in lines if words[words.index("-") + 2] == MOUNT_SOURCE]


def _check(layout: Layout) -> None:
    if not _mounted(layout.scratch):
        raise SovctlError("this lab has no storage of its own to break", hint="Start it with: sovctl lab up --scratch")


def _mounted(path: Path) -> bool:
    return os.path.ismount(path)
