"""What a person waits for at a terminal: help, listings of a large site, and a TAB. No lab: recorded answers of Slurm.

make bench NAME=listings
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import Figure, as_people_have_it, figure, publish

from sovctl.adapters.command import CommandRunner

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests/data/slurm/22.05/show_node.txt"
ROUNDS = 15
NODES, RUNS = 5000, 1000
SUBMITTED = 1795385600
SETTLES_S = 11.0
"""What is made of a file that changed just now is not kept; old runs are older."""
ATTEMPTS, SAVES = 3, 10
"""Of each recorded run."""
BASH_TAB = """
source {script}
compopt() {{ :; }}
COMP_WORDS=({words}) COMP_CWORD={last}
_sovctl
[ "${{#COMPREPLY[@]}}" -gt 0 ]
"""


def main() -> None:
    """Measure and print."""
    as_people_have_it()
    publish("listings", figures(), {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)})


def figures() -> list[Figure]:
    """Every figure; each round takes every command once, so that a busy moment hits all of them."""
    with tempfile.TemporaryDirectory(prefix="sovbench-", dir="/var/tmp") as name:
        root = Path(name)
        sovctl = str(Path(sys.executable).with_name("sovctl"))
        env = _site(root, sovctl)
        commands: dict[str, Sequence[str]] = {
            "bare Python": [sys.executable, "-c", ""],
            "sovctl --help": [sovctl, "--help"],
            f"sovctl run ls --all, {RUNS} runs": [sovctl, "run", "ls", "--all"],
            f"sovctl run ls --all, {RUNS} runs, nothing kept": [
                *("env", "XDG_CACHE_HOME=/proc/none", sovctl, "run", "ls", "--all")
            ],
            f"sovctl run ls, {RUNS} runs": [sovctl, "run", "ls"],
            f"sovctl node ls, {NODES} recorded nodes": [sovctl, "node", "ls"],
            f"sovctl node ls --all, {NODES} recorded nodes": [sovctl, "node", "ls", "--all"],
            "TAB on an option (bash starts too)": _tab("sovctl", "submit", "--ntasks-per-n"),
            f"TAB on a node, {NODES} kept names (bash starts too)": _tab(sovctl, "node", "show", "n012"),
            "bare bash": ["bash", "--norc", "-c", "true"],
        }
        runner = CommandRunner(env)
        time.sleep(SETTLES_S)
        deadline = time.monotonic() + 60
        # On a machine that is too busy for the first answer within a second, a TAB has none; kept names come at once.
        while not runner.run([sovctl, "complete", "node", "n"], timeout_s=60).stdout.strip():
            if time.monotonic() > deadline:
                raise SystemExit("no names of nodes were completed within a minute")
            time.sleep(1.0)
        return _figures(_measure(commands, runner))


def _figures(taken: dict[str, list[float]]) -> list[Figure]:
    targets = {"sovctl --help": 120.0, f"sovctl run ls, {RUNS} runs": 250.0, f"sovctl run ls --all, {RUNS} runs": 250.0,
               f"sovctl run ls --all, {RUNS} runs, nothing kept": 250.0,
               f"sovctl node ls, {NODES} recorded nodes": 400.0}  # fmt: skip
    python, bash = taken["bare Python"], taken["bare bash"]
    figures = []
    for name, samples in taken.items():
        if name.startswith("bare"):
            continue
        # A target counts from bare Python on.
        below = [sample - base for sample, base in zip(samples, python, strict=True)] if name in targets else []
        other = ("bare bash", bash) if name.startswith("TAB") else ("bare Python", python)
        figures.append(figure(name, samples, "ms", versus=other[0], versus_samples=other[1]))
        if below:
            figures.append(figure(f"{name}, over bare Python", below, "ms", target=targets[name]))
    return figures


def _measure(commands: dict[str, Sequence[str]], runner: CommandRunner) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(ROUNDS + 1):  # the first one warms the caches
        for name, argv in commands.items():
            began = time.perf_counter()
            runner.run(argv, timeout_s=60)
            if turn:
                taken[name].append((time.perf_counter() - began) * 1000)
    return taken


def _tab(*words: str) -> list[str]:
    script = ROOT / "completions" / "sovctl.bash"
    line = " ".join(f"'{word}'" for word in words)
    return ["bash", "--norc", "-c", BASH_TAB.format(script=script, words=line, last=len(words) - 1)]


def _site(root: Path, sovctl: str) -> dict[str, str]:
    """A home directory with runs, and commands of Slurm that print what was recorded."""
    commands = root / "bin"
    commands.mkdir()
    (root / "nodes").write_text(_nodes())
    names = "\n".join(f"n{index:05d}" for index in range(NODES))
    (root / "names").write_text(f"{names}\n")
    for name, text in (("scontrol", f"cat {root}/nodes"), ("sinfo", f"cat {root}/names"), ("squeue", "true")):
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    (commands / "sovctl").symlink_to(sovctl)
    _write_runs(root)
    return {"HOME": str(root), "PATH": f"{commands}:/usr/bin:/bin", "XDG_STATE_HOME": "", "XDG_CACHE_HOME": ""}


def _nodes() -> str:
    """The recorded records of real nodes, again and again with other names."""
    records = [line for line in RECORDED.read_text().splitlines() if line.startswith("NodeName=")]
    made = []
    for index in range(NODES):
        record = records[index % len(records)]
        old = record.split()[0].partition("=")[2]
        made.append(record.replace(f"={old}", f"=n{index:05d}"))
    return "\n".join(made) + "\n"


def _write_runs(root: Path) -> None:
    index = root / ".local/state/sovctl/runs"
    index.mkdir(parents=True)
    for number in range(1, RUNS + 1):
        submitted = SUBMITTED + number
        run_dir = root / f"work/.sovctl/runs/lab-{number}-{submitted}"
        run_dir.mkdir(parents=True)
        entry = {"schema": "sovctl.submitted/1", "job_id": str(number), "submitted": submitted, "cluster": "",
                 "script": "train.sbatch", "run_root": str(run_dir.parent), "work_dir": str(root / "work")}  # fmt: skip
        (index / f"{number}-{submitted}.json").write_text(json.dumps(entry))
        record = {"schema": "sovctl.run/1", "run_id": run_dir.name, "cluster": "lab", "job_id": str(number),
                  "submitted": submitted, "name": "train.sbatch", "run_dir": str(run_dir),
                  "work_dir": str(root / "work"), "checkpoint_dir": str(run_dir / "checkpoints")}  # fmt: skip
        (run_dir / "run.json").write_text(json.dumps(record))
        events = [event for attempt in range(ATTEMPTS) for event in _attempt(attempt)]
        records = [{"seq": seq, "at": submitted + seq, **event} for seq, event in enumerate(events, 1)]
        lines = [json.dumps(record, separators=(",", ":")) for record in records]
        (run_dir / "events.jsonl").write_text("\n".join(lines) + "\n")


def _attempt(attempt: int) -> list[dict[str, object]]:
    """What a supervisor writes: a start, the first step, checkpoints, the end."""
    nodes = [f"n{attempt + at:05d}" for at in range(8)]
    step = attempt * SAVES * 20
    return [
        {"kind": "attempt_started", "attempt": attempt, "job_id": "1", "restarts": 0, "nodes": nodes, "spares": [],
         "batch_host": nodes[0], "resume_from": "", "resume_step": step, "excluded": []},
        {"kind": "rank_up", "attempt": attempt, "happened": 0.0, "rank": 0, "node": nodes[0]},
        {"kind": "first_step", "attempt": attempt, "happened": 0.0, "step": step + 1},
        *({"kind": "checkpoint_saved", "attempt": attempt, "step": step + 20 * save, "happened": 0.0,
           "save_seconds": 1.5, "stall_seconds": 0.2} for save in range(1, SAVES + 1)),
        {"kind": "script_ended", "attempt": attempt, "exit_status": 0 if attempt == ATTEMPTS - 1 else 1,
         "signature": "", "crash": None, "rank": None, "node": None},
    ]  # fmt: skip


if __name__ == "__main__":
    main()
