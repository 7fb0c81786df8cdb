"""A real training run in a lab, driven from outside the way a user would: `sovctl submit`, then look at its files."""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovctl.adapters.command import CommandRunner, Completed
from sovctl.adapters.journal import FileJournal
from sovctl.errors import SovctlError
from sovctl.lab.cluster import Lab

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TOY_SCRIPT = """#!/bin/bash
#SBATCH --job-name=toy
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
srun "$PYTHON" -P -m sovctl.lab.toy_training "$@"
"""
"""The training of sovctl.lab.toy_training: takes the same options and leaves the same losses file as train_lm.py."""
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """What to train."""

    steps: int = 60
    save_every: int = 10
    step_seconds: float = 0.2
    nodes: int = 4
    extra: tuple[str, ...] = ()
    """More options of the training."""
    sbatch: tuple[str, ...] = ()
    """More options of sovctl submit."""
    toy: bool = False
    """sovctl.lab.toy_training in place of the language model: no torch, starts in a second."""


@dataclass(slots=True)
class Training:
    """One run of examples/train_lm.py or of the toy; `work_dir` must be writable for `user` (empty: ourselves)."""

    lab: Lab
    work_dir: Path
    spec: TrainingSpec
    user: str = ""
    job_id: str = ""
    _runner: CommandRunner = field(init=False)

    def __post_init__(self) -> None:
        self._runner = CommandRunner(self.lab.environment)

    def submit(self) -> str:
        """Submit the run; returns the job id."""
        script = self._toy_script() if self.spec.toy else self._example()
        options = ["--parsable", f"--nodes={self.spec.nodes}", f"--chdir={self.work_dir}", *self.spec.sbatch]
        arguments = [
            f"--steps={self.spec.steps}",
            f"--save-every={self.spec.save_every}",
            f"--step-seconds={self.spec.step_seconds}",
            "--loss-log=losses.jsonl",
            *self.spec.extra,
        ]
        said = self.sovctl("submit", *options, str(script), *arguments)
        self.job_id = said.stdout.strip().partition(";")[0]
        return self.job_id

    def _example(self) -> Path:
        script = EXAMPLES / "train.sbatch"
        if not script.exists():
            raise SovctlError(f"{script} is not there", hint="Run `make demo` in a checkout of sovctl.")
        (self.work_dir / "train_lm.py").write_bytes((EXAMPLES / "train_lm.py").read_bytes())
        return script

    def _toy_script(self) -> Path:
        script = self.work_dir / "toy.sbatch"
        script.write_text(TOY_SCRIPT)
        return script

    def sovctl(self, *arguments: str, check: bool = True) -> Completed:
        """A sovctl command as the run's user."""
        return self.command(sys.executable, "-P", "-m", "sovctl", *arguments, check=check)

    def command(self, *argv: str, check: bool = True, timeout_s: float = 60.0) -> Completed:
        """Any command as the run's user, with the lab's environment."""
        env = {"PYTHON": sys.executable, "XDG_STATE_HOME": str(self.work_dir / ".state")}
        # The ranks share two cores: more threads than one each only hinder one another.
        env |= {"OMP_NUM_THREADS": "1"}
        return self._runner.run([*as_user(self.user), *argv], timeout_s=timeout_s, env=env, check=check)

    @property
    def run_dir(self) -> Path | None:
        """The run's directory, once its supervisor has made it."""
        found = list((self.work_dir / ".sovctl" / "runs").glob(f"*-{self.job_id}-*"))
        return found[0] if found else None

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """The run's journal so far."""
        directory = self.run_dir
        events = FileJournal(directory / "events.jsonl").events() if directory else []
        return [event for event in events if not kind or event["kind"] == kind]

    def losses(self) -> list[dict[str, Any]]:
        """One record a step and attempt, in the order computed."""
        path = self.work_dir / "losses.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def loss_curve(self) -> dict[int, str]:
        """The exact loss of each step. Raises SovctlError when a repeated step gave another one."""
        curve: dict[int, str] = {}
        for record in self.losses():
            if curve.setdefault(record["step"], record["hex"]) != record["hex"]:
                raise SovctlError(f"step {record['step']} had two losses: {curve[record['step']]} and {record['hex']}")
        return curve

    def output(self) -> str:
        """The job's output file."""
        path = self.work_dir / f"slurm-{self.job_id}.out"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def await_step(self, step: int, seconds: float = 90.0) -> None:
        """Wait until a step was computed."""
        self.wait(f"step {step}", lambda: any(item["step"] >= step for item in self.losses()), seconds)

    def await_event(self, kind: str, seconds: float = 90.0, **fields: Any) -> dict[str, Any]:
        """Wait until the journal holds an event of this kind with these fields; returns it."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events(kind) if all(event.get(k) == v for k, v in fields.items())]

        self.wait(f"event {kind} {fields or ''}", lambda: bool(found()), seconds)
        return found()[-1]

    def await_end(self, seconds: float = 180.0) -> dict[str, Any]:
        """Wait until the run ended or is held; returns that event. A hold after which it was let go is no end."""

        def ends() -> list[dict[str, Any]]:
            events = self.events()
            begun = max((event["seq"] for event in events if event["kind"] == "attempt_started"), default=-1)
            return [event for event in events if event["kind"] in ("run_ended", "held") and event["seq"] > begun]

        self.wait("the end of the run", lambda: bool(ends()), seconds)
        return ends()[-1]

    def wait(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait for a state. Raises SovctlError with the run's own words when it does not come."""
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise SovctlError(f"waited {seconds:g} s for {what}; {self._last_words()}")
            time.sleep(_POLL_S)

    def _last_words(self) -> str:
        said = (_in_words(event) for event in self.events()[-16:])
        told = "; ".join(said)
        tail = " / ".join(self.output().splitlines()[-8:])
        return f"events: {told or 'none'}; output: {tail or 'none'}"


def _in_words(event: dict[str, Any]) -> str:
    """Seconds of the day, kind, and what tells most about a stop."""
    telling = ("attempt", "signature", "crash", "culprit", "blamed", "evidence", "why", "because", "detail")
    words = " ".join(f"{key}={event[key]}" for key in telling if event.get(key) not in (None, "", []))
    return f"{event.get('at', 0.0) % 86400:.1f} {event['kind']} {words}"


def as_user(user: str) -> Sequence[str]:
    """The words before a command that has to run as this user."""
    if not user or pwd.getpwnam(user).pw_uid == os.geteuid():
        return []
    account = pwd.getpwnam(user)
    switch = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"]
    return [*switch, "env", f"HOME={account.pw_dir}", f"USER={user}", f"LOGNAME={user}"]
