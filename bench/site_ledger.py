"""The report of a site that has seen 10,000 incidents: the whole command, from start to the last line.

Slurm's part comes from stand-ins on PATH: a `sacct` with every execution of every job, a `squeue` with all of them. For
root the runs are somebody else's, as on a site.

make bench NAME=site_ledger
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from report import Figure, figure, publish

from sovctl.adapters.slurm.parse import ACCOUNT_COLUMNS

RUNS, INCIDENTS = 50, 200
"""Runs of a site, and incidents of each."""
TARGET_S = 2.0
DAY = 86400.0
_COLUMNS = ",".join((*ACCOUNT_COLUMNS[:-2], "FailedNode", *ACCOUNT_COLUMNS[-2:]))
_SACCT = f"""#!/bin/sh
case "$*" in *--helpformat*) echo "{_COLUMNS.replace(",", " ")}"; exit ;; esac
for word; do
    case "$word" in --delimiter=*) delimiter="${{word#*=}}" ;; --format={_COLUMNS}) known=1 ;; esac
done
[ "$known" ] || {{ echo "other columns than the records have" >&2; exit 1; }}
exec sed "s/|/$delimiter/g" "$STAND_IN/accounting"
"""
_SQUEUE = """#!/bin/sh
exec cat "$STAND_IN/queue"
"""


def write_site(
    root: Path, runs: int = RUNS, incidents: int = INCIDENTS, now: float | None = None, owner: int = os.getuid()
) -> None:
    """Records as supervisors and nodes write them: `root/work/.sovctl/runs`, `root/journal`."""
    dice = random.Random(6)
    end = time.time() if now is None else now
    drains: dict[str, list[dict[str, Any]]] = {}
    executions = []
    for number in range(1, runs + 1):
        executions += _write_run(root, number, incidents, end, dice, drains, owner)
    (root / "accounting").write_text("\n".join(executions) + "\n")
    queue = [f"{number}|{number}|N/A|RUNNING|{owner}|n[001-004]|n001||None" for number in range(1, runs + 1)]
    (root / "queue").write_text("\n".join(queue) + "\n")
    for path in (root / "work").rglob("*") if owner != os.getuid() else ():
        os.chown(path, owner, owner)
    for node, entries in drains.items():
        _write_lines(root / "journal" / "nodes" / f"{node}.jsonl", sorted(entries, key=lambda entry: entry["at"]))


def _write_run(
    root: Path,
    number: int,
    incidents: int,
    end: float,
    dice: random.Random,
    drains: dict[str, list[dict[str, Any]]],
    owner: int,
) -> list[str]:
    """Returns the executions of its job as sacct has them."""
    submitted = int(end - 30 * DAY)
    run_id = f"lab-{number}-{submitted}"
    directory = root / "work" / ".sovctl" / "runs" / run_id
    directory.mkdir(parents=True)
    record = {"schema": "sovctl.run/1", "run_id": run_id, "cluster": "lab", "job_id": str(number)}
    record |= {"submitted": submitted, "name": f"train{number}.sbatch", "user": "alice", "checkpoint_dir": "/ck"}
    (directory / "run.json").write_text(json.dumps(record))
    events: list[dict[str, Any]] = []
    executions = []
    at, step = float(submitted), 0
    for attempt in range(incidents + 1):
        began = at
        at, step = _attempt(events, attempt, incidents, at, step, 29.5 * DAY / incidents, dice, drains)
        ended = int(events[-1]["at"]) if attempt < incidents else "Unknown"
        times = f"{submitted if not attempt else int(began) - 2}|{int(began) - 1}|{int(began)}|{ended}"
        who = f"{number}|lab|alice|{owner}|{'REQUEUED' if attempt < incidents else 'RUNNING'}"
        what = f"cpu=256,gres/gpu=32,node=4|{_folded(_nodes(attempt))}||{root / 'work'}|train{number}.sbatch"
        executions.append(f"{who}|{times}|{what}")
    _write_lines(directory / "events.jsonl", events)
    return executions


def _attempt(
    events: list[dict[str, Any]],
    attempt: int,
    last: int,
    at: float,
    step: int,
    share_s: float,
    dice: random.Random,
    drains: dict[str, list[dict[str, Any]]],
) -> tuple[float, int]:
    nodes = _nodes(attempt)

    def say(moment: float, kind: str, **fields: Any) -> None:
        events.append({"at": round(moment, 3), "kind": kind, "attempt": attempt, **fields})

    say(at, "attempt_started", nodes=nodes, batch_host=nodes[0], resume_from="/ck/x", resume_step=step, gpus=8)
    say(at + 0.2, "allocated", eligible_at=int(at) - 1, allocated_at=int(at), began_at=at)
    say(at + 9, "rank_up", happened=at + 8, rank=0, node=nodes[0])
    say(at + 20, "checkpoint_loaded", happened=at + 19, step=step)
    say(at + 25, "first_step", happened=at + 24, step=step + 1)
    lasted = share_s * dice.uniform(0.5, 0.97)
    say(
        at + lasted * 0.9,
        "checkpoint_saved",
        happened=at + lasted * 0.9,
        step=step + int(lasted * 0.9),
        stall_seconds=2.0,
    )
    reached, saved, stopped = step + int(lasted), step + int(lasted * 0.9), at + lasted
    if attempt == last:
        return stopped, saved
    culprit = dice.choices(["hardware", "unknown", "user-code", "fabric"], [70, 15, 10, 5])[0]
    bad = dice.choices(nodes, [9, 1, 1, 1])[0]
    words = (
        f"{bad}: XID79 GPU 5 at 0000:64:00: GPU has fallen off the bus" if culprit == "hardware" else "all ranks died"
    )
    say(stopped, "detected", nodes=[bad], evidence=words)
    ended = {"culprit": culprit, "blamed": [bad] if culprit == "hardware" else [], "evidence": words, "signature": ""}
    say(stopped + 0.1, "attempt_ended", **ended, step=reached, checkpoint_step=saved, action="restart", why="go on")
    say(stopped + 0.2, "restart_intent", how="spare", because=words)
    say(stopped + 0.9, "killed")
    say(stopped + 1.5, "requeue_intent", exclude=[bad], because=words)
    say(stopped + 2.0, "epilogs_done")
    say(stopped + 2.5, "requeued", exclude=[bad], given_up=[], begin=int(stopped) + 4)
    if culprit == "hardware":
        incident = f"i{len(drains)}-{attempt}-{int(stopped)}"
        finding = {"code": "XID79", "probe": "xid", "severity": "fail", "evidence": words}
        told = {"incident": incident, "node": bad}
        entries = drains.setdefault(bad, [])
        entries.append(
            {
                "at": stopped,
                "kind": "drain-intended",
                "code": "XID79",
                "detected_at": stopped,
                **told,
                "findings": [finding],
            }
        )
        entries.append({"at": stopped, "kind": "drain-done", **told})
    return stopped + dice.uniform(4, 12), saved


def _nodes(attempt: int) -> list[str]:
    return [f"n{(attempt + offset) % 63 + 1:03}" for offset in range(4)]


def _folded(nodes: list[str]) -> str:
    """As Slurm writes them."""
    return f"n[{nodes[0][1:]}-{nodes[-1][1:]}]" if nodes[0] < nodes[-1] else f"n[{','.join(n[1:] for n in nodes)}]"


def _write_lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"seq": index, **entry}, separators=(",", ":")) for index, entry in enumerate(entries, 1)]
    path.write_text("\n".join(lines) + "\n")


def measure(samples: int = 5) -> list[Figure]:
    """Time the command."""
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        write_site(root, owner=os.getuid() or 65534)
        (root / "bin").mkdir()
        for command, text in (("sacct", _SACCT), ("squeue", _SQUEUE)):
            (root / "bin" / command).write_text(text)
            (root / "bin" / command).chmod(0o755)
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SOVCTL_", "SLURM", "XDG_"))}
        env = {
            **clean,
            "HOME": name,
            "STAND_IN": name,
            "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
            "SOVCTL_CLUSTER_JOURNAL_DIR": str(root / "journal"),
        }
        took: dict[str, list[float]] = {"--json": [], f"--html={root / 'report.html'}": []}
        worked: list[float] = []
        for _ in range(samples):
            for option, seconds in took.items():
                began, worked_before = time.perf_counter(), _children_s()
                done = subprocess.run(
                    [sys.executable, "-m", "sovctl", "report", "--since=31d", option],
                    cwd=root / "work",
                    env=env,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                seconds.append(time.perf_counter() - began)
                worked.append(_children_s() - worked_before)
                if done.stderr.replace(f"sovctl: the report is in {root / 'report.html'}", "").strip():
                    sys.exit(f"the report had to do without something: {done.stderr}")
                if option == "--json" and len(json.loads(done.stdout)["incidents"]) != RUNS * INCIDENTS:
                    sys.exit("the report does not show all incidents")
    words = f"sovctl report of {RUNS * INCIDENTS} incidents"
    return [
        *(
            figure(f"{words}, {option.partition('=')[0]}", seconds, "s", target=TARGET_S)
            for option, seconds in took.items()
        ),
        figure(f"{words}, CPU time", worked, "s"),
    ]


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    publish("site_ledger", measure(), {"cpus": os.cpu_count(), "load": os.getloadavg()[0]})


if __name__ == "__main__":
    main()
