"""System calls for namespaces that Python 3.11 has no functions for."""

from __future__ import annotations

import ctypes
import fcntl
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_BIND, MS_REC, MS_PRIVATE, MS_NODEV, MS_NOSUID, MS_RDONLY = 0x1000, 0x4000, 0x40000, 4, 2, 1
MNT_DETACH = 2
_OPEN_TREE, _MOVE_MOUNT = 428, 429
"""The same numbers on every architecture; glibc has functions for them since 2.36."""
_AT_FDCWD, _AT_RECURSIVE, _OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = -100, 0x8000, 1, 4
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 38, 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_NS_GET_USERNS = 0xB701
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave these namespaces for new ones. Raises OSError."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int) -> None:
    """Join the namespace behind a descriptor of /proc/<pid>/ns. Raises OSError."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(0)), "setns")


def owner_of(descriptor: int) -> int:
    """The user namespace that owns this namespace, as a descriptor. Raises OSError."""
    return int(fcntl.ioctl(descriptor, _NS_GET_USERNS))


def why_closed(path: str) -> int:
    """What access(2) says against reading this file; 0: nothing. EPERM of a device file: the cgroup keeps it away."""
    return 0 if _libc.access(os.fsencode(path), os.R_OK) == 0 else ctypes.get_errno()


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError naming the target."""
    words = (os.fsencode(source), os.fsencode(target), os.fsencode(kind) or None)
    status = _libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data) or None)
    _check(status, f"mount {target}")


def unmount(target: str) -> None:
    """Take a mount out of sight; it ends with its last user. Raises OSError."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)), f"unmount {target}")


def clone_tree(path: str) -> int:
    """What can be seen at a path, as a descriptor of a mount that is nowhere yet. Raises OSError."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    tree = _libc.syscall(*map(ctypes.c_long, (_OPEN_TREE, _AT_FDCWD)), os.fsencode(path), ctypes.c_long(flags))
    _check(min(tree, 0), f"open_tree {path}")
    return int(tree)


def attach_tree(tree: int, target: str) -> None:
    """Mount what `clone_tree` gave. Raises OSError."""
    numbers = map(ctypes.c_long, (_MOVE_MOUNT, tree))
    words = (b"", ctypes.c_long(_AT_FDCWD), os.fsencode(target), ctypes.c_long(_MOVE_MOUNT_F_EMPTY_PATH))
    _check(_libc.syscall(*numbers, *words), f"move_mount {target}")


def die_with_parent() -> None:
    """SIGKILL for this process when its parent ends; to be said after the last change of credentials."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def last_capability() -> int:
    """Number of the kernel's last capability; to be asked where /proc is the host's."""
    with open(_LAST_CAPABILITY, encoding="ascii") as file:
        return int(file.read())


def give_up_privileges(last: int) -> None:
    """No capability, now or by any program run later, and no setuid bit that counts. Raises OSError."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl")
    for number in range(last + 1):
        _check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "prctl")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
