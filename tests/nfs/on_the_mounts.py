"""Runs inside the Linux of tests/nfs and prints what it finds, one line of JSON behind a mark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from sovctl.adapters.journal import FileJournal

MOUNTS = ("nfs4", "nfs3", "nfs3-nolock")
WRITERS = ("nfs4", "nfs4-other")
RECORDS, LINES = 40, 300


def doctor() -> dict[str, Any]:
    """What `sovctl doctor` says of each mount."""
    argv = [sys.executable, "-P", "-m", "sovctl", "doctor", "--json"]
    for mount in MOUNTS:
        argv += ["--dir", f"/mnt/{mount}"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", env=env, check=False)
    try:
        lines = json.loads(done.stdout)["lines"]
    except (ValueError, KeyError):
        return {"problem": done.stdout[-500:] + done.stderr[-1500:]}
    told = [line for line in lines if line["check"] == "shared-files" and "/mnt/" in line["seen"]]
    return {line["seen"].partition(" ")[0].removeprefix("/mnt/"): line for line in told}


def plain_appends() -> float:
    """The share that is left of the lines of two clients, each appended with O_APPEND and nothing else."""

    def write(path: str, who: str) -> None:
        for number in range(LINES):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f"{who} {number}\n".encode())
            os.close(descriptor)

    _both(lambda mount: write(f"/mnt/{mount}/plain", mount))
    return len(Path("/mnt/served/plain").read_bytes().splitlines()) / (2 * LINES)


def journal() -> list[int]:
    """The numbers of the records that two clients wrote into one journal."""
    _both(lambda mount: _append(FileJournal(Path(f"/mnt/{mount}/journal.jsonl"), lock_wait_s=60.0), mount))
    return [event["seq"] for event in FileJournal(Path("/mnt/served/journal.jsonl")).events()]


def _append(into: FileJournal, who: str) -> None:
    for number in range(RECORDS):
        into.append("told", who=who, number=number)


def _both(work: Any) -> None:
    child = os.fork()
    if child == 0:
        work(WRITERS[1])
        os._exit(0)
    work(WRITERS[0])
    os.waitpid(child, 0)


def main() -> None:
    """One line for the test."""
    # A server that has just started lets nobody open anything for a while.
    Path("/mnt/nfs4/ready").touch()
    mounted = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines() if ":/" in line]
    found = {"mounts": dict(mounted), "doctor": doctor()}
    found |= {"plain": plain_appends(), "journal": journal()}
    print(f"@@{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
