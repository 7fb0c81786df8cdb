"""Runs a task in the isolated step of its node: starts the holder or finds it, joins, waits, passes signals on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from sovctl.adapters.isolation import linux
from sovctl.adapters.isolation.step_holder import Recipe, StepHolder, become_background, failure, peer_uid
from sovctl.errors import SovctlError, TryLaterError
from sovctl.model.image import ImageSettings
from sovctl.model.isolated import IsolatedStep, IsolatedTask
from sovctl.model.signals import PASSED_ON

_JOIN_S = 3600.0
"""The first rank may have to unpack an image first."""
_NAMES = 8
_OF_TERMINAL = (signal.SIGTTIN, signal.SIGTTOU)
"""They stop the task by themselves, and this process with it."""
_PASSED_ON = (*(number for number in PASSED_ON if number not in _OF_TERMINAL), signal.SIGCONT)
_COMM_OF_SLURM = "slurmstepd"
_MOST_DESCRIPTORS = 1 << 20
_SEE_NODE = "See what this node can do: sovctl doctor isolation"
_NOT_FOUND, _NOT_RUNNABLE = 127, 126
_START_BYTES, _LINE_BYTES = 4096, 256
"""Of a program: where linkers put the name of its loader; what the kernel reads of a line after `#!`."""
_PT_INTERP = 3
"""The program header that names the loader: elf(5)."""


class IsolatedSteps:
    """Joins tasks to the steps of this node."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def run(
        self, key: str, prepare: Callable[[], IsolatedStep], task_of: Callable[[ImageSettings], IsolatedTask]
    ) -> int:
        """Run one task to its end; its exit status, negative when a signal killed it.

        `key`: the same for all ranks of a step that share their namespaces. `prepare` is called by the first of them.
        Raises SovctlError when the step cannot be made.
        """
        connection, answer, namespaces = self._join(key, prepare)
        with connection:
            if "error" in answer:
                raise _told(answer)
            return _run_inside(task_of(_settings(answer.get("settings"))), namespaces)

    def _join(self, key: str, prepare: Callable[[], IsolatedStep]) -> tuple[socket.socket, dict[str, Any], list[int]]:
        deadline = time.monotonic() + _JOIN_S
        turn = 0
        alive: list[socket.socket] = []
        while time.monotonic() < deadline:
            name = _address(key, turn)
            connection = _connected(name)
            if connection is None:
                alive += self._start_holder(name, prepare)
                continue
            if peer_uid(connection) != os.getuid():
                # Somebody else took the name; a name for each try, so that they would have to take them all.
                connection.close()
                turn += 1
                if turn >= _NAMES:
                    break
                continue
            data, descriptors = _received(connection)
            if data:
                for first in alive:
                    first.close()
                return connection, json.loads(data), descriptors
            connection.close()
        raise TryLaterError("the isolated step of this node does not come up", hint=_SEE_NODE)

    def _start_holder(self, name: str, prepare: Callable[[], IsolatedStep]) -> list[socket.socket]:
        """Be the first: have the name, prepare, and leave a holder behind. Does nothing when another is the first.

        Returns what keeps the holder until this rank has joined, and tells it when this rank dies before that.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with listener:
            try:
                listener.bind(name)
            except OSError:
                time.sleep(0.002)
                return []
            listener.listen(1024)
            try:
                step = prepare()
            except SovctlError as error:
                _tell_waiting(listener, error)
                raise
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if (child := os.fork()) == 0:
                ours.close()
                theirs.setblocking(False)
                _become_holder(step, self._recipe, listener, theirs)
            theirs.close()
            os.waitpid(child, 0)
            return [ours]


def _become_holder(step: IsolatedStep, recipe: Recipe, listener: socket.socket, first: socket.socket) -> NoReturn:
    """Twice forked, so that no rank has it as a child."""
    try:
        if os.fork() == 0:
            become_background()
            StepHolder(step, recipe, listener, first).hold()
    finally:
        os._exit(0)


def _address(key: str, turn: int) -> str:
    text = f"{os.getuid()}:{key}:{turn}"
    return f"\0sovctl-{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def _connected(name: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(name)
    except OSError:
        connection.close()
        return None
    return connection


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    """The holder's answer; empty: it was just leaving, or who prepared the step died, before it could answer."""
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 8)
    except ConnectionResetError:  # of a listener that closes with connections waiting
        return b"", []
    return data, list(descriptors)


def _tell_waiting(listener: socket.socket, error: SovctlError) -> None:
    """The other ranks so far: each would only meet the same, one after the other."""
    listener.setblocking(False)
    answer = json.dumps(failure(error)).encode()
    with contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                if peer_uid(connection) == os.getuid():
                    connection.send(answer)


def _told(answer: dict[str, Any]) -> SovctlError:
    error = SovctlError(str(answer["error"]), hint=str(answer.get("hint", "")))
    error.exit_code = int(answer.get("status", 1))
    return error


def _settings(value: object) -> ImageSettings:
    fields = value if isinstance(value, dict) else {}
    return ImageSettings(
        env=tuple((name, text) for name, text in fields.get("env", ())), work_dir=str(fields.get("work_dir", ""))
    )


def _run_inside(task: IsolatedTask, namespaces: Iterable[int]) -> int:
    """Enter the namespaces, fork the task into them, and wait for it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    host_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    last = linux.last_capability()
    try:
        for descriptor in namespaces:  # in the order in which the holder gives them
            linux.setns(descriptor)
    except OSError as error:
        raise SovctlError(
            f"cannot join the isolated step: {error.strerror} ({error.filename})", hint=_SEE_NODE
        ) from error
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        _become_task(task, last, mask)
    linux.give_up_privileges(last)
    return _wait_for(child, host_proc)


def _become_task(task: IsolatedTask, last_capability: int, mask: Iterable[int]) -> NoReturn:
    status = _NOT_RUNNABLE
    try:
        linux.give_up_privileges(last_capability)
        linux.die_with_parent()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _close_descriptors(task.environment)
        _change_directory(task)
        if task.look is not None:
            os.write(1, f"{task.look()}\n".encode())
            os._exit(0)
        os.execvpe(task.command[0], list(task.command), task.environment)
    except FileNotFoundError:
        # The kernel says the same of a program that is not there and of one whose interpreter is not.
        missing = _interpreter_of(task.command[0], task.environment.get("PATH", ""))
        status = _NOT_RUNNABLE if missing else _NOT_FOUND
        lacks = f"{task.command[0]} needs {missing}, which the image has not"
        _say(f"sovctl: {lacks if missing else f'there is no program {task.command[0]} in the image'}")
    except OSError as error:
        _say(f"sovctl: cannot run {task.command[0]} in the image: {error.strerror}")
    except ValueError as error:  # an image may say anything of its environment
        why = f"its environment or a word of the command is not valid: {error}"
        _say(f"sovctl: cannot run {task.command[0]} in the image: {why}")
    finally:
        os._exit(status)


def _interpreter_of(program: str, path: str) -> str:
    """What a program that is there is run by: after `#!`, or the loader of one linked to libraries; empty: unknown."""
    for place in [program] if "/" in program else [f"{folder or '.'}/{program}" for folder in path.split(":")]:
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            start = os.read(descriptor, _START_BYTES)
        except OSError:  # a directory
            continue
        finally:
            os.close(descriptor)
        line = start.partition(b"\n")[0][:_LINE_BYTES]
        words = line[2:].split() if line.startswith(b"#!") else [_loader(start)]
        return words[0].decode("utf-8", "replace") if words else ""
    return ""


def _loader(start: bytes) -> bytes:
    """What loads the libraries of a 64-bit program, from the start of its file; empty: none, or not to be seen."""
    if len(start) < 64 or not start.startswith(b"\x7fELF\x02\x01"):  # 64 bits, little-endian
        return b""
    headers, size, count = *struct.unpack_from("<Q", start, 32), *struct.unpack_from("<HH", start, 54)
    for place in range(headers, min(headers + size * count, len(start) - 55), max(size, 56)):
        kind, offset, length = struct.unpack_from("<I4xQ16xQ", start, place)
        if kind == _PT_INTERP:
            return start[offset : offset + length].rstrip(b"\0")
    return b""


def _change_directory(task: IsolatedTask) -> None:
    for path in (task.work_dir, task.fallback_dir, "/"):
        with contextlib.suppress(OSError):
            os.chdir(path)
            task.environment["PWD"] = os.getcwd()  # noqa: PTH109 - nothing may be imported here any more
            return


def _close_descriptors(environment: dict[str, str]) -> None:
    """What was open outside stays outside; but for the one over which PMI2 talks to slurmstepd."""
    word = environment.get("PMI_FD", "")
    kept = int(word) if word.isdigit() and 2 < int(word) < 65536 else 2
    os.closerange(3, kept)
    os.closerange(kept + 1, _MOST_DESCRIPTORS)


def _wait_for(child: int, host_proc: int) -> int:
    while True:
        told = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if told.si_signo != signal.SIGCHLD and _only_for_us(told, host_proc):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, told.si_signo)


def _only_for_us(told: signal.struct_siginfo, host_proc: int) -> bool:
    """slurmstepd and the terminal signal every process of the step; passing that on would signal the task twice."""
    if told.si_code > 0:  # SI_KERNEL: the terminal
        return False
    try:
        descriptor = os.open(f"{told.si_pid}/comm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=host_proc)
    except OSError:
        return True
    try:
        return os.read(descriptor, 64).decode("ascii", "replace").strip() != _COMM_OF_SLURM
    finally:
        os.close(descriptor)


def _say(words: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{words}\n".encode("utf-8", "backslashreplace"))
