"""Starts the ranks of a training script as real processes, the way srun would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_lm.py"
DEADLINE_S = 120


@dataclass
class Launch:
    """One attempt of a run: its ranks, and how they ended."""

    directory: Path
    """Holds `checkpoints/`, `run/` and `loss.jsonl`, kept from attempt to attempt."""
    ranks: int = 2
    attempt: int = 0
    resume_from: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: object, script: Path = EXAMPLE) -> Launch:
        port = _free_port()
        for rank in range(self.ranks):
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, str(script), *map(str, arguments)],
                    env=self._environment(rank, port),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return self

    def finish(self) -> list[int]:
        """Wait for all ranks; returns their exit statuses. What they said is in `self.said`."""
        try:
            outputs = [process.communicate(timeout=DEADLINE_S) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        self.said = "".join(out + err for out, err in outputs)
        return [process.returncode for process in self.processes]

    def _environment(self, rank: int, port: int) -> dict[str, str]:
        return {
            **os.environ,
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            "SOVCTL_RUN_ID": "test-run",
            "SOVCTL_RUN_DIR": str(self.directory / "run"),
            "SOVCTL_ATTEMPT": str(self.attempt),
            "SOVCTL_CHECKPOINT_DIR": str(self.directory / "checkpoints"),
            "SOVCTL_RESUME_FROM": str(self.resume_from or ""),
            "SLURM_STEP_ID": str(self.attempt),
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_STEP_NUM_TASKS": str(self.ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **self.environment,
        }


def losses(path: Path) -> dict[int, str]:
    """Step -> the loss in hex, of the last attempt that computed it."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line["hex"] for line in lines}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
