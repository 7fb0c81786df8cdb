"""A lab's nodes without SSH: each is a directory of this machine, and a command for it runs here with its settings."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sovctl.adapters.command import CommandRunner
from sovctl.errors import CommandTimeout, SovctlError
from sovctl.ports import RemoteAnswer, SshFailure

_AT_ONCE = 4


class LabShell:
    """`RemoteShell` on the directory of a lab."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def ask(self, nodes: Mapping[str, str], command: str, timeout_s: float) -> dict[str, RemoteAnswer]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip(nodes, pool.map(lambda name: self._ask(name, command, timeout_s), nodes), strict=True))

    def _ask(self, name: str, command: str, timeout_s: float) -> RemoteAnswer:
        config = self._root / "nodes" / name / "sovctl.toml"
        if not config.exists():
            return RemoteAnswer(failure=SshFailure.UNREACHABLE, problem=f"{config} is not there")
        own = str(Path(sys.executable).parent)
        runner = CommandRunner(
            {
                "SOVCTL_CONFIG": str(config),
                "SOVCTL_LAB_NODE": name,
                "SLURMD_NODENAME": name,
                "PATH": f"{own}:{os.environ.get('PATH', '')}",
            }
        )
        sent_at = time.time()
        try:
            # What sshd does at the other end.
            done = runner.run(["sh", "-c", command], timeout_s=timeout_s, check=False)
        except CommandTimeout as error:
            return RemoteAnswer(failure=SshFailure.TIMEOUT, problem=error.message)
        except SovctlError as error:
            return RemoteAnswer(failure=SshFailure.UNREACHABLE, problem=error.message)
        return RemoteAnswer(done.stdout.encode(), done.stderr.encode(), done.status, sent_at, time.time())
