"""A real sshd on loopback that stands for nodes: one port a node, and a directory a node to run commands in."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ports import free_ports

from sovctl.lab.cluster import PortClaims

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_PORTS_EACH = 16
"""sshd listens on no more (MAX_LISTEN_SOCKS), so many nodes need a few of them."""


class LoopbackSshd:
    """`with LoopbackSshd(root, names) as nodes`. In a node's directory `answer` replaces what a command would do.

    The node is chosen by the port: the command runs in `<root>/nodes/<name>`, so relative paths are the node's own.
    """

    def __init__(self, root: Path, names: Sequence[str], certificate_for: str = "") -> None:
        """`certificate_for`: the host key gets a certificate for this name, signed by the authority in `ca`."""
        self._certificate_for = certificate_for
        self.root = root
        self.names = tuple(names)
        # Claimed: an sshd that finds one of its ports taken goes on with the others, and somebody else answers there.
        self._claims = PortClaims()
        self.ports = dict(zip(self.names, free_ports(len(names), self._claims), strict=True))
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> LoopbackSshd:
        assert SSHD, "sshd is not installed"
        self._write_files()
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with open(self.root / "sshd.log", "wb") as log:
            for conf in sorted(self.root.glob("sshd_config.*")):
                self._processes.append(
                    subprocess.Popen(
                        [SSHD, "-D", "-e", "-f", str(conf)],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        self._await_listening()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(10)
        self._claims.close()

    def node(self, name: str) -> Path:
        """The directory that commands for this node run in."""
        return self.root / "nodes" / name

    def answer(self, name: str, script: str) -> None:
        """From now on this node answers with the output of a shell script, whatever it is asked."""
        (self.node(name) / "answer").write_text(script, "utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """Settings with which sovctl reaches these nodes."""
        return {
            "SOVCTL_SSH_CONFIG_FILE": str(self.root / "ssh_config"),
            "SOVCTL_SSH_KNOWN_HOSTS": str(self.root / "known_hosts"),
        }

    def _write_files(self) -> None:
        for key in ("host", "id"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / key)]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        if self._certificate_for:
            self._certify()
        public = (self.root / "host.pub").read_text("utf-8").split()
        hosts = [f"{name} {public[0]} {public[1]}\n" for name in self.names]
        (self.root / "known_hosts").write_text("".join(hosts), "utf-8")
        shutil.copy(self.root / "id.pub", self.root / "authorized_keys")
        for name, port in self.ports.items():
            self.node(name).mkdir(parents=True)
            (self.root / "nodes" / str(port)).symlink_to(name)
        command = self.root / "command.sh"
        command.write_text(
            f"cd '{self.root}/nodes/'${{SSH_CONNECTION##* }} || exit 97\n"
            "[ -e answer ] && exec sh ./answer\n"
            # A command that is the node's own.
            "PATH=.:$PATH\n"
            'exec sh -c "$SSH_ORIGINAL_COMMAND"\n',
            "utf-8",
        )
        ports = list(self.ports.values())
        for first in range(0, len(ports), _PORTS_EACH):
            text = self._sshd_config(command, ports[first : first + _PORTS_EACH])
            (self.root / f"sshd_config.{first:03d}").write_text(text, "utf-8")
        blocks = [
            f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  HostKeyAlias {name}\n"
            for name, port in self.ports.items()
        ]
        common = f"Host *\n  IdentityFile {self.root / 'id'}\n  User {getpass.getuser()}\n"
        (self.root / "ssh_config").write_text("".join(blocks) + common, "utf-8")

    def _certify(self) -> None:
        authority = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / "ca")]
        subprocess.run(authority, check=True, stdin=subprocess.DEVNULL)
        sign = ["ssh-keygen", "-q", "-s", str(self.root / "ca"), "-I", "host", "-h", "-V", "-1h:+1d"]
        argv = [*sign, "-n", self._certificate_for, str(self.root / "host.pub")]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)

    def _sshd_config(self, command: Path, ports: Sequence[int]) -> str:
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        lines = [f"Port {port}" for port in ports] + [
            "ListenAddress 127.0.0.1",
            f"HostKey {self.root / 'host'}",
            *([f"HostCertificate {self.root / 'host-cert.pub'}"] if self._certificate_for else []),
            "PidFile none",
            f"AuthorizedKeysFile {self.root / 'authorized_keys'}",
            f"ForceCommand sh {command}",
            # A home without start-up files: what a person's shell does at login is no business of a measurement.
            f"SetEnv HOME={self.root} PATH={path}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "PermitRootLogin yes",
            "MaxStartups 1000",
            "LogLevel ERROR",
        ]
        return "\n".join(lines) + "\n"

    def _await_listening(self) -> None:
        deadline = time.monotonic() + 20
        for port in self.ports.values():
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        said = (self.root / "sshd.log").read_text("utf-8", "replace")
                        raise AssertionError(f"sshd does not listen: {said}") from None
