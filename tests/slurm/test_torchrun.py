"""torchrun under sovctl on a real cluster: a script that asks Slurm for its number of nodes, and a spare beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sovctl.lab import cluster, faults
from sovctl.lab.training import Training
from tests.slurm.conftest import start_script
from tests.slurm.test_stories import nodes_of

pytestmark = [pytest.mark.slurm, pytest.mark.train]

SAYS = """import os, time
attempt, world, rank, node = (os.environ[name] for name in ("SOVCTL_ATTEMPT", "WORLD_SIZE", "RANK", "SLURMD_NODENAME"))
print(f"attempt {attempt}: rank {rank} of {world} on {node}", flush=True)
time.sleep(1000)
"""
TORCHRUN = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8
srun "$PYTHON" -m torch.distributed.run --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node=1 --rdzv-backend=c10d \\
    --rdzv-endpoint=127.0.0.1:{port} --rdzv-id="$SLURM_JOB_ID-$SOVCTL_ATTEMPT" says.py
"""


def said(run: Training, attempt: int) -> set[tuple[str, str, str]]:
    """(rank, world size, node) of each rank of an attempt that said so."""
    return set(re.findall(rf"^attempt {attempt}: rank (\d+) of (\d+) on (\S+)$", run.output(), re.MULTILINE))


def assert_one_rank_each(run: Training, attempt: int, nodes: list[str]) -> None:
    """Two ranks in a world of two, one on each of these nodes; which is rank 0 is torchrun's choice."""
    ranks, worlds, where = zip(*sorted(said(run, attempt)), strict=True)
    assert (ranks, worlds, sorted(where)) == (("0", "1"), ("2", "2"), sorted(nodes))


def test_a_spare_changes_neither_the_world_nor_holds_a_rank(
    story_lab: Callable[..., cluster.Lab], work_dir: Path, user: str
) -> None:
    lab = story_lab(nodes=3, accounting=True)
    (work_dir / "says.py").write_text(SAYS)
    run = start_script(lab, work_dir, user, TORCHRUN.format(port=lab.port + 5000), "--spare-nodes=1")
    run.wait("both ranks", lambda: len(said(run, 0)) == 2, 120)
    (first,) = run.events("attempt_started")
    (spare,) = first["spares"]
    assert_one_rank_each(run, 0, first["nodes"])
    faults.inject(lab, "xid:79", first["nodes"][1], 5)
    run.wait("both ranks again", lambda: len(said(run, 1)) == 2, 120)
    again = nodes_of(run, 1)
    assert again == [first["nodes"][0], spare]
    assert_one_rank_each(run, 1, again)
    assert [event["how"] for event in run.events("restarted")] == ["spare"]
    run.sovctl("run", "stop", run.job_id)
