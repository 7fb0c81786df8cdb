"""Whether a job may be submitted with `--requeue=expedite`. Pure.

From 25.11 a site can let jobs ask for it (SlurmctldParameters=enable_expedited_requeue). Such a job is eligible the
moment its last node is done, without requeue_delay: also when Slurm itself requeues it because its batch host died.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SINCE = (25, 11)


def enabled(settings: Mapping[str, str]) -> bool:
    """Whether the controller takes it, by `scontrol show config`."""
    # slurmctld looks for the word anywhere in the parameter, and so do we (_expedited_requeue_enabled, 25.11, 26.05).
    words = settings.get("SlurmctldParameters", "")
    return new_enough(settings.get("SLURM_VERSION", "")) and "enable_expedited_requeue" in words


def new_enough(version: str) -> bool:
    """Whether a version of Slurm, as a daemon or a command tells it, knows of it. An older sbatch refuses a value."""
    found = re.search(r"\b(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= _SINCE
