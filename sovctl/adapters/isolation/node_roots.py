"""Images unpacked on a node that can mount none: once per image, not per job."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.isolation.file_locks import has_its_name, try_exclusive
from sovctl.errors import CommandFailed, SovctlError, TryLaterError, disk_error

_UNPACK_S = 1800.0
_PARTLY = 2  # of unsquashfs, which went on after something it could not make
_NO_DEVICE = re.compile(r"create_inode: could not create (?:character|block) device ")
_LOCK_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC  # NFSv4 gives nobody else an exclusive lock (flock(2))
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OLDEST = "oldest"
"""What cleans by age, whichever time of a file it goes by, takes this one no later than any other of the image."""
_TRIES, _TRY_EVERY_S = 100, 0.1
_MAKE_ROOM = "Make room: sovctl image gc --keep 0, on this node"


class NodeRoots:
    """Directories `<node_dir>/sovctl-<uid>/<key>`, each locked by the steps that use it."""

    def __init__(self, node_dir: Path) -> None:
        self._directory = node_dir / f"sovctl-{os.geteuid()}"

    def unpacked(self, squashfs: str, offset: int, say: Callable[[str], None]) -> tuple[str, tuple[int, ...]]:
        """The root directory, unpacked now if it was not, and descriptors that keep it as it is.

        Raises SovctlError; TryLaterError when the disk is full.
        """
        self._make_own()
        place = self._directory / _key(squashfs, offset)

        def unpack() -> None:
            say(f"unpacking the image on this node into {place}")
            _unpack(squashfs, offset, place)

        try:
            return str(place / "rootfs"), _kept(place, unpack)
        except OSError as error:
            raise disk_error(f"cannot unpack the image into {place}", error, hint=_MAKE_ROOM) from error

    def unused(self, since: float) -> tuple[str, ...]:
        """Unpacked images that no step uses now, and none used after `since` (seconds since the epoch)."""
        found = []
        for path in sorted(self._directory.glob("*.lock")) if self._directory.is_dir() else ():
            with _unused(path) as lock:
                if lock is not None and os.fstat(lock).st_mtime <= since:
                    found.append(str(path.with_suffix("")))
        return tuple(found)

    def remove(self, path: str) -> bool:
        """False: a step uses it by now."""
        lock_path = Path(path).with_suffix(".lock")
        with _unused(lock_path) as lock:
            if lock is None:
                return False
            _remove(Path(path).with_suffix(".new"))  # of a process that was killed while it unpacked
            _remove(Path(path))
            lock_path.unlink(missing_ok=True)
            return True

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


def _kept(place: Path, unpack: Callable[[], None]) -> tuple[int, int]:
    """Shared locks on an unpacked image that is whole.

    On its lock file, for gc on any node, and on its directory, which systemd-tmpfiles then leaves alone.
    """
    for _ in range(_TRIES):
        lock = _locked(place.with_suffix(".lock"))
        try:
            directory = _whole(place)
            if directory is None and _alone(lock, place):
                unpack()
                fcntl.flock(lock, fcntl.LOCK_SH)
                directory = _whole(place)
            if directory is not None:
                os.utime(lock)
                return lock, directory
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        time.sleep(_TRY_EVERY_S)  # another has only looked, as we have; one that unpacks was waited for
    raise TryLaterError(
        f"of the image unpacked in {place} something was removed, and steps still run in what is left",
        hint="Wait until they have ended, or name another place: SOVCTL_ISOLATION_NODE_DIR=DIR",
    )


def _locked(path: Path) -> int:
    """Hold a shared lock; again when who removed the image took the file away meanwhile."""
    while True:
        lock = os.open(path, _LOCK_FLAGS | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if has_its_name(lock, path):
            return lock
        os.close(lock)


def _whole(place: Path) -> int | None:
    """The directory, locked against a clean-up first, if none has taken something out of it."""
    try:
        directory = os.open(place, _DIRECTORY_FLAGS)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # not every file system of a cluster locks directories
        fcntl.flock(directory, fcntl.LOCK_SH)
    if (place / _OLDEST).exists() and (place / "rootfs").is_dir():
        return directory
    os.close(directory)
    return None


def _alone(lock: int, place: Path) -> bool:
    """Whether nobody else has it, or waits to unpack it; then nobody can before the lock is let go."""
    if not try_exclusive(lock) or not has_its_name(lock, place.with_suffix(".lock")):
        return False
    with _unlocked(place) as free:
        return free


@contextmanager
def _unused(path: Path) -> Iterator[int | None]:
    """The lock file of an unpacked image, locked alone; None while a step uses the image.

    A step that is older than the clean-up's limit may have lost its lock file; it still has the directory.
    """
    try:
        lock = os.open(path, _LOCK_FLAGS)
    except OSError:
        yield None
        return
    try:
        with _unlocked(path.with_suffix("")) as free:
            yield lock if try_exclusive(lock) and free else None
    finally:
        os.close(lock)


@contextmanager
def _unlocked(place: Path) -> Iterator[bool]:
    """Whether nobody has the directory locked; while this lasts nobody gets it. One that is not there nobody has."""
    try:
        directory = os.open(place, _DIRECTORY_FLAGS)
    except FileNotFoundError:
        yield True
        return
    try:
        yield try_exclusive(directory)
    finally:
        os.close(directory)


def _unpack(squashfs: str, offset: int, place: Path) -> None:
    staging = place.with_suffix(".new")
    _remove(staging)
    argv = ("unsquashfs", "-q", "-n", "-no-xattrs", "-o", str(offset), "-d", str(staging / "rootfs"), squashfs)
    staging.mkdir(mode=0o700)
    (staging / _OLDEST).write_text(
        "Goes before anything else here does that is removed for its age. sovctl looks for it.\n"
    )
    os.utime(staging / _OLDEST, (0, 0))
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
