"""Holds the namespaces of one isolated step on one node, for as long as a rank is in it.

The first rank starts a holder; every rank connects to it and gets the namespaces to join. A connection is a
membership: it ends with its process, however that dies. After the last one the holder ends, and with it namespaces,
mounts and processes. The socket has a name but no file, so that nothing is left behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import grp
import json
import os
import pwd
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from sovctl.adapters.command import Child, spawn
from sovctl.adapters.isolation import linux
from sovctl.adapters.isolation.step_root import BASE, StepRoot, read_below, write_identity
from sovctl.errors import EXIT_FAILED, SovctlError
from sovctl.model.image_environment import environment_of
from sovctl.model.isolated import IsolatedStep

_IGNORED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT),
    *(signal.SIGTSTP, signal.SIGALRM),
)
"""Slurm sends these to every process of a step; the ranks need their namespaces to act on them."""
_ENVIRONMENT_BYTES = 65536
"""What the SPANK plugin reads of it too."""
_START_S = 30.0
_WATCH_S = 1.0
_PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

Argv = Callable[..., tuple[str, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How the sandbox is described; the rules live with the pure parts."""

    argv: Argv
    """(step, root, uid, gid, block_fd, info_fd) -> the command line of bubblewrap."""
    places: Callable[[IsolatedStep], tuple[str, ...]]
    """Directories that the root must have."""


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end of a local socket."""
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])


def failure(error: Exception) -> dict[str, object]:
    """The answer to the ranks of a step that cannot be made."""
    if isinstance(error, SovctlError):
        return {"error": error.message, "hint": error.hint, "status": error.exit_code}
    why = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        why = f"{error.strerror} ({error.filename})"
    words = f"the isolated step cannot be made on {os.uname().nodename}: {why}"
    return {"error": words, "hint": "See what this node can do: sovctl doctor isolation", "status": EXIT_FAILED}


class StepHolder:
    """The process that the first rank forks."""

    def __init__(self, step: IsolatedStep, recipe: Recipe, listener: socket.socket, first: socket.socket) -> None:
        """`first`: a connection to the rank that forked this, which may die before it joins like every other."""
        self._step = step
        self._recipe = recipe
        self._listener = listener
        self._root = StepRoot(step)
        self._settings = step.settings
        self._sandbox: Child | None = None
        self._block = -1
        self._members = {first}

    def hold(self) -> None:
        """Build, serve, take down. Never raises: what went wrong is told to the ranks."""
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        namespaces: list[int] = []
        try:
            namespaces = self._build()
            answer: dict[str, object] = {"settings": dataclasses.asdict(self._settings)}
        except Exception as error:  # a holder that dies without a word is started anew by the next rank, for an hour
            answer = failure(error)
        try:
            self._serve(json.dumps(answer).encode(), namespaces)
        finally:
            self._end()

    def _build(self) -> list[int]:
        uid, gid = os.getuid(), os.getgid()
        identity = _identity()
        root = self._root.build(lambda: self._recipe.places(self._step))
        if self._step.own_root and not self._settings.env:  # a file that no record of the cache describes
            env = environment_of(read_below(Path(root), "environment", _ENVIRONMENT_BYTES))
            self._settings = dataclasses.replace(self._settings, env=env)
        if root == str(BASE / "root"):
            account = self._step.client.account if self._step.client else ""
            write_identity(Path(root), {**identity, **_with_user(Path(root), uid, gid, self._step.home, account)})
        pid = self._start_sandbox(root, uid, gid)
        mounts, pids, ipc, user = (_namespace(pid, name) for name in ("mnt", "pid", "ipc", "user"))
        owner = linux.owner_of(mounts)
        with contextlib.suppress(OSError):
            # The sandbox has its own view of it, and squashfuse ends with the last one. What root's kernel mounted is
            # locked in this namespace; it ends with the holder.
            linux.unmount(str(BASE))
        # bubblewrap maps the user in a second user namespace inside the first; not so for root, who stays 0.
        inner = [] if os.path.sameopenfile(owner, user) else [user]
        network = [_namespace(pid, "net")] if self._step.private_network else []
        return [owner, ipc, *network, pids, mounts, *inner]

    def _start_sandbox(self, root: str, uid: int, gid: int) -> int:
        """Start bubblewrap; it is ready when it has given up its capabilities, which it does after its last mount."""
        wait_for, self._block = os.pipe2(os.O_CLOEXEC)
        told, tell = os.pipe2(os.O_CLOEXEC)
        argv = self._recipe.argv(self._root.step, root, uid=uid, gid=gid, block_fd=wait_for, info_fd=tell)
        log = BASE / "bubblewrap.log"
        with log.open("wb") as output:
            self._sandbox = spawn(argv, env=_PATH, stdout=output, new_session=False, pass_fds=(wait_for, tell))
        os.close(tell)
        os.close(wait_for)
        with open(told, "rb") as answer:
            pid = _child_pid(answer.read(65536))
        deadline = time.monotonic() + _START_S
        while pid is None or not _without_capabilities(pid):
            if pid is None or self._sandbox.wait(0.001) is not None or time.monotonic() > deadline:
                said = " ".join(log.read_text("utf-8", "replace").split())[-300:]
                raise SovctlError(
                    f"bubblewrap cannot make the isolated step on {os.uname().nodename}: {said}",
                    hint="See what this node can do: sovctl doctor isolation",
                )
        return pid

    def _serve(self, answer: bytes, namespaces: list[int]) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._listener, selectors.EVENT_READ)
            for member in self._members:
                ready.register(member, selectors.EVENT_READ)
            while self._members:
                for key, _ in ready.select(_WATCH_S):
                    if key.fileobj is self._listener:
                        self._admit(ready, answer, namespaces)
                    elif isinstance(key.fileobj, socket.socket) and not _says_something(key.fileobj):
                        self._leave(ready, key.fileobj)
                if self._sandbox_is_gone(namespaces):
                    return

    def _admit(self, ready: selectors.BaseSelector, answer: bytes, namespaces: list[int]) -> None:
        connection, _ = self._listener.accept()
        # Names without files are open to everybody on the node. Both numbers are those of our user namespace.
        if peer_uid(connection) != os.getuid():
            connection.close()
            return
        try:
            socket.send_fds(connection, [answer], namespaces)
        except OSError:
            connection.close()
            return
        connection.setblocking(False)
        self._members.add(connection)
        ready.register(connection, selectors.EVENT_READ)

    def _leave(self, ready: selectors.BaseSelector, member: socket.socket) -> None:
        ready.unregister(member)
        self._members.discard(member)
        member.close()

    def _sandbox_is_gone(self, namespaces: list[int]) -> bool:
        return bool(namespaces) and (self._sandbox is None or self._sandbox.poll() is not None)

    def _end(self) -> None:
        self._listener.close()
        if self._block >= 0:
            os.close(self._block)
        for child in (self._sandbox, self._root.server):
            if child is not None and child.wait(2.0) is None:
                child.send(signal.SIGKILL)
                child.wait(2.0)


def become_background() -> None:
    """Let go of what belongs to the rank: its session, its standard streams, its directory."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.chdir("/")


def _says_something(member: socket.socket) -> bool:
    try:
        return bool(member.recv(64))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _namespace(pid: int, name: str) -> int:
    return os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


def _child_pid(answer: bytes) -> int | None:
    try:
        value = json.loads(answer)["child-pid"]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None


def _without_capabilities(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16) == 0
    return False


def _identity() -> dict[str, str]:
    """The host's own answers on names, to be read before its root is out of sight."""
    texts = {}
    for name in ("resolv.conf", "hosts"):
        with contextlib.suppress(OSError):
            texts[name] = Path("/etc", name).read_text("utf-8", "replace")
    return texts


def _with_user(root: Path, uid: int, gid: int, home: str, account: str) -> dict[str, str]:
    """passwd and group of the image, in which the user has a name: much software fails for a number without one.

    `account`: another that has to be known by its name; empty: none.
    """
    user = group = str(uid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(gid).gr_name
    passwd = _without(read_below(root, "passwd"), user, str(uid))
    groups = _without(read_below(root, "group"), group, str(gid))
    with contextlib.suppress(KeyError):
        other = pwd.getpwnam(account) if account not in ("", user) else None
        if other is not None and other.pw_uid != uid:
            passwd = _without(passwd, account, str(other.pw_uid))
            passwd += f"{account}:x:{other.pw_uid}:{other.pw_gid}::/:/bin/false\n"
    return {
        "passwd": f"{passwd}{user}:x:{uid}:{gid}::{home}:/bin/sh\n",
        "group": f"{groups}{group}:x:{gid}:\n",
    }


def _without(text: str, name: str, number: str) -> str:
    kept = []
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) > 2 and parts[0] != name and parts[2] != number:
            kept.append(f"{line}\n")
    return "".join(kept)
