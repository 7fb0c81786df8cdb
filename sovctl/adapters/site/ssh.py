"""Many nodes over SSH at the same time, each with its own deadline. The only place that knows paramiko.

A host key that neither is in known_hosts nor has a certificate of an authority there is refused, always. What a node
sends is bounded. A node that hangs in whatever
phase costs its own deadline and nobody else's: a watchdog closes its socket, which ends every wait inside paramiko.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sovctl.adapters.own_place import own_name
from sovctl.adapters.site.ssh_known_hosts import KnownHosts, read_known_hosts, why_not_trusted
from sovctl.errors import ConfigError, SovctlError
from sovctl.ports.site import RemoteAnswer, SshFailure

LARGEST_ANSWER = 1024 * 1024
"""Bytes of stdout of one node; a verdict with the facts of 8 GPUs is 10 KiB."""
_LARGEST_STDERR = 8 * 1024
_CHUNK = 32 * 1024
_PORT = 22
_GRACE_S = 2.0
_JUMP = " to a jump host"
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
    jumps: tuple[str, ...] = ()
    """Hosts to go through, the nearest first, as ProxyJump names them."""
    command: str = ""
    """ProxyCommand: a program whose input and output is the connection."""


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
        config, known = self._read_config(), self._read_known_hosts()
        jumps = _Jumps(self, config, known, timeout_s)
        targets = {name: self.target(name, address, config) for name, address in nodes.items()}
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
                done.put((name, self._ask_one(targets[name], known, jumps, command, timeout_s)))

        for _ in range(workers):
            # Daemons: a thread inside a name lookup that hangs must not keep the process.
            threading.Thread(target=work, name="ssh", daemon=True).start()
        rounds = -(-len(nodes) // workers)
        try:
            return _collect(nodes, done, (timeout_s + _GRACE_S) * rounds, timeout_s)
        finally:
            jumps.close()

    def _ask_one(
        self, target: _Target, known: KnownHosts, jumps: _Jumps, command: str, timeout_s: float
    ) -> RemoteAnswer:
        began = time.monotonic()
        try:
            answer = _Conversation(target, known, jumps, timeout_s, self.load_keys(target)).run(command)
            left_s = began + timeout_s - time.monotonic()
            if answer.failure is SshFailure.UNREACHABLE and left_s > 0 and jumps.broken(target.jumps):
                return _Conversation(target, known, jumps, left_s, self.load_keys(target)).run(command)
            return answer
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

    def _read_known_hosts(self) -> KnownHosts:
        named = self._settings.known_hosts
        paths = [Path(text).expanduser() for text in ((named,) if named else _KNOWN_HOSTS)]
        return read_known_hosts(paths, must_exist=bool(named))

    def target(self, name: str, address: str, config: Any, user: str = "", port: int = 0) -> _Target:
        """Where a host is; `user`, `port`: as a ProxyJump names them."""
        settings = self._settings
        try:
            found = config.lookup(name)
        except Exception as error:
            # paramiko raises many kinds here (ConfigParseError, CouldNotCanonicalize, ImportError for `Match exec`).
            raise SovctlError(
                f"cannot use {settings.config_file} for {name}: {error}", hint="Correct it, or set ssh.config_file."
            ) from error
        host = found["hostname"] if found.get("hostname", name) != name else address or name
        port = port or settings.port or int(found.get("port", _PORT))
        jumps, command = found.get("proxyjump", "none"), found.get("proxycommand", "none")
        names = [found["hostkeyalias"]] if "hostkeyalias" in found else [_bracketed(name, port), _bracketed(host, port)]
        return _Target(
            address=host,
            port=port,
            user=user or settings.user or found.get("user") or own_name(),
            key_files=(settings.key_file,) if settings.key_file else tuple(found.get("identityfile", ())),
            known_as=tuple(dict.fromkeys(names)),
            jumps=() if jumps.lower() == "none" else tuple(item.strip() for item in jumps.split(",")),
            command="" if command.lower() == "none" or jumps.lower() != "none" else command,
        )

    def load_keys(self, target: _Target) -> list[Any]:
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


class _Jumps:
    """Connections to jump hosts: one each, shared by all nodes behind it."""

    def __init__(self, shell: SshShell, config: Any, known: KnownHosts, timeout_s: float) -> None:
        self._shell = shell
        self._config = config
        self._known = known
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._clients: dict[tuple[str, ...], Any] = {}
        self._failed: dict[tuple[str, ...], _JumpFailed] = {}
        self._remade: set[tuple[str, ...]] = set()
        """Connections that broke once."""

    def channel(self, jumps: tuple[str, ...], address: str, port: int, left_s: float) -> Any:
        """A connection to `address` through these hosts. Raises what paramiko raises."""
        if not self._lock.acquire(timeout=left_s):
            raise TimeoutError
        try:
            client = self._client(jumps)
        finally:
            self._lock.release()
        return client.get_transport().open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=left_s)

    def broken(self, jumps: tuple[str, ...]) -> bool:
        """Whether the connection to these hosts ended under those who use it, as it does in one of ten asks of a busy
        machine (paramiko 5; why is not known): whoever asks next makes it anew."""
        with self._lock:
            client = self._clients.get(jumps)
            if client is None:
                # Somebody else noticed, or has not yet come as far.
                return jumps in self._remade
            transport = client.get_transport()
            if transport is not None and transport.is_active():
                return jumps in self._remade
            self._clients.pop(jumps).close()
            self._remade.add(jumps)
            return True

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _client(self, jumps: tuple[str, ...]) -> Any:
        """Under the lock. A host that could not be reached is not tried again for each node behind it."""
        if jumps in self._failed:
            raise self._failed[jumps]
        if jumps not in self._clients:
            user, _, place = jumps[-1].removeprefix("ssh://").rpartition("@")
            host, port = _host_and_port(place)
            target = self._shell.target(host, "", self._config, user, port)
            target = replace(target, jumps=jumps[:-1], command=target.command if len(jumps) == 1 else "")
            talk = _Conversation(target, self._known, self, self._timeout_s, self._shell.load_keys(target), _JUMP)
            try:
                self._clients[jumps] = talk.open()
            except Exception as error:
                self._failed[jumps] = _JumpFailed(jumps[-1], talk.said(error))
                raise self._failed[jumps] from error
        return self._clients[jumps]


class _JumpFailed(Exception):
    """A host on the way could not be used."""

    def __init__(self, host: str, answer: RemoteAnswer) -> None:
        super().__init__(f"jump host {host}: {answer.problem}")
        self.failure = answer.failure or SshFailure.UNREACHABLE


class _NotTrusted(Exception):
    """The host key is refused, in words."""


class _Conversation:
    """One connection, one command."""

    def __init__(
        self, target: _Target, known: KnownHosts, jumps: _Jumps, timeout_s: float, keys: list[Any], via: str = ""
    ) -> None:
        self._target = target
        self._known = known
        self._jumps = jumps
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._keys = keys
        self._phase = f"while connecting{via}"

    def run(self, command: str) -> RemoteAnswer:
        client = None
        watchdog = threading.Timer(self._left(), lambda: _shut(self._sock))
        self._sock: Any = None
        watchdog.daemon = True
        watchdog.start()
        try:
            client = self.open()
            return self._talk(client, command)
        except Exception as error:
            return self.said(error)
        finally:
            watchdog.cancel()
            if client is not None:
                # What was said stays said, also where the way back is gone.
                with suppress(Exception):
                    client.close()
            _close(self._sock)

    def open(self) -> Any:
        """A client that is logged in. Raises _NotTrusted and what sockets and paramiko raise."""
        import paramiko

        entry = self._known_entry()
        authorities = self._known.authorities_for(self._target.known_as)
        if entry is None and not authorities:
            raise _NotTrusted(f"no host key of {' nor '.join(self._target.known_as)} is in known_hosts")
        self._sock = self._connected()
        client = paramiko.SSHClient()
        try:
            self._log_in(client, entry, authorities)
        except BaseException:
            client.close()
            _close(self._sock)
            raise
        return client

    def _connected(self) -> Any:
        target = self._target
        if target.command:
            return _proxy(target.command)
        if target.jumps:
            return self._jumps.channel(target.jumps, target.address, target.port, self._left())
        sock = socket.create_connection((target.address, target.port), self._left())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _known_entry(self) -> tuple[str, Any] | None:
        for known_as in self._target.known_as:
            entry = self._known.keys.lookup(known_as)
            if entry:
                return known_as, entry
        return None

    def _log_in(self, client: Any, entry: tuple[str, Any] | None, authorities: tuple[bytes, ...]) -> None:
        import paramiko

        known_as = entry[0] if entry else self._target.known_as[0]
        keys = [key for key in entry[1].values() if key.asbytes() not in self._known.revoked] if entry else []
        if entry and not keys:
            raise _NotTrusted("its host key is revoked in known_hosts")
        for key in keys:
            client.get_host_keys().add(known_as, key.get_name(), key)
        client.set_missing_host_key_policy(paramiko.RejectPolicy() if entry else self._policy(authorities))
        left = self._left()
        self._phase = "during the SSH handshake"
        client.connect(
            known_as,
            sock=self._sock,
            username=self._target.user,
            pkey=self._keys[0] if self._keys else None,
            allow_agent=not self._keys and "SSH_AUTH_SOCK" in os.environ,
            look_for_keys=not self._keys,
            timeout=left,
            banner_timeout=left,
            auth_timeout=left,
            channel_timeout=left,
            transport_factory=None if entry else _certificates_only(),
        )

    def _policy(self, authorities: tuple[bytes, ...]) -> Any:
        """Asked by paramiko for a host without a plain key in known_hosts, before anything of ours is sent."""
        import paramiko

        names, revoked = self._target.known_as, self._known.revoked

        class Vouched(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
            def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:  # noqa: ARG002
                blob = key.public_blob.key_blob if key.public_blob else b""
                why = why_not_trusted(blob, names, authorities, revoked)
                if not why and key.asbytes() in revoked:
                    why = "its host key is revoked in known_hosts"
                if why:
                    raise _NotTrusted(why)

        return Vouched()

    def _talk(self, client: Any, command: str) -> RemoteAnswer:
        answer = self._one_session(client, command)
        # No status and not a byte: a command that was killed, or a jump host whose connection broke. A second session
        # tells which; nodes without a jump host are not asked twice.
        nothing = answer.status is None and answer.failure is None and not answer.stdout and not answer.stderr
        return self._one_session(client, command) if nothing and self._target.jumps else answer

    def _one_session(self, client: Any, command: str) -> RemoteAnswer:
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

    def said(self, error: Exception) -> RemoteAnswer:
        """The failure in our words; paramiko's are kept where they say more."""
        import paramiko

        if isinstance(error, _JumpFailed):
            return _failed(error.failure, str(error))
        if time.monotonic() >= self._deadline - 0.05 or isinstance(error, TimeoutError):
            return _failed(SshFailure.TIMEOUT, f"no answer within {self._timeout_s:g} s {self._phase}")
        if isinstance(error, _NotTrusted):
            return _failed(SshFailure.HOST_KEY, str(error))
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


def _shut(sock: Any) -> None:
    """End every wait on it: of a socket, of a channel through a jump host, of a proxy program."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except (OSError, AttributeError):
        _close(sock)


def _close(sock: Any) -> None:
    if sock is None:
        return
    try:
        sock.close()
        if process := getattr(sock, "process", None):
            process.wait(1.0)
    except Exception:
        # A proxy program that has ended already, or does not end; it is not ours to wait for.
        return


def _proxy(command: str) -> Any:
    """paramiko closes a proxy program from two threads, and the second one would complain."""
    import paramiko

    class Proxy(paramiko.ProxyCommand):  # type: ignore[misc]
        def close(self) -> None:
            with suppress(ProcessLookupError):
                super().close()

    return Proxy(command)


def _certificates_only() -> Any:
    """paramiko prefers a plain host key, which says nothing where only an authority is known."""
    import paramiko

    class CertifiedTransport(paramiko.Transport):  # type: ignore[misc]
        @property
        def preferred_keys(self) -> tuple[str, ...]:
            return tuple(name for name in super().preferred_keys if name.endswith("-cert-v01@openssh.com"))

    return CertifiedTransport


def _host_and_port(place: str) -> tuple[str, int]:
    """`host`, `host:22`, `[::1]:22`."""
    host, colon, port = place.rpartition(":")
    if colon and port.isdigit() and (host.startswith("[") or ":" not in host):
        return host.strip("[]"), int(port)
    return place.strip("[]"), 0


def _silence_paramiko() -> None:
    """paramiko logs tracebacks of broken handshakes to stderr; what happened is in the answer."""
    import logging

    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    logging.getLogger("paramiko").propagate = False
