"""The command line of bubblewrap for an isolated step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from posixpath import normpath

from sovctl.isolation.slurm_client import PATH, PLACE
from sovctl.model.image import Mount
from sovctl.model.isolated import IsolatedStep

PRIVATE = ("/tmp", "/var/tmp", "/dev/shm")
"""Empty at the start of each step, and gone with it."""
STARTER = "client"
OWN_PLACES = ("/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/run")
"""Where something is mounted in an image; each must be a directory there, and no link."""


def sandbox_argv(step: IsolatedStep, root: str, *, uid: int, gid: int, block_fd: int, info_fd: int) -> tuple[str, ...]:
    """bubblewrap holds the namespaces and waits on `block_fd`; the ranks join them. It runs nothing of the image.

    `root`: where the root file system is mounted now; the starter of Slurm's commands lies beside it.
    """
    words = ["bwrap", "--unshare-user", "--uid", str(uid), "--gid", str(gid)]
    words += ["--unshare-pid", "--unshare-ipc", "--cap-drop", "ALL", "--die-with-parent"]
    words += ["--unshare-net"] if step.private_network else []
    words += ["--bind", root, "/", "--proc", "/proc", "--dev", "/dev"]
    for device in step.devices:
        words += ["--dev-bind", device, device]
    for place in PRIVATE:
        words += ["--perms", "1777", "--tmpfs", place]
    if step.own_root:
        words += ["--ro-bind", "/sys", "/sys", "--perms", "0755", "--tmpfs", "/run"]
    words += _home(step)
    words += _client(step, root)
    for mount in step.mounts:
        words += ["--ro-bind" if mount.read_only else "--bind", mount.source, mount.target]
    if step.own_root and not step.writable:
        words += ["--remount-ro", "/"]
    # What is named here is never run: block_fd ends, bubblewrap finds no such program, and the namespaces end with it.
    return (*words, "--block-fd", str(block_fd), "--info-fd", str(info_fd), "--", "/sovctl-end-of-step")


def _client(step: IsolatedStep, root: str) -> Sequence[str]:
    if step.client is None:
        return ()
    words = ["--ro-bind", str(PurePosixPath(root).with_name(STARTER)), f"{PLACE}/{STARTER}"]
    for name in step.client.commands:
        words += ["--symlink", f"../{STARTER}", f"{PATH}/{name}"]
    return words


def _home(step: IsolatedStep) -> Sequence[str]:
    if step.home in ("", "/", *PRIVATE):
        return ()
    if step.home_visible:
        return ("--bind", step.home, step.home) if step.own_root else ()
    return ("--perms", "0700", "--tmpfs", step.home)


def unseen(work_dir: str, mounts: Iterable[Mount], shown_by: str) -> str:
    """On the host's own root: that the working directory is not there; empty where it is. `shown_by`: what to type."""
    here = PurePosixPath(normpath(work_dir))
    place = next((place for place in PRIVATE if here.is_relative_to(place)), "")
    if not place or any(here.is_relative_to(mount.target) for mount in mounts):
        return ""
    return f"the working directory {here} is not seen inside, where {place} is private; show it with: {shown_by}"


def mount_points(step: IsolatedStep) -> tuple[str, ...]:
    """Directories of an image that the mounts need, in the order in which they are made."""
    home = (step.home,) if step.home not in ("", "/", *PRIVATE) else ()
    return (*OWN_PLACES, *home)
