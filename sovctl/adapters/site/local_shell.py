"""Nodes that need no SSH: this machine itself, and those of a lab, which are directories of this machine."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.errors import CommandTimeout, SovctlError
from sovctl.ports.site import RemoteAnswer, SshFailure

_AT_ONCE = 4
UNREACHABLE = "unreachable"
"""A file in the directory of a lab's node that is dead or frozen: sshd would not answer there either."""


class LocalShell:
    """`RemoteShell` on this machine."""

    def __init__(self, lab: Path | None = None) -> None:
        """`lab`: directory of a lab, each of whose nodes has settings of its own; None: the node is this machine."""
        self._lab = lab

    def ask(self, nodes: Mapping[str, str], command: str, timeout_s: float) -> dict[str, RemoteAnswer]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip(nodes, pool.map(lambda name: self._ask(name, command, timeout_s), nodes), strict=True))

    def _ask(self, name: str, command: str, timeout_s: float) -> RemoteAnswer:
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}
        if self._lab is not None:
            config = self._lab / "nodes" / name / "sovctl.toml"
            if not config.exists():
                return RemoteAnswer(failure=SshFailure.UNREACHABLE, problem=f"{config} is not there")
            if (self._lab / "nodes" / name / UNREACHABLE).exists():
                return RemoteAnswer(failure=SshFailure.TIMEOUT, problem=f"{name} is dead or frozen")
            env |= {"SOVCTL_CONFIG": str(config), "SOVCTL_LAB_NODE": name, "SLURMD_NODENAME": name}
        runner = CommandRunner(env)
        sent_at = time.time()
        try:
            # What sshd does at the other end; relative paths are the node's own.
            where = f"cd {shlex.quote(str(self._lab / 'nodes' / name))} && " if self._lab else ""
            done = runner.run(["sh", "-c", where + command], timeout_s=timeout_s, check=False)
        except CommandTimeout as error:
            return RemoteAnswer(failure=SshFailure.TIMEOUT, problem=error.message)
        except SovctlError as error:
            return RemoteAnswer(failure=SshFailure.UNREACHABLE, problem=error.message)
        return RemoteAnswer(done.stdout.encode(), done.stderr.encode(), done.status, sent_at, time.time())
