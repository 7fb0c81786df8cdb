"""What a Slurm of some version and configuration can do for a run, and what sovctl does where it cannot. Pure.

Sources: the release notes and the source of 22.05 to 26.05, and labs with 22.05, 24.11, 25.11 and 26.05.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sovctl.submit.expedite import enabled as expedite_enabled

_OLDEST = (22, 5)


@dataclass(frozen=True, slots=True)
class SlurmFeature:
    """One ability of Slurm."""

    name: str
    there: bool
    since: str
    """The first release that has it."""
    otherwise: str
    """What happens without it."""
    enable: str = ""
    """What an administrator of this release would set; empty: nothing helps but a newer release."""


def release(version: str) -> tuple[int, int] | None:
    """Major release of `22.05.8`, `slurm-wlm 26.05.3` or `SLURM_VERSION`; None when there is none in the text."""
    found = re.search(r"\b(\d{2})\.(\d{2})\b", version)
    return (int(found[1]), int(found[2])) if found else None


def supported(version: str) -> bool:
    """Whether sovctl is meant for this release: 22.05 or newer."""
    found = release(version)
    return found is not None and found >= _OLDEST


def slurm_features(settings: Mapping[str, str]) -> tuple[SlurmFeature, ...]:
    """By `scontrol show config`."""
    own = release(settings.get("SLURM_VERSION", "")) or _OLDEST
    scheduler = settings.get("SchedulerParameters", "")
    accounting = "slurmdbd" in settings.get("AccountingStorageType", "")
    return (
        SlurmFeature(
            "expedited requeue",
            expedite_enabled(settings),
            "25.11",
            "a run whose batch host died waits for SlurmdTimeout and the requeue delay, unless `sovctl watch` acts",
            "SlurmctldParameters=enable_expedited_requeue" if own >= (25, 11) else "",
        ),
        SlurmFeature(
            "requeue delay of its own",
            own >= (25, 11) and "requeue_delay" in scheduler,
            "25.11",
            "a job that Slurm itself requeues waits for cred_expire of AuthInfo (121 s)",
            "SchedulerParameters=requeue_delay=5" if own >= (25, 11) else "",
        ),
        SlurmFeature(
            "a job that lost a node can be changed further",
            own >= (23, 11) or accounting,
            "23.11",
            "once a node was dropped, this Slurm refuses every other change of the job until it is requeued",
            "" if own >= (23, 11) else "AccountingStorageType=accounting_storage/slurmdbd",
        ),
        SlurmFeature(
            "no requeue can be ordered to the end",
            own >= (23, 11),
            "23.11",
            "RequeueExit in slurm.conf wins over a run that has ended",
        ),
        SlurmFeature(
            "jobs requeued without limit",
            own >= (23, 2) and settings.get("MaxBatchRequeue", "5") != "5",
            "23.02",
            "Slurm holds a job after five requeues because its launch failed (a prolog that refused it)",
            "MaxBatchRequeue=1000" if own >= (23, 2) else "",
        ),
    )
