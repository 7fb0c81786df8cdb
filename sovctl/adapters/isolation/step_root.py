"""Puts the root file system of an isolated step together, in a mount namespace that only its holder sees."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sovctl.adapters.command import Child, CommandRunner, spawn
from sovctl.adapters.isolation import linux
from sovctl.errors import CommandFailed, CommandMissing, SovctlError, UsageError
from sovctl.model.isolated import IsolatedStep, SlurmClient

BASE = Path("/dev/shm")
"""Covered in the holder's own namespace; a step sees a new one there."""
_SYSTEM_PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_MOUNT_S = 20.0
_MOST_LINKS = 100


def can_mount(squashfs: str) -> bool:
    """Whether this user can have a squashfs mounted here, by the kernel or by FUSE."""
    if not squashfs:
        return False
    return os.geteuid() == 0 or (_installed("squashfuse") and os.access("/dev/fuse", os.R_OK | os.W_OK))


class StepRoot:
    """Mounts, and the processes that serve them; all ends with the namespace."""

    def __init__(self, step: IsolatedStep) -> None:
        self._asked = step
        self.step = step
        """With its sources where they are found in the namespaces that `build` enters."""
        self.server: Child | None = None
        """squashfuse, where it serves the image."""

    def build(self, ready_made: Callable[[], Sequence[str]]) -> str:
        """Enter new user and mount namespaces and return the path of the root in them.

        `ready_made`: the directories a step needs in its root. Raises SovctlError in words.
        """
        by_kernel = bool(self.step.squashfs) and os.geteuid() == 0
        if by_kernel:
            linux.unshare(linux.CLONE_NEWNS)
            self._private_base()
            by_kernel = self._mount_by_kernel()
        _new_user_namespace()
        if not by_kernel:
            self._private_base()
        if not self.step.own_root:
            return "/"
        lower, upper, work, root = (BASE / name for name in ("lower", "upper", "work", "root"))
        for path in (lower, upper, work, root):
            path.mkdir(exist_ok=True)
        if self.step.layer:
            # overlayfs wants both below one mount; a fixed name keeps what a path may hold out of the mount options.
            kept = BASE / "layer"
            kept.mkdir()
            linux.mount(self.step.layer, str(kept), flags=linux.MS_BIND)
            upper, work = kept / "upper", kept / "work"
        if self.step.directory:
            linux.mount(self.step.directory, str(lower), flags=linux.MS_BIND | linux.MS_REC)
        elif not by_kernel:
            self._mount_by_fuse(lower)
        return self._layered(lower, upper, work, root, ready_made())

    def _private_base(self) -> None:
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        # What is staged in memory is often what a step is made of: it is kept when the rest goes out of sight.
        kept = {path: _kept(path) for path in self._asked.sources if BASE.resolve() in Path(path).resolve().parents}
        linux.mount("tmpfs", str(BASE), "tmpfs", linux.MS_NODEV | linux.MS_NOSUID, "mode=0755")
        places = {path: BASE / f"source{number}" for number, path in enumerate(kept)}
        for path, tree in kept.items():
            _attach(tree, places[path])
        self.step = self._asked.with_sources({path: str(place) for path, place in places.items()})

    def _mount_by_kernel(self) -> bool:
        lower = BASE / "lower"
        lower.mkdir()
        options = f"loop,ro,nodev,nosuid,offset={self.step.squashfs_offset}"
        argv = ("mount", "-t", "squashfs", "-o", options, "--", self.step.squashfs, str(lower))
        try:
            CommandRunner(_SYSTEM_PATH).run(argv, timeout_s=_MOUNT_S)
        except (CommandFailed, CommandMissing):
            lower.rmdir()
            linux.unmount(str(BASE))
            return False
        return True

    def _mount_by_fuse(self, lower: Path) -> None:
        log, before = BASE / "squashfuse.log", os.stat(lower).st_dev
        options = f"ro,nodev,nosuid,offset={self.step.squashfs_offset}"
        with log.open("wb") as output:
            argv = ("squashfuse", "-f", "-o", options, self.step.squashfs, str(lower))
            self.server = spawn(argv, env=_SYSTEM_PATH, stdout=output)
        deadline = time.monotonic() + _MOUNT_S
        while os.stat(lower).st_dev == before:
            if self.server.wait(0.002) is not None or time.monotonic() > deadline:
                said = log.read_text("utf-8", "replace").strip()[-200:]
                raise SovctlError(
                    f"the image {self._asked.squashfs} cannot be mounted: {said}",
                    hint=f"Check it: unsquashfs -s {self._asked.squashfs}",
                )

    def _layered(self, lower: Path, upper: Path, work: Path, root: Path, places: Sequence[str]) -> str:
        """The image below, memory above: mount points can be made in it, and what is written ends with the step."""
        data = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
        try:
            linux.mount("overlay", str(root), "overlay", linux.MS_NODEV | linux.MS_NOSUID, data)
        except OSError as error:
            if self.step.writable:
                where = f" in {self._asked.layer}" if self._asked.layer else ""
                raise SovctlError(
                    f"the kernel of this node lets you have no writable layer{where}: {error.strerror}",
                    hint="It takes Linux 5.11, and for --env-name a file system that overlayfs can write to (not NFS).",
                ) from error
            if self.step.client is not None:
                _lay_starter(lower, self.step.client)
            return str(lower)
        if self.step.client is not None:
            _lay_starter(root, self.step.client)
        for place in places:
            make_directory(root, place, replace_link=True)
        for mount in self.step.mounts:
            make_place(root, mount.target, directory=Path(mount.source).is_dir())
        return str(root)


def _kept(path: str) -> int:
    try:
        return linux.clone_tree(path)
    except OSError as error:
        raise SovctlError(
            f"{path} cannot be in an isolated step on {os.uname().nodename}: {error.strerror}",
            hint=f"In {BASE} it takes Linux 5.2 there, elsewhere it works: `cp -a {path} /var/tmp/`",
        ) from error


def _attach(tree: int, place: Path) -> None:
    try:
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            place.mkdir()
        else:
            place.touch()
        linux.attach_tree(tree, str(place))
    finally:
        os.close(tree)


def _lay_starter(root: Path, client: SlurmClient) -> None:
    """The starter of Slurm's commands, beside the root. Raises SovctlError where the image cannot run it."""
    if not _runs_scripts(root):
        raise SovctlError(
            "the image has no /bin/sh, which Slurm's commands need in it",
            hint="Use an image with a shell, or leave --slurm-client out.",
        )
    path = root.with_name("client")
    path.write_text(client.starter, "utf-8")
    path.chmod(0o755)


def _runs_scripts(root: Path) -> bool:
    """Whether /bin/sh leads to a file, with the links of the image followed below its root."""
    path, waiting = root, ["sh", "bin"]
    for _ in range(_MOST_LINKS):
        if not waiting:
            return stat.S_ISREG(_mode(path) or 0)
        part = waiting.pop()
        below = path.parent if part == ".." and path != root else path if part == ".." else path / part
        mode = _mode(below)
        if mode is None:
            return False
        if stat.S_ISLNK(mode):
            target = Path(os.readlink(below))
            path = root if target.is_absolute() else path
            waiting += [one for one in reversed(target.parts) if one not in ("/", ".")]
        else:
            path = below
    return False


def make_directory(root: Path, place: str, *, replace_link: bool = False) -> None:
    """A directory at `place` below `root`, reached over no link of the image."""
    path = root
    parts = Path(place).parts[1:]
    for index, part in enumerate(parts):
        path = path / part
        mode = _mode(path)
        if mode is not None and not stat.S_ISDIR(mode):
            if not (replace_link and index == len(parts) - 1):
                raise UsageError(
                    f"the image has no directory at /{path.relative_to(root)}, but a link or a file",
                    hint=f"Mount somewhere else than {place}: --mount A:B",
                )
            path.unlink()
            mode = None
        if mode is None:
            path.mkdir(mode=0o755)


def make_place(root: Path, place: str, *, directory: bool) -> None:
    """Something to mount a directory or a file on. What an own mount will cover (/tmp, /run) needs nothing here."""
    if directory:
        make_directory(root, place)
        return
    make_directory(root, str(Path(place).parent))
    path = root / place.lstrip("/")
    mode = _mode(path)
    if mode is None:
        path.touch()
    elif not stat.S_ISREG(mode):
        raise UsageError(
            f"the image has no file at {place}",
            hint="A file can be mounted on a file only; name another place: --mount A:B",
        )


def write_identity(root: Path, texts: dict[str, str]) -> None:
    """Replace small files below /etc of the layered root; an /etc that is a link is left alone."""
    etc = root / "etc"
    if not stat.S_ISDIR(_mode(etc) or 0):
        return
    for name, text in texts.items():
        path = etc / name
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # never through a link of the image
            path.write_text(text, "utf-8", "surrogateescape")  # the path of a home may hold any byte


def read_below(root: Path, name: str, limit: int = 1 << 20) -> str:
    """A small text file of /etc of the image; empty when it, or /etc, is a link or not there."""
    if not stat.S_ISDIR(_mode(root / "etc") or 0):
        return ""
    try:
        descriptor = os.open(root / "etc" / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    with open(descriptor, "rb") as file:
        return file.read(limit).decode("utf-8", "replace") if stat.S_ISREG(os.fstat(descriptor).st_mode) else ""


def _mode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return None


def _new_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path("/proc/self", name).write_text(text, "ascii")
    except OSError as error:
        why = "their limit is reached" if error.errno == errno.ENOSPC else error.strerror
        raise SovctlError(
            f"the kernel of {os.uname().nodename} forbids user namespaces: {why}",
            hint="The site can allow it: sysctl user.max_user_namespaces kernel.apparmor_restrict_unprivileged_userns",
        ) from error


def _installed(program: str) -> bool:
    return any(os.access(Path(folder, program), os.X_OK) for folder in _SYSTEM_PATH["PATH"].split(":"))
