"""Which processes of a job srun started."""

from __future__ import annotations

from collections.abc import Mapping

_SLURMS_OWN = 0xFFFFFF00
"""Ids from here on are Slurm's own steps: batch script, extern, interactive (SLURM_MAX_NORMAL_STEP_ID, slurm.h)."""

LOOK_STEP = "sovctl-look"
"""The name of the steps in which sovctl looks at a job's nodes."""


def of_srun(env: Mapping[str, str]) -> bool:
    """Whether this environment is that of a task of srun's. 26.05 gives the batch script a step id as well: a name, or
    a number from Slurm's own end of the range."""
    step = env.get("SLURM_STEP_ID", "")
    return step.isascii() and step.isdigit() and int(step) < _SLURMS_OWN
