"""Two users' steps on one node: what the first one holds, and everything the second one tries to reach it by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOCKET = "sovctl-two-users"
"""Name of an abstract socket of the first user."""

HOLD = rf"""
import ctypes, os, socket, sys, time
for place in ("/tmp", "/var/tmp", "/dev/shm"):
    with open(place + "/secret", "w") as file:
        file.write("mine")
libc = ctypes.CDLL(None, use_errno=True)
shm = libc.shmget(0x50F, 4096, 0o1666)
msg = libc.msgget(0x50F, 0o1666)
libc.mq_open(b"/secret", os.O_CREAT | os.O_RDWR, 0o666, None)
listener = socket.socket(socket.AF_UNIX); listener.bind("/tmp/socket"); listener.listen()
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\0{SOCKET}"); abstract.listen()
print("ready", shm, msg, flush=True)
sys.stdin.read()
"""
"""Holds something of each kind, says so, and waits for the end of its input."""

REACH = rf"""
import glob, json, os, signal, socket, subprocess, sys
def target(fd):
    try:
        return os.readlink(f"/proc/self/fd/{{fd}}")
    except OSError:
        return ""
inherited = [target(fd) for fd in range(64)]  # before libffi opens itself
import _posixshmem, ctypes
host_pid, gpus = int(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
def tries(what):
    try:
        return repr(what())
    except OSError as error:
        return error.strerror
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
def read_memory():
    byte = ctypes.create_string_buffer(1)
    here, there = Vector(ctypes.addressof(byte), 1), Vector(0x400000, 1)
    return checked(libc.process_vm_readv(host_pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
def pids_of_others():
    ours = (0, os.getuid())
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and os.stat("/proc/" + pid).st_uid not in ours]
def connect(name):
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect(name)
in_userns = ["unshare", "--user", "--map-root-user", "--mount", "--"]
print(json.dumps({{
    "others": pids_of_others(),
    "cmdline": tries(lambda: open(f"/proc/{{host_pid}}/cmdline").read()),
    "root": tries(lambda: os.listdir(f"/proc/{{host_pid}}/root")),
    "signal": tries(lambda: os.kill(host_pid, 0)),
    "pidfd": tries(lambda: os.pidfd_open(host_pid)),
    "ptrace": tries(lambda: checked(libc.ptrace(16, host_pid, 0, 0))),
    "memory": tries(read_memory),
    "shm_open": tries(lambda: _posixshmem.shm_open("/secret", os.O_RDONLY, 0)),
    "shmget": tries(lambda: checked(libc.shmget(0x50F, 0, 0))),
    "msgget": tries(lambda: checked(libc.msgget(0x50F, 0))),
    "mq_open": tries(lambda: checked(libc.mq_open(b"/secret", os.O_RDONLY))),
    "sysv": open("/proc/sysvipc/shm").read().count("\n") + open("/proc/sysvipc/msg").read().count("\n") - 2,
    "files": sum(map(glob.glob, ("/tmp/*", "/var/tmp/sec*", "/dev/shm/*", "/dev/mqueue/*")), []),
    "socket": tries(lambda: connect("/tmp/socket")),
    "abstract": tries(lambda: connect("\0{SOCKET}")),
    "init root": tries(lambda: sorted(os.listdir("/proc/1/root")) == sorted(os.listdir("/"))),
    "gpus": {{os.path.basename(path): tries(lambda: open(path).close()) for path in glob.glob(gpus + "[0-9]*")}},
    "mknod": tries(lambda: os.mknod("/tmp/node", 0o20666, os.makedev(1, 3))),
    "umount": [subprocess.run([*in_userns, "umount", "-l", path], capture_output=True).returncode != 0
               for path in ("/tmp", "/dev/shm", "/proc", *sorted(glob.glob(gpus + "[0-9]*"))[-1:])],
    "fds": inherited,
    "status": [line.split() for line in open("/proc/self/status") if line.startswith(("NoNewPrivs", "Cap"))],
}}))
"""
"""Arguments: the pid of the other one's process on the node, and what its GPUs' device files begin with."""

_NO_PROCESS, _NO_FILE = "No such process", "No such file or directory"
_OUT_OF_REACH = {
    "others": [],
    "cmdline": _NO_FILE,
    "root": _NO_FILE,
    "signal": _NO_PROCESS,
    "pidfd": _NO_PROCESS,
    "ptrace": _NO_PROCESS,
    "memory": _NO_PROCESS,
    "shm_open": _NO_FILE,
    "shmget": _NO_FILE,
    "msgget": _NO_FILE,
    "sysv": 0,
    "files": [],
    "socket": _NO_FILE,
    "mknod": "Operation not permitted",
}


def reached(found: Mapping[str, Any]) -> dict[str, object]:
    """What `REACH` could do that it should not; abstract socket, GPUs and descriptors are for the caller to judge."""
    wrong = {name: found[name] for name, wanted in _OUT_OF_REACH.items() if found[name] != wanted}
    # Of the step's own first process a user may see the root, which is the step's own.
    allowed = {"init root": ("Permission denied", "True"), "mq_open": (_NO_FILE, "Function not implemented")}
    wrong |= {name: found[name] for name, words in allowed.items() if found[name] not in words}
    wrong |= {} if all(found["umount"]) else {"umount": found["umount"]}
    privileges = {line[0].rstrip(":"): line[1] for line in found["status"]}
    wanted = {name: "1" if name == "NoNewPrivs" else "0" * 16 for name in privileges}
    return wrong if privileges == wanted and "NoNewPrivs" in privileges else {**wrong, "status": privileges}
