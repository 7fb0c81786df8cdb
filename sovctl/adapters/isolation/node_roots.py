"""Images unpacked on a node that can mount none: once per image, not per job."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.errors import CommandFailed, SovctlError, TryLaterError, disk_error

_UNPACK_S = 1800.0
_PARTLY = 2  # of unsquashfs, which went on after something it could not make
_NO_DEVICE = re.compile(r"create_inode: could not create (?:character|block) device ")
_LOCK_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC  # NFSv4 gives nobody else an exclusive lock (flock(2))
_MAKE_ROOM = "Make room: sovctl image gc --keep 0, on this node"


class NodeRoots:
    """Directories `<node_dir>/sovctl-<uid>/<key>`, each locked by the steps that use it."""

    def __init__(self, node_dir: Path) -> None:
        self._directory = node_dir / f"sovctl-{os.geteuid()}"

    def unpacked(self, squashfs: str, offset: int, say: Callable[[str], None]) -> tuple[str, int]:
        """The root directory, unpacked now if it was not, and a descriptor that keeps it from being removed.

        Raises SovctlError; TryLaterError when the disk is full.
        """
        self._make_own()
        place = self._directory / _key(squashfs, offset)
        try:
            lock = _locked(place.with_suffix(".lock"))
            if not (place / "rootfs").is_dir():
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (place / "rootfs").is_dir():  # the one we waited for may have done it
                    say(f"unpacking the image on this node into {place}")
                    _unpack(squashfs, offset, place)
                fcntl.flock(lock, fcntl.LOCK_SH)
            os.utime(lock)
        except OSError as error:
            raise disk_error(f"cannot unpack the image into {place}", error, hint=_MAKE_ROOM) from error
        return str(place / "rootfs"), lock

    def unused(self, since: float) -> tuple[str, ...]:
        """Unpacked images that no step uses now, and none used after `since` (seconds since the epoch)."""
        found = []
        for path in sorted(self._directory.glob("*.lock")) if self._directory.is_dir() else ():
            lock = os.open(path, _LOCK_FLAGS)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_mtime <= since:
                    found.append(str(path.with_suffix("")))
            except OSError:
                pass
            finally:
                os.close(lock)
        return tuple(found)

    def remove(self, path: str) -> bool:
        """False: a step uses it by now."""
        lock_path = Path(path).with_suffix(".lock")
        lock = os.open(lock_path, _LOCK_FLAGS)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            _remove(Path(path).with_suffix(".new"))  # of a process that was killed while it unpacked
            _remove(Path(path))
            lock_path.unlink(missing_ok=True)
            return True
        finally:
            os.close(lock)

    def _make_own(self) -> None:
        """The directory must be ours: /var/tmp is everybody's, and whoever came first chose its owner."""
        try:
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            status = os.lstat(self._directory)
        except OSError as error:
            raise disk_error(
                f"cannot make {self._directory}", error, hint="Name another place: SOVCTL_ISOLATION_NODE_DIR=DIR"
            ) from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise SovctlError(
                f"{self._directory} is not a directory of yours alone",
                hint="Somebody else may have made it; name another place: SOVCTL_ISOLATION_NODE_DIR=DIR",
            )


def _key(squashfs: str, offset: int) -> str:
    """Names the bytes without reading them: another file, or a newer one in its place, gets another name."""
    status = os.stat(squashfs)
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, offset)
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]


def _locked(path: Path) -> int:
    """Hold a shared lock; again when who removed the image took the file away meanwhile."""
    while True:
        lock = os.open(path, _LOCK_FLAGS | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if path.exists() and os.path.samestat(os.fstat(lock), os.lstat(path)):
            return lock
        os.close(lock)


def _unpack(squashfs: str, offset: int, place: Path) -> None:
    staging = place.with_suffix(".new")
    _remove(staging)
    argv = ("unsquashfs", "-q", "-n", "-no-xattrs", "-o", str(offset), "-d", str(staging / "rootfs"), squashfs)
    staging.mkdir(mode=0o700)
    try:
        CommandRunner({"PATH": f"{os.environ.get('PATH', '')}:/usr/bin:/bin"}).run(argv, timeout_s=_UNPACK_S)
    except CommandFailed as error:
        if not _only_devices(error):
            _remove(staging)
            raise _explained(error, squashfs, place) from error
    _remove(place)
    staging.rename(place)


def _only_devices(error: CommandFailed) -> bool:
    """Whether all of it is there but device files, which users may not make: each step has a /dev of its own."""
    complaints = [line for line in error.stderr.splitlines() if line.strip()]
    return error.status == _PARTLY and bool(complaints) and all(map(_NO_DEVICE.match, complaints))


def _explained(error: CommandFailed, squashfs: str, place: Path) -> SovctlError:
    if re.search("no space|quota exceeded", error.stderr, re.IGNORECASE):
        return TryLaterError(f"the disk of {place.parent} is full", hint=_MAKE_ROOM)
    return SovctlError(
        f"the image {squashfs} cannot be unpacked: {error.stderr.strip()[-200:]}",
        hint=f"Check it: unsquashfs -s {squashfs}",
    )


def _remove(path: Path) -> None:
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = Path(folder, name)
            if not inner.is_symlink():
                inner.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
