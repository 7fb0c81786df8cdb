"""A short run of the chaos benchmark: random faults of a fixed seed, and what must hold after all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sovctl.lab.chaos.plan import ChaosSpec, draw
from sovctl.lab.chaos.run import Chaos

pytestmark = [pytest.mark.slurm]

SPEC = ChaosSpec(seed=109, faults=7, nodes=8, job_nodes=4, spares=1, step_seconds=0.05, hang_timeout_s=5)


def test_seven_random_faults_cost_neither_a_step_nor_an_innocent_node(
    new_root: Callable[[], Path], attach_logs: Callable[[Path], None], work_dir: Path, user: str
) -> None:
    root = new_root()
    attach_logs(root)
    report = Chaos(SPEC, root, user, print).run(work_dir)
    assert not report.lost
    assert not report.impossible
    assert [item.problem for item in report.struck] == [""] * SPEC.faults
    assert report.on_blamed == []
    assert report.steps_lost == 0
    assert report.misjudged == []
    assert report.failed_chains == []
    assert report.identical
    assert report.compared_steps > 100


def test_the_seed_alone_decides_what_happens() -> None:
    assert draw(SPEC) == draw(SPEC)
    assert sum(map(len, draw(SPEC))) == SPEC.faults
