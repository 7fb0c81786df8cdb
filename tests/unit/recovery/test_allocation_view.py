"""A script with spares beside it sees an ordinary allocation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sovctl.recovery.allocation_view import fold_figures, unfold_figures, view

GRANTED = ("n1", "n2", "n3", "n4", "n5")
SLURM = {
    "SLURM_JOB_NUM_NODES": "5",
    "SLURM_NNODES": "5",
    "SLURM_JOB_NODELIST": "n[1-5]",
    "SLURM_NODELIST": "n[1-5]",
    "SLURM_TASKS_PER_NODE": "8(x5)",
    "SLURM_JOB_CPUS_PER_NODE": "64(x2),96(x3)",
    "SLURM_NTASKS": "40",
    "SLURM_NPROCS": "40",
    "SLURM_NTASKS_PER_NODE": "8",
    "HOME": "/home/x",
}


def test_every_figure_agrees_with_the_nodes_it_runs_on() -> None:
    changed = view(SLURM, GRANTED, ("n1", "n3", "n4"), ",".join)
    assert changed == {
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_NNODES": "3",
        "SLURM_JOB_NODELIST": "n1,n3,n4",
        "SLURM_NODELIST": "n1,n3,n4",
        "SLURM_TASKS_PER_NODE": "8(x3)",
        "SLURM_JOB_CPUS_PER_NODE": "64,96(x2)",
        "SLURM_NTASKS": "24",
        "SLURM_NPROCS": "24",
    }


def test_on_all_nodes_only_what_was_wrong_changes() -> None:
    stale = {**SLURM, "SLURM_NTASKS": "48", "SLURM_NPROCS": "48"}
    changed = view(stale, GRANTED, GRANTED, ",".join)
    assert {name: value for name, value in changed.items() if "LIST" not in name} == {
        name: SLURM[name] for name in changed if "LIST" not in name
    }


def test_variables_that_are_not_set_stay_unset() -> None:
    assert view({"SLURM_JOB_NUM_NODES": "5"}, GRANTED, GRANTED[:2], ",".join) == {"SLURM_JOB_NUM_NODES": "2"}


def test_a_list_that_cannot_be_read_is_left_as_it_is() -> None:
    odd = {**SLURM, "SLURM_TASKS_PER_NODE": "many", "SLURM_JOB_CPUS_PER_NODE": "64(x3)"}
    changed = view(odd, GRANTED, GRANTED[:4], ",".join)
    assert not changed.keys() & {"SLURM_TASKS_PER_NODE", "SLURM_JOB_CPUS_PER_NODE", "SLURM_NTASKS"}


@given(st.lists(st.integers(0, 300), max_size=40))
def test_folding_loses_nothing(figures: list[int]) -> None:
    assert unfold_figures(fold_figures(figures)) == figures
