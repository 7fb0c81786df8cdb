"""A supervisor on a real cluster, killed again and again between two effects of one recovery: nothing is done twice,
nothing is forgotten. The same effects are the last ones in every run of the test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sovctl.adapters.command import Completed
from sovctl.lab import cluster, faults
from sovctl.lab.training import Training
from tests.slurm.conftest import TOY
from tests.slurm.test_stories import assert_record_whole, nodes_of

pytestmark = pytest.mark.slurm

MORTAL = Path(__file__).with_name("mortal_supervisor.py")
LIVES = "2,4,6"
"""The fourth death would hold the run: a supervisor that is killed so often without a new checkpoint gives up."""


class MortalRun(Training):
    """A run whose supervisor dies LIVES after LIVES."""

    @property
    def deaths(self) -> list[str]:
        path = self.work_dir / "deaths"
        return path.read_text("utf-8").splitlines() if path.exists() else []

    def command(self, *argv: str, check: bool = True, timeout_s: float = 60.0) -> Completed:
        words = (f"PYTHONPATH={self.work_dir / 'site'}", f"MORTAL_LIVES={LIVES}")
        words += (f"MORTAL_DEATHS={self.work_dir / 'deaths'}",)
        return Training.command(self, "env", *words, *argv, check=check, timeout_s=timeout_s)


@dataclass(frozen=True)
class Row:
    """One way out of a stop."""

    name: str
    options: tuple[str, ...]
    restarts: int
    """Of the job, as Slurm counts them."""
    extra: tuple[str, ...] = ()
    """Of the training."""


ROWS = (
    Row("queue", (), 1),
    Row("spare", ("--spare-nodes=1",), 0),
    Row("hold", ("--same-crash-limit=1",), 1, ("--crash-at-step=12",)),
)
LAB = {"nodes": 5, "accounting": True, "out_limit_per_hour": 20}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_recovery_in_which_the_supervisor_dies(whole_lab: cluster.Lab, work_dir: Path, user: str, row: Row) -> None:
    (work_dir / "site").mkdir()
    (work_dir / "site" / "sitecustomize.py").write_text(f"import runpy\nrunpy.run_path({str(MORTAL)!r})\n")
    spec = replace(TOY, nodes=3, steps=100_000, step_seconds=0.1, sbatch=row.options, extra=row.extra)
    run = MortalRun(whole_lab, work_dir, spec, user)
    run.submit()
    run.await_event("checkpoint_saved", step=10)
    victim = nodes_of(run, 0)[1]
    if row.extra:
        run.await_event("held", 120)
    else:
        faults.inject(whole_lab, "xid:79", victim, 5)
        run.await_event("first_step", 120, attempt=1)
    assert len(set(run.deaths)) >= 2, run.deaths
    run.wait("the job to be requeued as often as it should be", lambda: _restarts(run) == row.restarts, 60)
    if not row.extra:
        run.sovctl("run", "stop", run.job_id)
        run.await_event("run_ended")
    assert _restarts(run) == row.restarts, run.deaths
    attempts = 1 if row.extra else 2
    assert_record_whole(run, attempts)
    assert len(run.events("taken_over")) == len(run.deaths)
    ended = run.events("attempt_ended")[0]
    assert (ended["culprit"], ended["blamed"]) == (("user-code", []) if row.extra else ("hardware", [victim]))
    assert row.extra or victim not in nodes_of(run, 1)
    assert len(run.events("held")) == bool(row.extra)
    assert run.loss_curve()


def _restarts(run: Training) -> int:
    return cluster.slurm(run.lab.layout).job(run.job_id).restarts
