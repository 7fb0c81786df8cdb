from __future__ import annotations

import pytest

from sovctl.model.step_id import of_srun


@pytest.mark.parametrize(
    ("env", "srun"),
    [
        ({"SLURM_STEP_ID": "0"}, True),
        ({"SLURM_STEP_ID": "4711"}, True),
        ({}, False),
        ({"SLURM_STEP_ID": ""}, False),
        ({"SLURM_STEP_ID": "batch"}, False),
        ({"SLURM_STEP_ID": "4294967291"}, False),
        ({"SLURM_STEP_ID": "²"}, False),
    ],
)
def test_only_steps_of_srun_count(env: dict[str, str], srun: bool) -> None:
    assert of_srun(env) is srun
