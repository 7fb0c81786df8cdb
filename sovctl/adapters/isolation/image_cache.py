"""The directory that holds the images: `sha256-<hex>-<architecture>.sqsh`, beside each a `.json` that says what it is.

Who starts a step from an image holds a shared lock on the squashfs for as long as the step lives, on whatever node;
who removes one must get the exclusive lock first. Locks end with their processes. What is locked is always a file: on
NFS the lock of a directory does not leave its node.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sovctl.adapters.isolation.file_locks import has_its_name, try_exclusive
from sovctl.errors import RefusedError, SovctlError, TryLaterError, disk_error
from sovctl.model.image import CachedImage, ImageSettings, Staging

SCHEMA = "sovctl.image/1"
_PULL, _LOCK = ".pull-", ".lock"
_HEADER_BYTES = 96
_RECORD_BYTES = 2**20
_WAIT_S = 3600.0


class ImageCache:
    """Implements `ports.ImageCache`. `name_of`/`digest_of` make and read the names of the files."""

    def __init__(
        self,
        directory: Path,
        name_of: Callable[[str], str],
        digest_of: Callable[[str], str | None],
        check: Callable[[bytes, int, str], None],
    ) -> None:
        """`check`: of first bytes, size and path; raises SovctlError where that is no whole image."""
        self._directory = directory
        self._name_of = name_of
        self._digest_of = digest_of
        self._check = check

    def where(self) -> str:
        return str(self._directory)

    def find(self, digest: str) -> CachedImage | None:
        """The image, if it is there as a whole. Raises SovctlError where somebody else could have written it."""
        path = self._directory / self._name_of(digest)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SovctlError(
                f"cannot look into the image cache {self._directory}: {error.strerror}",
                hint=f"Check it: ls -ld {self._directory}",
            ) from error
        self._check_owner(path, status)
        return _entry(path, digest, status) if self._whole(path, status.st_size) else None

    def entries(self) -> tuple[CachedImage, ...]:
        """All of them; what is no image of ours is passed over."""
        found = []
        for path in sorted(self._directory.glob("sha256-*.sqsh")) if self._directory.is_dir() else ():
            digest = self._digest_of(path.name)
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                if digest and stat.S_ISREG(status.st_mode):
                    found.append(_entry(path, digest, status))
        return tuple(found)

    def free_bytes(self) -> int:
        """What this user may still write to the cache's file system."""
        self._make()
        state = os.statvfs(self._directory)
        return state.f_bavail * state.f_frsize

    @contextmanager
    def pulling(self, digest: str, waiting: Callable[[str], None]) -> Iterator[Staging]:
        """The turn to load this image. Raises TryLaterError when another process does not end."""
        self._make()
        # Of each user: what somebody else may not enter nobody else can wait for, or go on with.
        of = self._name_of(digest).removesuffix(".sqsh")
        staging = self._directory / f"{_PULL}{of}.{os.geteuid()}"
        lock = self._turn(staging, waiting)
        try:
            self._stage(staging)
            try:
                yield Staging(str(staging), lock)
            finally:
                with suppress(OSError):  # what was loaded stays for the next try; what never began leaves nothing
                    staging.rmdir()
        finally:
            if not os.path.lexists(staging):
                with suppress(OSError):
                    _lock_of(staging).unlink()
            os.close(lock)

    def add(self, image: CachedImage) -> CachedImage:
        """The record first, then the squashfs by one rename: an image that is seen is whole."""
        staged, path = Path(image.path), self._directory / self._name_of(image.digest)
        record = staged.with_suffix(".json")
        fields = {"schema": SCHEMA, "digest": image.digest, "reference": image.reference}
        try:
            record.write_text(json.dumps({**fields, "settings": dataclasses.asdict(image.settings)}), "utf-8")
            _sync(staged)
            staged.chmod(0o644)
            record.rename(path.with_suffix(".json"))
            staged.rename(path)
        except OSError as error:
            hint = _hint(error, "Make room: sovctl image gc --keep 0")
            raise disk_error(f"cannot write the image {path}", error, hint=hint) from error
        _remove_tree(staged.parent)
        return _entry(path, image.digest, os.lstat(path))

    def remove(self, image: CachedImage) -> bool:
        path = Path(image.path)
        lock = _try_lock(path)
        if lock is None:
            return False
        try:
            path.unlink(missing_ok=True)
            with suppress(PermissionError):
                path.with_suffix(".json").unlink(missing_ok=True)
        except PermissionError:
            return False
        except OSError as error:
            raise SovctlError(
                f"cannot remove {path}: {error.strerror}", hint=f"See whose it is: ls -l {path}"
            ) from error
        finally:
            os.close(lock)
        return True

    def leftovers(self) -> tuple[str, ...]:
        """Staging directories whose puller is gone, and what is left of their locks."""
        return tuple(str(path) for path in sorted(self._staged()) if _own(path) and not _locked(_lock_of(path)))

    def remove_leftover(self, path: str) -> bool:
        """With a lock of its own where there is none: nobody may begin to load into what is removed."""
        staging = Path(path)
        try:
            lock = _open_lock(_lock_of(staging))
        except OSError:
            return False
        try:
            if not try_exclusive(lock) or not has_its_name(lock, _lock_of(staging)):
                return False
            _remove_tree(staging)
            _lock_of(staging).unlink(missing_ok=True)
        finally:
            os.close(lock)
        return True

    def _staged(self) -> set[Path]:
        if not self._directory.is_dir():
            return set()
        locks = self._directory.glob(f"{_LOCK}{_PULL}*")
        return {*self._directory.glob(f"{_PULL}*"), *(path.with_name(path.name.removeprefix(_LOCK)) for path in locks)}

    def _make(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(
                f"cannot make the image cache {self._directory}",
                error,
                hint="Name another directory: SOVCTL_ISOLATION_CACHE_DIR=DIR",
            ) from error

    def _check_owner(self, path: Path, status: os.stat_result) -> None:
        trusted = {0, os.geteuid(), self._directory.stat().st_uid}
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in trusted or status.st_mode & 0o022:
            raise SovctlError(
                f"the image {path} could have been written by somebody else",
                hint="It must be a file of yours, of root or of the owner of the cache, and writable by nobody else: "
                f"ls -l {path}",
            )

    def _whole(self, path: Path, size_bytes: int) -> bool:
        """A disk that broke leaves names of files that are short: such an image is loaded anew."""
        try:
            with path.open("rb") as file:
                header = file.read(_HEADER_BYTES)
        except OSError:
            return True  # whoever uses it is told why it cannot be read
        try:
            self._check(header, size_bytes, str(path))
        except SovctlError:
            return False
        return True

    def _turn(self, staging: Path, waiting: Callable[[str], None]) -> int:
        deadline, said, path = time.monotonic() + _WAIT_S, False, _lock_of(staging)
        while True:
            try:
                lock = _open_lock(path)
            except OSError as error:
                raise self._not_loaded(staging, error) from error
            _check_own(lock, path)
            if try_exclusive(lock) and has_its_name(lock, path):
                return lock
            os.close(lock)
            if time.monotonic() > deadline:
                raise TryLaterError(
                    f"another process loads this image for over an hour ({staging})",
                    hint=f"See which: fuser -v {path}",
                )
            if not said:
                waiting("another process loads this image; waiting for it")
                said = True
            time.sleep(0.2)

    def _stage(self, staging: Path) -> None:
        """The directory itself, by whoever has its turn."""
        try:
            with suppress(FileExistsError):
                staging.mkdir(mode=0o700)
            directory = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self._not_loaded(staging, error) from error
        _check_own(directory, staging)
        os.close(directory)

    def _not_loaded(self, staging: Path, error: OSError) -> SovctlError:
        hint = _hint(error, f"Check it: df -hi {self._directory}")
        return disk_error(f"cannot load an image into {staging}", error, hint=hint)


def _hint(error: OSError, otherwise: str) -> str:
    """What to do where the cache, or an image that is to be replaced in it, is somebody else's."""
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return "Have its owner prefetch it, or use a cache of your own: SOVCTL_ISOLATION_CACHE_DIR=DIR"
    return otherwise


def _lock_of(staging: Path) -> Path:
    return staging.with_name(f"{_LOCK}{staging.name}")


def _open_lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except FileNotFoundError:  # not at once: it keeps root from the locks of others (fs.protected_regular)
        return os.open(path, flags | os.O_CREAT, 0o600)


def _check_own(descriptor: int, path: Path) -> None:
    """Whoever may write there could put another image in its place. Raises RefusedError, and closes it then."""
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        os.close(descriptor)
        raise RefusedError(
            f"{path}, where an image is to be prepared, is not yours alone",
            hint=f"Somebody else made it; see who: ls -ld {path}",
        )


def _own(staging: Path) -> bool:
    """Whether this user may remove what is left of a pull."""
    with suppress(FileNotFoundError):
        path = staging if os.path.lexists(staging) else _lock_of(staging)
        return os.geteuid() in (0, path.lstat().st_uid)
    return False


def _try_lock(path: Path) -> int | None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:  # to be written: NFSv4 gives nobody else an exclusive lock (flock(2))
            lock = os.open(path, os.O_RDWR | flags)
        except OSError as error:
            if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
                raise
            lock = os.open(path, os.O_RDONLY | flags)
    except OSError:
        return None
    if try_exclusive(lock):
        return lock
    os.close(lock)
    return None


def _locked(path: Path) -> bool:
    """Whether somebody holds it; what is not there nobody does."""
    lock = _try_lock(path)
    if lock is not None:
        os.close(lock)
    return lock is None and os.path.lexists(path)


def _entry(path: Path, digest: str, status: os.stat_result) -> CachedImage:
    record = _record(path.with_suffix(".json"), status.st_uid)
    return CachedImage(
        digest=digest,
        path=str(path),
        size_bytes=status.st_size,
        used_at=max(status.st_mtime, status.st_atime),
        reference=str(record.get("reference", "")),
        settings=_settings(record.get("settings")),
        in_use=_locked(path),
    )


def _record(path: Path, owner: int) -> dict[str, Any]:
    """What is not readable, not JSON or not of the image's `owner` costs the image its environment, never the start of
    a step."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != owner:
                return {}
            value = json.loads(file.read(_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _settings(value: object) -> ImageSettings:
    if not isinstance(value, dict):
        return ImageSettings()
    try:
        return ImageSettings(
            env=tuple((str(name), str(text)) for name, text in value.get("env", ())),
            work_dir=str(value.get("work_dir", "")),
            entrypoint=tuple(map(str, value.get("entrypoint", ()))),
            command=tuple(map(str, value.get("command", ()))),
        )
    except (TypeError, ValueError):
        return ImageSettings()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_tree(path: Path) -> None:
    # Directories of an image may lack the owner's write bit. Root needs none, and changes no mode by a name in a
    # directory that a user could put a link into.
    for folder, names, _ in os.walk(path) if os.geteuid() else ():
        for name in names:
            inner = Path(folder, name)
            if not inner.is_symlink():
                inner.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
