"""What takes longer than two seconds says on the terminal what it waits for, and leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PATIENCE_S = 60.0
# Each waits until the line was seen, so that no machine is too slow for the test, and none too fast.
SLOW = """#!/bin/sh
until [ -e {release} ]; do sleep 0.05; done
{then}
"""
NODE = "NodeName=n001 Arch=x86_64 NodeAddr=127.0.0.1 State=IDLE Partitions=main"
CASES = {
    ("node", "ls"): "asking slurmctld",
    ("node", "drain", "n001", "--reason", "new cable", "--dry-run"): "asking slurmctld",
    ("run", "ls"): "asking slurmctld and reading the records",
    ("doctor",): "looking at Slurm and at this machine",
    ("spare", "status"): "asking slurmctld",
    ("spare", "set", "1", "--dry-run"): "asking slurmctld and slurmdbd",
    (
        "submit",
        "--dry-run",
        "--image",
        "reg.example/team/train:1",
        "train.sbatch",
    ): "asking for reg.example/team/train:1",
    ("alert", "test"): "sending by webhook",
}


@dataclass
class Waiting:
    """A command that waits, its stderr a terminal."""

    words: tuple[str, ...]
    child: subprocess.Popen[bytes]
    terminal: int
    seen: str = field(default="")

    def until(self, wanted: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(wanted, self.seen):
            assert time.monotonic() < deadline, (self.words, self.seen)
            if select.select([self.terminal], [], [], 0.2)[0]:
                self.seen += self._read()

    def rest(self) -> str:
        """What stands on the terminal when it has ended."""
        while more := self._read():
            self.seen += more
        self.child.communicate(timeout=PATIENCE_S)
        return "\n".join(re.sub(r".*\r\x1b\[K", "", line) for line in self.seen.replace("\r\n", "\n").split("\n"))

    def _read(self) -> str:
        try:
            return os.read(self.terminal, 65536).decode("utf-8", "replace")
        except OSError:  # the last one that had it open is gone
            return ""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    commands, release = tmp_path / "bin", tmp_path / "release"
    commands.mkdir()
    for name in ("scontrol", "squeue", "sacctmgr", "sbatch", "skopeo"):
        then = f"echo '{NODE}'" if name == "scontrol" else "exit 1"
        (commands / name).write_text(SLOW.format(release=release, then=then))
        (commands / name).chmod(0o755)
    (tmp_path / "train.sbatch").write_text("#!/bin/sh\nsrun true\n")
    run_dir = tmp_path / ".sovctl/runs/lab-1-1795385601"
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text('{"schema": "sovctl.run/1", "job_id": "1", "run_id": "lab-1-1795385601"}')
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SOVCTL_", "XDG_"))}
    own = {"HOME": str(tmp_path), "TERM": "xterm", "SOVCTL_CLUSTER_JOURNAL_DIR": str(tmp_path / "journal")}
    return {**kept, **own, "PATH": f"{commands}:/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}


def _started(words: tuple[str, ...], env: dict[str, str]) -> Waiting:
    terminal, stderr = pty.openpty()
    argv = [sys.executable, "-m", "sovctl", *words]
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, env=env, cwd=env["HOME"]
    )
    os.close(stderr)
    return Waiting(words, child, terminal)


def test_what_is_waited_for_stands_on_the_terminal_and_goes(env: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        secret = tmp_path / "webhook"
        secret.write_text(f"http://127.0.0.1:{silent.getsockname()[1]}/\n")
        secret.chmod(0o600)
        env["SOVCTL_ALERTS_WEBHOOK_FILE"] = str(secret)
        started = [_started(words, env) for words in CASES]
        for one in started:
            one.until(rf"\r\x1b\[K{re.escape(CASES[one.words])}, \ds \.\.\.")
        (tmp_path / "release").touch()
    for one in started:
        left = one.rest()
        os.close(one.terminal)
        assert "Traceback" not in left, left
        assert CASES[one.words] not in left, (one.words, left)
