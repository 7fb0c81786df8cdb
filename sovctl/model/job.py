"""A Slurm job as the controller sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FIRST_PRIORITY = 0xFFFF_FF00
"""Above every priority that Slurm reckons out (priority/basic begins at 0xffff0000: TOP_PRIORITY, job_mgr.c), below
its own marks at the end of 32 bits."""
_GPUS = re.compile(r"(?:^|,)gres/gpu=([0-9]{1,9})(?:,|$)")


@dataclass(frozen=True, slots=True)
class JobSize:
    """What a pending job asks for; Slurm scales none of the three by the others."""

    nodes: int
    tasks: int
    cpus: int


@dataclass(frozen=True, slots=True)
class JobView:
    """One job of `scontrol show job`. Times are seconds since the epoch, `None` when Slurm has none."""

    job_id: str
    """The id that names just this job: `123`, or `120_4` for a task of an array."""
    name: str
    user: str
    uid: int
    state: str
    """Base state, upper case: PENDING, RUNNING, CANCELLED, TIMEOUT, ..."""
    flags: frozenset[str] = frozenset()
    """COMPLETING, REQUEUED, ..."""
    reason: str = ""
    restarts: int = 0
    nodes: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    """Nodes of --nodelist: it starts on no allocation without them."""
    batch_host: str = ""
    submitted_at: int | None = None
    """Renewed when the job is requeued."""
    eligible_at: int | None = None
    started_at: int | None = None
    ends_at: int | None = None
    limit_s: float | None = None
    """How long it may run at the least (TimeMin, else TimeLimit); None: as long as it likes, or not known."""
    preempted_at: int | None = None
    requeue: bool = True
    expedited: bool = False
    """Slurm makes it eligible at once when it is requeued (--requeue=expedite, 25.11 on)."""
    priority: int = 0
    work_dir: str = ""
    stdout: str = ""
    stderr: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    """Every field of the record by Slurm's own name."""

    @property
    def pending(self) -> bool:
        return self.state == "PENDING"

    @property
    def running(self) -> bool:
        return self.state in _RUNS and "COMPLETING" not in self.flags

    @property
    def completing(self) -> bool:
        return self.state == "COMPLETING" or "COMPLETING" in self.flags

    @property
    def held(self) -> bool:
        return self.pending and self.priority == 0

    @property
    def in_reservation(self) -> bool:
        """It names one (`--reservation`), and Slurm gives it no other nodes."""
        return self.extra.get("Reservation", "(null)") not in ("", "(null)")

    @property
    def tres(self) -> str:
        """What it was given, or asks for while it waits: `cpu=18,mem=1125G,node=18,gres/gpu=144`. One field until
        22.05, two from 23.02."""
        said = (self.extra.get(name, "") for name in ("AllocTRES", "TRES", "ReqTRES"))
        return next((words for words in said if words and not words.startswith("(")), "")

    @property
    def gpus(self) -> int:
        """On all of its nodes; 0 also where the site does not count them."""
        return gpus_in(self.tres)

    @property
    def over(self) -> bool:
        """Ended in a way from which Slurm does not bring it back by itself."""
        return self.state in _OVER


_RUNS = frozenset({"RUNNING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"})
"""Slurm prints some flags in place of the state: of a job that got SIGSTOP (scancel --signal=STOP), gets a signal, or
is just being shrunk."""
_OVER = frozenset(
    {"CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "BOOT_FAIL", "REVOKED", "NODE_FAIL"}
    | {"PREEMPTED"}
)
"""Also preempted, where the site cancels whom it preempts."""


def gpus_in(tres: str) -> int:
    """GPUs in a list of trackable resources, of whatever type."""
    found = _GPUS.search(tres)
    return int(found[1]) if found else 0
