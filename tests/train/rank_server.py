"""Ranks that a test starts: forked from a process that has torch imported already, 20 ms instead of 3 s."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ports import free_ports
from rank_forker import DEADLINE_S

from sovctl.lab.cluster import PortClaims

_FORKER = Path(__file__).with_name("rank_forker.py")


class RankServer:
    """The side of a test."""

    def __init__(self) -> None:
        self._claims = PortClaims()
        self._server = subprocess.Popen(
            [sys.executable, str(_FORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )
        self._ask({"wait": []})

    def start(self, script: Path, function: str, ranks: int, log: Path, **arguments: Any) -> list[int]:
        """Fork `ranks` processes that call `function(**arguments)` of a script, told apart by their environment."""
        nodes: list[str] = arguments.pop("nodes", ["n001"] * ranks)
        run: dict[str, str] = arguments.pop("environment", {})
        (port,) = free_ports(1, self._claims)
        environments = [
            {
                "SOVCTL_RUN_ID": "test-run",
                "SOVCTL_CHECKPOINT_DIR": str(log.parent / "checkpoints"),
                "SOVCTL_RUN_DIR": str(log.parent / "run"),
                "SOVCTL_RESUME_FROM": "",
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "LOCAL_RANK": str(nodes[:rank].count(nodes[rank])),
                "LOCAL_WORLD_SIZE": str(nodes.count(nodes[rank])),
                "SLURMD_NODENAME": nodes[rank],
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                **run,
            }
            for rank in range(ranks)
        ]
        request = {"module": str(script), "function": function, "arguments": arguments, "environments": environments}
        pids: list[int] = self._ask({**request, "log": str(log)})["pids"]
        return pids

    def wait(self, pids: list[int]) -> list[int]:
        """Their exit statuses; negative: killed by that signal."""
        return [os.waitstatus_to_exitcode(status) for status in self._ask({"wait": pids})["statuses"]]

    def call(self, script: Path, function: str, ranks: int, log: Path, **arguments: Any) -> str:
        """Start and wait; every rank must succeed. Returns what they said."""
        statuses = self.wait(self.start(script, function, ranks, log, **arguments))
        said = log.read_text()
        assert statuses == [0] * ranks, said
        return said

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(DEADLINE_S)
        self._claims.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer
