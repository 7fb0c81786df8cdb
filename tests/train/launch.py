"""One attempt of examples/train_lm.py: its ranks, and how they ended."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from rank_server import RankServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_lm.py"


@dataclass
class Launch:
    """Ranks that a test starts, signals and waits for."""

    server: RankServer
    directory: Path
    """Holds `checkpoints/`, `run/` and `loss.jsonl`, kept from attempt to attempt."""
    ranks: int = 2
    attempt: int = 0
    resume_from: Path | None = None
    pids: list[int] = field(default_factory=list)

    @property
    def said(self) -> str:
        """What all ranks said so far."""
        return self._log.read_text()

    @property
    def _log(self) -> Path:
        return self.directory / f"log-{self.attempt}"

    def start(self, *arguments: object) -> Launch:
        environment = {"SOVCTL_ATTEMPT": str(self.attempt), "SOVCTL_RESUME_FROM": str(self.resume_from or "")}
        argv = [str(argument) for argument in arguments]
        self.pids = self.server.start(EXAMPLE, "__main__", self.ranks, self._log, argv=argv, environment=environment)
        return self

    def signal(self, rank: int, number: int) -> None:
        os.kill(self.pids[rank], number)

    def finish(self) -> list[int]:
        """Wait for all ranks; returns their exit statuses."""
        return self.server.wait(self.pids)


def losses(path: Path) -> dict[int, str]:
    """Step -> the loss in hex, of the last attempt that computed it."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line["hex"] for line in lines}
