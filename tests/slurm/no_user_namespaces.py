"""Become a program below which nobody can make a user namespace, as on a node whose kernel forbids it.

`user.max_user_namespaces` is the machine's; a seccomp filter is this program's and its children's, and answers like a
kernel with `kernel.unprivileged_userns_clone=0`. Needs root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

CLONE_NEWUSER = 0x10000000
_CALLS = {"x86_64": (56, 272, 435), "aarch64": (220, 97, 435)}
"""clone, unshare and clone3 on this machine."""
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16
_ALLOW, _FAIL_WITH = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _FILTER = 22, 2


def forbid() -> None:
    """For this process and all that it starts. Raises OSError."""
    clone, unshare, clone3 = _CALLS[os.uname().machine]
    lines = (
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 2, 0, clone),
        (_IF_EQUAL, 1, 0, unshare),
        (_IF_EQUAL, 3, 2, clone3),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_ANY_BIT, 2, 0, CLONE_NEWUSER),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL_WITH | errno.ENOSYS),  # its flags lie in memory; libc then calls clone
        (_RETURN, 0, 0, _FAIL_WITH | errno.EPERM),
    )
    text = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
    program = struct.pack("@HP", len(lines), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, program, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "seccomp")


if __name__ == "__main__":
    forbid()
    os.execvp(sys.argv[1], sys.argv[1:])
