"""Named layers over images: `<env dir>/<name>/` with `upper`, `work` and `base`, one directory per user.

overlayfs lets one mount at a time write to a layer, so a step holds its lock. The SPANK plugin (plugins/spank/layer.c)
uses the same layers; `base` is two lines, which it need not parse: what names the bytes of the image, and its name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.adapters.isolation.step_root import BASE, StepRoot
from sovctl.adapters.isolation.tree_size import tree_bytes
from sovctl.errors import CommandFailed, RefusedError, SovctlError, TryLaterError, UsageError, disk_error
from sovctl.model.isolated import EnvLayer, IsolatedStep

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RECORD_BYTES = 64 * 1024
_EXPORT_S = 3600.0
_HANDOVER_S = 3.0
"""The holder of the step before needs a moment to end after its last rank."""


class EnvLayers:
    """The layers of this user. Implements `ports.EnvLayers`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._locks: list[int] = []

    def open(self, name: str, base: str, reference: str, *, only_read: bool = False) -> str:
        """The directory of a layer, made if it is new; locked while this process, or one forked from it, lives.

        `base`: what names the bytes of the image below. `only_read`: nothing is to be written to it. Raises UsageError,
        RefusedError for another image than the one it was made over, TryLaterError while another step has it.
        """
        place = self._place(name)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_directory()
            for path in (place, place / "upper", place / "work"):
                path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise disk_error(
                f"cannot make the environment {place}", error, hint=f"Check it: ls -ld {place.parent}"
            ) from error
        self._check_owner(place)
        self._locks.append(self._lock(place, name, wait_s=_HANDOVER_S))
        below = _base(place)
        if not below:
            _write_base(place, f"{base}\n{reference}\n")
        elif below[0] != base:
            anew = f"Use another name, or remove it: sovctl image env rm {name}"
            back = f"Put back what that meant ({below[0]}); what it means now: sovctl image resolve {below[1]}"
            raise RefusedError(
                f"the environment {name} was made over another image ({below[1]})", hint=back if only_read else anew
            )
        return str(place)

    def below(self, name: str) -> tuple[str, str]:
        """What names the bytes of the image below a layer, and its name. Raises UsageError where there is none."""
        return _base(self._there(name)) or ("", "")

    def entries(self) -> tuple[EnvLayer, ...]:
        """All layers of this user, by name."""
        found = []
        for place in sorted(self._directory.iterdir()) if self._directory.is_dir() else ():
            below = _base(place)
            if not below or not _NAME.fullmatch(place.name) or place.is_symlink():
                continue
            in_use = False
            try:
                os.close(self._lock(place, place.name))
            except TryLaterError:
                in_use = True
            except FileNotFoundError:  # removed meanwhile
                continue
            found.append(EnvLayer(place.name, str(place), below[1], tree_bytes(place / "upper"), in_use))
        return tuple(found)

    def remove(self, name: str) -> None:
        """Remove a layer for good. Raises UsageError where there is none, TryLaterError while a step has it."""
        place = self._there(name)
        lock = self._lock(place, name)
        try:
            for folder, names, _ in os.walk(place):
                for inner in names:  # overlayfs leaves a directory of mode 000
                    if not Path(folder, inner).is_symlink():
                        Path(folder, inner).chmod(0o700)
            shutil.rmtree(place)
        finally:
            os.close(lock)

    def export(self, name: str, step: IsolatedStep, target: str) -> None:
        """Write the image with its layer, which `open` gave to `step`, as one squashfs. Raises SovctlError."""
        told, tell = os.pipe2(os.O_CLOEXEC)
        if (child := os.fork()) == 0:
            _export_and_exit(step, target, tell)
        os.close(tell)
        with open(told, encoding="utf-8", errors="replace") as answer:
            said = answer.read(2000)
        os.waitpid(child, 0)
        if said != "done":
            Path(target).unlink(missing_ok=True)
            raise SovctlError(
                f"cannot export the environment {name}: {said or 'the exporter died'}",
                hint=f"Is the disk full? df -h {Path(target).parent}",
            )

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is not a name for an environment",
                hint="Letters, digits, dot, dash and underscore, at most 64, as in --env-name=tools.",
            )
        return self._directory / name

    def _there(self, name: str) -> Path:
        place = self._place(name)
        if not _base(place):
            raise UsageError(f"there is no environment {name}", hint="List them: sovctl image env ls")
        self._check_owner(place)
        return place

    def _check_directory(self) -> None:
        """Who may change the directory could put another of the user's in a layer's place."""
        status = self._directory.stat()
        safe = not status.st_mode & 0o022 or status.st_mode & stat.S_ISVTX
        if status.st_uid not in (0, os.geteuid()) or not safe:
            raise RefusedError(
                f"others can change {self._directory}, where your named layers are to be",
                hint=f"Check it: ls -ld {self._directory}   (isolation.env_dir)",
            )

    def _check_owner(self, place: Path) -> None:
        status = os.lstat(place)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise RefusedError(f"{place} is not a directory of yours alone", hint=f"Check it: ls -ld {place}")

    def _lock(self, place: Path, name: str, wait_s: float = 0.0) -> int:
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError as error:
                if time.monotonic() >= deadline:
                    os.close(lock)
                    words = f"another step uses the environment {name}"
                    raise TryLaterError(
                        words, hint="A layer that is written has one step at a time; see which are: sovctl image env ls"
                    ) from error
            time.sleep(0.02)


def _write_base(place: Path, text: str) -> None:
    staged = place / ".base"
    try:
        staged.write_text(text, "utf-8", "surrogateescape")
        staged.rename(place / "base")
    except OSError as error:
        raise disk_error(
            f"cannot write to the environment {place}", error, hint=f"Check it: df -hi {place.parent}"
        ) from error


def _base(place: Path) -> tuple[str, str] | None:
    """What names the bytes of the image below, and the image's name; None: there is no layer."""
    try:
        descriptor = os.open(place / "base", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            lines = file.read(_RECORD_BYTES).decode("utf-8", "surrogateescape").split("\n")
    except OSError:
        return None
    return (lines[0], lines[1] if len(lines) > 1 else "")


def _export_and_exit(step: IsolatedStep, target: str, tell: int) -> None:
    said = "done"
    try:
        # The directory stays this process's own where it is in a place that is covered soon.
        os.chdir(Path(target).parent)
        target = f"./{Path(target).name}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)  # noqa: PTH108 - mksquashfs appends to what is there
        root = StepRoot(step).build(tuple)
        options = ("-all-root", "-mkfs-time", "0", "-comp", "zstd", "-b", "1M", "-noappend", "-no-progress", "-quiet")
        runner = CommandRunner({"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        runner.run(("mksquashfs", root, target, *options), timeout_s=_EXPORT_S)
    except (SovctlError, CommandFailed) as error:
        said = error.message
    except OSError as error:
        said = f"{error.strerror} ({error.filename or BASE})"
    finally:
        os.write(tell, said.encode("utf-8", "replace"))
        os._exit(0)
