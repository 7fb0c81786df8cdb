"""`sovctl lab demo`: train on a real cluster, kill a GPU, show the recovery, prove that nothing was lost.

The same training runs twice: once undisturbed, once with XID 79 in the middle. The loss curves must be equal to the
last bit.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovctl.adapters.journal import FileJournal
from sovctl.errors import SovctlError
from sovctl.lab import cluster, faults
from sovctl.lab.training import Training, TrainingSpec
from sovctl.recovery.timeline import Timeline, timeline

_SPEC = TrainingSpec(steps=60, save_every=10, step_seconds=0.2)
_STRIKE_AT = 27
"""The step at which the GPU dies: some steps after a checkpoint, so that something is lost."""
_GPU = 5


@dataclass(frozen=True, slots=True)
class Story:
    """What happened, as measured."""

    injected_at: float
    injected_node: str
    blamed: tuple[str, ...]
    evidence: str
    reason: str
    """The Reason Slurm shows for the drained node."""
    excluded: tuple[str, ...]
    attempts: int
    nodes_before: tuple[str, ...]
    nodes_after: tuple[str, ...]
    steps_lost: int | None
    resume_step: int | None
    resume_from: str
    stages: Mapping[str, float]
    """Seconds after the fault, by stage, in order."""
    finished: bool
    loss_identical: bool
    compared_steps: int
    last_loss: float
    why: str

    @property
    def recovered(self) -> bool:
        """Every part of the story happened."""
        return (
            self.finished
            and self.blamed == (self.injected_node,)
            and self.reason.startswith("sovctl:")
            and self.injected_node in self.excluded
            and self.injected_node not in self.nodes_after
            and self.attempts == 2
            and bool(self.resume_step)
            and len(self.stages) == len(_STAGES)
        )

    def record(self, total_seconds: float) -> dict[str, Any]:
        """The object of `--json`."""
        return {
            "schema": "sovctl.demo/1",
            "recovered": self.recovered,
            "loss_identical": self.loss_identical,
            "injected_node": self.injected_node,
            "blamed_node": self.blamed[0] if self.blamed else None,
            "excluded_nodes": list(self.excluded),
            "attempts": self.attempts,
            "steps_lost": self.steps_lost,
            "resumed_from_step": self.resume_step,
            "stages": dict(self.stages),
            "total_seconds": round(total_seconds, 1),
        }


_STAGES = (
    "detected",
    "node_drained",
    "job_requeued",
    "allocated",
    "first_rank_up",
    "checkpoint_loaded",
    "first_step",
)
_WORDS = {
    "detected": "sovctl read the driver's line",
    "node_drained": "node drained in Slurm",
    "job_requeued": "steps ended, job requeued without the node",
    "allocated": "Slurm started it on other nodes",
    "first_rank_up": "first rank up",
    "checkpoint_loaded": "checkpoint loaded",
    "first_step": "first step done",
}


def run_demo(*, as_json: bool, keep: bool) -> int:
    """Run the whole story; exit status 0 only if every part of it happened."""
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="sovctl-demo-", dir="/var/tmp"))
    root.chmod(0o755)
    lab = None
    try:
        _say("starting a Slurm cluster: 8 nodes with 8 GPUs each ...")
        lab = cluster.up(cluster.Request(root / "lab"))
        story = _story(lab, root)
    finally:
        if lab is not None and keep:
            _say(f"the lab goes on in {lab.layout.root}; stop it with: sovctl lab down --dir {lab.layout.root}")
        elif lab is not None:
            cluster.down(lab.layout.root)
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
    record = story.record(time.monotonic() - began)
    if as_json:
        print(json.dumps(record, indent=1))
    else:
        _show(story, record)
    return 0 if story.recovered and story.loss_identical else 1


def _story(lab: cluster.Lab, root: Path) -> Story:
    calm = _training(lab, root / "undisturbed")
    _say(f"training {_SPEC.steps} steps on {_SPEC.nodes} nodes, undisturbed, for comparison ...")
    calm.submit()
    calm.await_end()
    run = _training(lab, root / "disturbed")
    _say(f"training the same again; at step {_STRIKE_AT} a GPU falls off the bus (XID 79) ...")
    run.submit()
    run.await_step(_STRIKE_AT)
    before = tuple(run.events("attempt_started")[-1]["nodes"])
    victim = before[1]
    injected = faults.inject(lab, "xid:79", victim, _GPU)
    _say(f"GPU {_GPU} of {victim} is gone; waiting for the run to come back by itself ...")
    end = run.await_end()
    found = timeline(run.events(), 0)
    if found is None or found.resumed is None:
        raise SovctlError(
            f"the run did not come back: it ended {end.get('outcome', 'held')} ({end.get('why', '')})",
            hint="Try it step by step: sovctl lab up",
        )
    view = cluster.slurm(lab.layout).node(victim)
    curve, wanted = run.loss_curve(), calm.loss_curve()
    return Story(
        injected_at=injected.at,
        injected_node=victim,
        blamed=tuple(run.events("attempt_ended")[0]["blamed"]),
        evidence=run.events("attempt_ended")[0]["evidence"],
        reason=view.reason if view.state.draining else "",
        excluded=found.excluded,
        attempts=len(run.events("attempt_started")),
        nodes_before=before,
        nodes_after=tuple(run.events("attempt_started")[-1]["nodes"]),
        steps_lost=_steps_lost(run, found),
        resume_step=found.resume_step,
        resume_from=found.resumed.resume_from,
        stages=_stages(lab, injected, found),
        finished=end.get("outcome") == "finished",
        loss_identical=bool(wanted) and curve == wanted and len(wanted) == _SPEC.steps,
        compared_steps=len(wanted),
        last_loss=run.losses()[-1]["loss"],
        why=run.sovctl("run", "why", run.job_id).stdout.strip(),
    )


def _training(lab: cluster.Lab, directory: Path) -> Training:
    directory.mkdir()
    return Training(lab, directory, _SPEC)


def _steps_lost(run: Training, found: Timeline) -> int | None:
    """Counted in the loss log: steps that were computed twice."""
    if found.resume_step is None:
        return None
    reached = max(item["step"] for item in run.losses() if item["attempt"] == 0)
    return int(reached) - found.resume_step


def _stages(lab: cluster.Lab, injected: faults.Injected, found: Timeline) -> dict[str, float]:
    journal = FileJournal(lab.layout.journal_dir / "nodes" / f"{injected.node}.jsonl").events()
    detected = [event.get("detected_at") for event in journal if event["kind"] == "drain-intended"]
    drained = [event["at"] for event in journal if event["kind"] == "drain-done"]
    resumed = found.resumed
    times = {
        "detected": detected[-1] if detected else None,
        "node_drained": drained[-1] if drained else None,
        "job_requeued": found.requeued_at,
        "allocated": found.started_at,
        "first_rank_up": resumed.rank_up_at if resumed else None,
        "checkpoint_loaded": resumed.loaded_at if resumed else None,
        "first_step": resumed.first_step_at if resumed else None,
    }
    return {name: round(at - injected.at, 2) for name in _STAGES if (at := times[name]) is not None}


def _show(story: Story, record: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    table = Table(title=f"XID 79 on GPU {_GPU} of {story.injected_node}, real Slurm", title_justify="left")
    table.add_column("stage")
    table.add_column("took", justify="right")
    table.add_column("after the fault", justify="right")
    table.add_row("fault: the GPU falls off the bus", "", "0.00 s")
    before = 0.0
    for name, at in story.stages.items():
        table.add_row(_WORDS[name], f"{at - before:.2f} s", f"{at:.2f} s")
        before = at
    console.print(table)
    facts = Table(show_header=False, box=None, padding=(0, 1))
    facts.add_row("blamed", f"{', '.join(story.blamed) or 'nobody'} (injected: {story.injected_node})")
    facts.add_row("because", escape(story.evidence))
    facts.add_row("ran on", f"{', '.join(story.nodes_before)}; then {', '.join(story.nodes_after)}")
    resumed = f"step {story.resume_step}, checkpoint {Path(story.resume_from).name}"
    facts.add_row("resumed from", f"{resumed}; {story.steps_lost} steps done again")
    same = "identical to the last bit" if story.loss_identical else "DIFFERENT"
    facts.add_row("loss curve", f"{story.compared_steps} steps against the undisturbed run: {same}")
    verdict = "the run survived" if story.recovered else "the story did NOT go as it should"
    facts.add_row("outcome", f"{verdict}; {record['total_seconds']:.0f} s for the whole demo")
    console.print(facts)
    console.print("\n$ sovctl run why", style="bold")
    console.print(escape(story.why))


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
