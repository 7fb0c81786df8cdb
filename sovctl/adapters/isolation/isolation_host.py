"""What an isolated step needs to know of its node."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.adapters.isolation.node_roots import NodeRoots
from sovctl.adapters.isolation.step_root import can_mount, make_place
from sovctl.adapters.node.device_files import node_devices
from sovctl.errors import SovctlError, disk_error
from sovctl.model.image import ImageOfRun

if TYPE_CHECKING:
    from sovctl.adapters.isolation.inside_view import Decoys
    from sovctl.model.device import NodeDevices
    from sovctl.model.isolated import HostSlurm

_HEADER_BYTES = 64 * 1024
_RECORD_BYTES = 4096


class IsolationHost:
    """Implements `ports.IsolationHost`."""

    def __init__(self, roots: NodeRoots, slurm_dir: str = "") -> None:
        """`slurm_dir`: where Slurm's commands are; empty: on PATH."""
        self._roots = roots
        self._slurm_dir = slurm_dir
        self._locks: list[int] = []
        self._decoys: Decoys | None = None

    def real_path(self, path: str) -> str | None:
        """With every link resolved; None: it is not there, or cannot be seen by this user."""
        try:
            return str(Path(path).resolve(strict=True))
        except OSError:
            return None
        except RuntimeError:  # a loop of links
            return None

    def identity(self, path: str) -> str:
        """The name in the cache is the digest; of another file, size and time."""
        name = Path(path).name
        if name.startswith("sha256-"):
            return name.removesuffix(".sqsh")
        status = os.stat(path)
        return f"{path} {status.st_size} {status.st_mtime_ns}" if Path(path).is_file() else path

    def make_places(self, root: str, mounts: Sequence[tuple[str, str]]) -> None:
        """Something in an unpacked image to mount each source on. Raises UsageError."""
        for source, target in mounts:
            make_place(Path(root), target, directory=Path(source).is_dir())

    def devices(self) -> NodeDevices:
        """Those of accelerators and fabrics."""
        return node_devices()

    def slurm(self, names: Sequence[str]) -> HostSlurm:
        """Of these commands of Slurm the ones on this node. Raises SovctlError."""
        from sovctl.adapters.command import CommandRunner
        from sovctl.adapters.isolation.host_slurm import find_slurm

        return find_slurm(CommandRunner(), self._slurm_dir, os.environ, names)

    def header(self, path: str) -> tuple[bytes, int]:
        """The first 64 KiB of a file, and its size."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                return file.read(_HEADER_BYTES), os.fstat(descriptor).st_size
        except OSError as error:
            raise SovctlError(
                f"cannot read the image {path} on {os.uname().nodename}: {error.strerror}",
                hint=f"Every node of the job must see it: ls -l {path}",
            ) from error

    def can_mount(self, squashfs: str) -> bool:
        """Whether the squashfs can be mounted here, and need not be unpacked."""
        return can_mount(squashfs)

    def lookout(
        self, about: Mapping[str, object], environment: Mapping[str, str], own_devices: tuple[str, ...]
    ) -> Callable[[], str]:
        """Called where the host is seen; what it returns is called inside."""
        from sovctl.adapters.isolation.inside_view import Decoys, look_around

        self._decoys = decoys = Decoys()
        node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        told = {**about, "decoy": decoys.name, "node": node}
        return lambda: look_around(told, environment, own_devices)

    def clear(self) -> None:
        """Take the decoys away; works from inside the step too."""
        if self._decoys is not None:
            self._decoys.remove()

    def keep(self, squashfs: str) -> None:
        """Have the cache not remove it while this process, or one forked from it, lives; and mark it used."""
        try:
            lock = os.open(squashfs, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SovctlError(
                f"cannot read the image {squashfs}: {error.strerror}", hint=f"Check it: ls -l {squashfs}"
            ) from error
        self._locks.append(lock)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Only when it was read: by the time of its change a run knows an image that is a file again.
            os.utime(lock, ns=(time.time_ns(), os.fstat(lock).st_mtime_ns))

    def keep_on(self) -> None:
        """The locks stay with the program that this process is about to become."""
        for lock in self._locks:
            os.set_inheritable(lock, True)

    def unpacked(self, squashfs: str, offset: int, say: Callable[[str], None]) -> str:
        """The image as a directory; locked for as long as this process, or one forked from it, lives."""
        path, locks = self._roots.unpacked(squashfs, offset, say)
        self._locks.extend(locks)
        return path

    def stamp(self, path: str) -> str:
        """Asked of the open file: NFS tells of a name what it was up to a minute ago."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise SovctlError(
                f"cannot read the image {path}: {error.strerror}", hint=f"Check it: ls -l {path}"
            ) from error
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return f"{status.st_size}-{status.st_mtime_ns}"

    def recorded(self, run_dir: str, name: str) -> ImageOfRun:
        """What the run uses for this name."""
        try:
            with _record_file(run_dir, name).open("rb") as file:
                value = json.loads(file.read(_RECORD_BYTES))
            return ImageOfRun(str(value["digest"]), str(value.get("stamp", "")))
        except (OSError, ValueError, KeyError, TypeError):
            return ImageOfRun()

    def record(self, run_dir: str, name: str, image: ImageOfRun) -> ImageOfRun:
        """Whoever links its record first decides for the run."""
        path = _record_file(run_dir, name)
        staged = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
        try:
            path.parent.mkdir(exist_ok=True)
            known = {"digest": image.digest} | ({"stamp": image.stamp} if image.stamp else {})
            staged.write_text(json.dumps({"schema": "sovctl.run-image/1", "name": name, **known}), "utf-8")
            os.link(staged, path)
        except FileExistsError:
            pass
        except OSError as error:
            raise disk_error(
                f"cannot record the image of the run in {run_dir}", error, hint=f"Is its disk full? df -h {run_dir}"
            ) from error
        finally:
            staged.unlink(missing_ok=True)
        found = self.recorded(run_dir, name)
        return found if found.digest else image


def _record_file(run_dir: str, name: str) -> Path:
    return Path(run_dir, "images", f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json")
