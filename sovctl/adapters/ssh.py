"""Many nodes over SSH at the same time, each with its own deadline. The only place that knows paramiko.

A host key that is not in known_hosts is refused, always. What a node sends is bounded. A node that hangs in whatever
phase costs its own deadline and nobody else's: a watchdog closes its socket, which ends every wait inside paramiko.
"""

from __future__ import annotations

import getpass
import os
import queue
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovctl.errors import ConfigError, SovctlError
from sovctl.ports import RemoteAnswer, SshFailure

LARGEST_ANSWER = 1024 * 1024
"""Bytes of stdout of one node; a verdict with the facts of 8 GPUs is 10 KiB."""
_LARGEST_STDERR = 8 * 1024
_CHUNK = 32 * 1024
_PORT = 22
_GRACE_S = 2.0
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True)
class SshSettings:
    """What the configuration says; empty: what OpenSSH's files say."""

    user: str = ""
    port: int = 0
    key_file: str = ""
    config_file: str = "~/.ssh/config"
    known_hosts: str = ""
    at_once: int = 64


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a node is and by which name its key is known."""

    address: str
    port: int
    user: str
    key_files: tuple[str, ...]
    known_as: tuple[str, ...]
    """Names under which known_hosts may have its key, the one to show first."""
    obstacle: str = ""


class SshShell:
    """`RemoteShell` over paramiko."""

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._keys: dict[str, Any] = {}

    def ask(self, nodes: Mapping[str, str], command: str, timeout_s: float) -> dict[str, RemoteAnswer]:
        if not nodes:
            return {}
        _silence_paramiko()
        config, host_keys = self._read_config(), self._read_host_keys()
        targets = {name: self._target(name, address, config) for name, address in nodes.items()}
        todo: queue.SimpleQueue[str] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[str, RemoteAnswer]] = queue.SimpleQueue()
        for name in nodes:
            todo.put(name)
        workers = max(1, min(self._settings.at_once, len(nodes)))

        def work() -> None:
            while True:
                try:
                    name = todo.get_nowait()
                except queue.Empty:
                    return
                done.put((name, self._ask_one(name, targets[name], host_keys, command, timeout_s)))

        for _ in range(workers):
            # Daemons: a thread inside a name lookup that hangs must not keep the process.
            threading.Thread(target=work, name="ssh", daemon=True).start()
        rounds = -(-len(nodes) // workers)
        return _collect(nodes, done, (timeout_s + _GRACE_S) * rounds, timeout_s)

    def _ask_one(self, name: str, target: _Target, host_keys: Any, command: str, timeout_s: float) -> RemoteAnswer:
        try:
            return _Conversation(name, target, host_keys, timeout_s, self._load_keys(target)).run(command)
        except Exception as error:
            # A library that stumbles over what a node sends is about that node, never about the sweep.
            return _failed(SshFailure.UNREACHABLE, f"{type(error).__name__}: {error}")

    # Configuration

    def _read_config(self) -> Any:
        import paramiko

        path = Path(self._settings.config_file).expanduser()
        try:
            return paramiko.SSHConfig.from_path(str(path)) if path.exists() else paramiko.SSHConfig()
        except (OSError, UnicodeDecodeError, paramiko.SSHException) as error:
            raise ConfigError(str(path), str(error), hint="Correct it, or set ssh.config_file.") from error

    def _read_host_keys(self) -> Any:
        import paramiko

        keys = paramiko.HostKeys()
        named = self._settings.known_hosts
        for text in (named,) if named else _KNOWN_HOSTS:
            path = Path(text).expanduser()
            try:
                keys.load(str(path))
            except FileNotFoundError:
                if named:
                    raise ConfigError(str(path), "ssh.known_hosts names a file that is not there") from None
            except (OSError, UnicodeDecodeError, paramiko.SSHException) as error:
                raise ConfigError(str(path), str(error), hint="Correct it, or set ssh.known_hosts.") from error
        return keys

    def _target(self, name: str, address: str, config: Any) -> _Target:
        settings = self._settings
        try:
            found = config.lookup(name)
        except Exception as error:
            # paramiko raises many kinds here (ConfigParseError, CouldNotCanonicalize, ImportError for `Match exec`).
            raise SovctlError(
                f"cannot use {settings.config_file} for {name}: {error}", hint="Correct it, or set ssh.config_file."
            ) from error
        host = found["hostname"] if found.get("hostname", name) != name else address or name
        port = settings.port or int(found.get("port", _PORT))
        obstacle = next((key for key in ("proxycommand", "proxyjump") if found.get(key, "none") != "none"), "")
        names = [found["hostkeyalias"]] if "hostkeyalias" in found else [_bracketed(name, port), _bracketed(host, port)]
        return _Target(
            address=host,
            port=port,
            user=settings.user or found.get("user") or getpass.getuser(),
            key_files=(settings.key_file,) if settings.key_file else tuple(found.get("identityfile", ())),
            known_as=tuple(dict.fromkeys(names)),
            obstacle=f"its SSH configuration asks for {obstacle}, which sovctl does not follow" if obstacle else "",
        )

    def _load_keys(self, target: _Target) -> list[Any]:
        """Each key file is read once for all nodes; one that cannot be read is left to the others."""
        import paramiko

        loaded = []
        for text in target.key_files:
            with self._lock:
                if text not in self._keys:
                    try:
                        self._keys[text] = paramiko.PKey.from_path(str(Path(text).expanduser()))
                    except Exception:
                        # Absent, encrypted, or of a kind paramiko does not know: the agent may have it.
                        self._keys[text] = None
                key = self._keys[text]
            if key is not None:
                loaded.append(key)
        return loaded


class _Conversation:
    """One connection, one command."""

    def __init__(self, name: str, target: _Target, host_keys: Any, timeout_s: float, keys: list[Any]) -> None:
        self._name = name
        self._target = target
        self._host_keys = host_keys
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._keys = keys
        self._phase = "while connecting"

    def run(self, command: str) -> RemoteAnswer:
        import paramiko

        if self._target.obstacle:
            return _failed(SshFailure.UNREACHABLE, f"{self._name}: {self._target.obstacle}")
        known = self._known_entry()
        if known is None:
            where = " nor ".join(self._target.known_as)
            return _failed(SshFailure.HOST_KEY, f"no host key of {where} is in known_hosts")
        try:
            sock = socket.create_connection((self._target.address, self._target.port), self._left())
        except OSError as error:
            return self._said(error)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = paramiko.SSHClient()
        watchdog = threading.Timer(self._left(), _shut, (sock,))
        watchdog.daemon = True
        watchdog.start()
        try:
            self._log_in(client, sock, *known)
            return self._talk(client, command)
        except Exception as error:
            return self._said(error)
        finally:
            watchdog.cancel()
            client.close()
            sock.close()

    def _known_entry(self) -> tuple[str, Any] | None:
        for known_as in self._target.known_as:
            entry = self._host_keys.lookup(known_as)
            if entry:
                return known_as, entry
        return None

    def _log_in(self, client: Any, sock: socket.socket, known_as: str, entry: Any) -> None:
        import paramiko

        for kind in entry:
            client.get_host_keys().add(known_as, kind, entry[kind])
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        left = self._left()
        self._phase = "during the SSH handshake"
        client.connect(
            known_as,
            sock=sock,
            username=self._target.user,
            pkey=self._keys[0] if self._keys else None,
            allow_agent=not self._keys and "SSH_AUTH_SOCK" in os.environ,
            look_for_keys=not self._keys,
            timeout=left,
            banner_timeout=left,
            auth_timeout=left,
            channel_timeout=left,
        )

    def _talk(self, client: Any, command: str) -> RemoteAnswer:
        channel = client.get_transport().open_session(timeout=self._left())
        self._phase = "after the command was sent"
        channel.settimeout(self._left())
        sent_at = time.time()
        channel.exec_command(command)
        parts, size, first_at = [], 0, 0.0
        while chunk := channel.recv(_CHUNK):
            first_at = first_at or time.time()
            parts.append(chunk)
            size += len(chunk)
            if size > LARGEST_ANSWER:
                flood = f"it sent more than {LARGEST_ANSWER // 1024} KiB"
                return RemoteAnswer(failure=SshFailure.FLOOD, problem=flood, sent_at=sent_at, answered_at=first_at)
            channel.settimeout(self._left())
        stderr = channel.recv_stderr(_LARGEST_STDERR) if channel.recv_stderr_ready() else b""
        status = channel.recv_exit_status() if channel.status_event.wait(self._left()) else -1
        if status < 0 and time.monotonic() >= self._deadline:
            raise TimeoutError
        return RemoteAnswer(b"".join(parts), stderr, None if status < 0 else status, sent_at, first_at or time.time())

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _said(self, error: Exception) -> RemoteAnswer:
        """The failure in our words; paramiko's are kept where they say more."""
        import paramiko

        if time.monotonic() >= self._deadline - 0.05 or isinstance(error, TimeoutError):
            return _failed(SshFailure.TIMEOUT, f"no answer within {self._timeout_s:g} s {self._phase}")
        if isinstance(error, paramiko.BadHostKeyException):
            return _failed(SshFailure.HOST_KEY, "its host key is not the one in known_hosts")
        if isinstance(error, paramiko.AuthenticationException):
            return _failed(SshFailure.REFUSED, f"it does not let {self._target.user} in: {error}")
        if isinstance(error, OSError):
            where = f"{self._target.address} port {self._target.port}"
            return _failed(SshFailure.UNREACHABLE, f"{where}: {error.strerror or error}")
        words = str(error) or type(error).__name__
        if "No authentication methods" in words or "private key" in words:
            return _failed(SshFailure.REFUSED, f"no key to log in with as {self._target.user}: {words}")
        return _failed(SshFailure.UNREACHABLE, f"{words} {self._phase}")


def _collect(
    nodes: Iterable[str], done: queue.SimpleQueue[tuple[str, RemoteAnswer]], within_s: float, timeout_s: float
) -> dict[str, RemoteAnswer]:
    deadline = time.monotonic() + within_s
    names = list(nodes)
    answers: dict[str, RemoteAnswer] = {}
    while len(answers) < len(names) and (left := deadline - time.monotonic()) > 0:
        try:
            name, answer = done.get(timeout=left)
        except queue.Empty:
            break
        answers[name] = answer
    late = _failed(SshFailure.TIMEOUT, f"no answer within {timeout_s:g} s, not even whether its name is known")
    return {name: answers.get(name, late) for name in names}


def _bracketed(host: str, port: int) -> str:
    """How known_hosts writes a host on a port of its own."""
    return host if port == _PORT else f"[{host}]:{port}"


def _failed(failure: SshFailure, problem: str) -> RemoteAnswer:
    return RemoteAnswer(failure=failure, problem=" ".join(problem.split())[:300])


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _silence_paramiko() -> None:
    """paramiko logs tracebacks of broken handshakes to stderr; what happened is in the answer."""
    import logging

    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    logging.getLogger("paramiko").propagate = False
