"""A file server that stops answering: `python -m sovctl.lab.silent_mount PATH` mounts itself there and says `mounted`.

It takes every request from the kernel and answers none but the first. Whoever touches the mount then waits in
uninterruptible sleep, as with a hard NFS mount whose server went away: the kernel waits out what a FUSE server has
taken (fs/fuse/dev.c, request_wait_answer). When this process ends, all of them get ENOTCONN. Needs root and /dev/fuse.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Sequence

from sovctl.adapters.isolation.linux import MS_NODEV, MS_NOSUID, mount
from sovctl.lab.storage import MOUNT_SOURCE

_REQUEST = struct.Struct("=IIQQIIII")
"""fuse_in_header: length, opcode, unique, node, uid, gid, pid, padding (linux/fuse.h)."""
_ANSWER = struct.Struct("=IiQ")
"""fuse_out_header: length, error, unique."""
_INIT = 26
_INIT_ANSWER = struct.Struct("=IIIIHHIIHHI28x")
"""fuse_init_out since protocol 7.28."""
_PROTOCOL = (7, 31)
_LARGEST_WRITE = 64 * 1024
_BUFFER = 1024 * 1024


def main(arguments: Sequence[str]) -> int:
    """Serve until killed."""
    (target,) = arguments
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other"
    mount(MOUNT_SOURCE, target, "fuse", MS_NOSUID | MS_NODEV, options)
    os.write(sys.stdout.fileno(), b"mounted\n")
    while True:
        request = os.read(descriptor, _BUFFER)
        _, opcode, unique, *_ = _REQUEST.unpack_from(request)
        if opcode == _INIT:
            words = _INIT_ANSWER.pack(*_PROTOCOL, 0, 0, 0, 0, _LARGEST_WRITE, 1, 0, 0, 0)
            os.write(descriptor, _ANSWER.pack(_ANSWER.size + len(words), 0, unique) + words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
