"""One interruption of one run, and one run with all of them: what a report is made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sovctl.ledger.stamps import Stamp, Stamps, began
from sovctl.model.blame import Culprit

FAILURES = frozenset({Culprit.HARDWARE, Culprit.FABRIC, Culprit.STORAGE, Culprit.USER_CODE, Culprit.UNKNOWN})
"""What counts against the time between failures. A preemption, a time limit or somebody's wish is none."""


class Source(StrEnum):
    """Where an incident is known from."""

    RECORD = "record"
    """The run's own journal."""
    ACCOUNTING = "accounting"
    """Slurm's accounting: the job ran without sovctl."""


class Outcome(StrEnum):
    """What became of it."""

    RECOVERED = "recovered"
    """It ran again by itself."""
    BY_HAND = "by hand"
    """It ran again because a person resubmitted or released it."""
    HELD = "held"
    """It waits for a person, or was given up."""
    OPEN = "open"
    """It is on its way back."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One interruption of a run."""

    run: str
    """Run id; of a job without sovctl `<cluster>-<job id>`."""
    job_id: str
    user: str
    attempt: int
    culprit: Culprit
    code: str
    """What it was in a word, such as `XID79` or `NODE_FAIL`; empty: not told."""
    evidence: str
    nodes: tuple[str, ...]
    """Blamed."""
    stamps: Stamps
    outcome: Outcome
    source: Source
    how: str = ""
    """`in-place`, `spare`, `fewer-nodes`: in its own allocation; empty: through the queue."""
    steps_lost: int | None = None
    lost_s: float | None = None
    """From the fault until it had caught up."""
    gpus: int | None = None
    """That stood still."""
    serials: tuple[str, ...] = ()
    """Of the GPUs blamed."""
    last_word_at: float = 0.0
    """When the run last wrote something before it: where no stamp tells when it began, it counts from there."""

    @property
    def at(self) -> float:
        """When it began, in seconds since the epoch; 0: nothing tells."""
        return began(self.stamps) or self.last_word_at

    @property
    def failure(self) -> bool:
        return self.culprit in FAILURES

    @property
    def gpu_seconds_lost(self) -> float | None:
        return None if self.lost_s is None or self.gpus is None else round(self.lost_s * self.gpus, 1)

    def seconds_to(self, stamp: Stamp) -> float | None:
        """From its beginning to a stamp."""
        start, at = began(self.stamps), self.stamps.get(stamp)
        return None if start is None or at is None else max(0.0, at - start)


@dataclass(frozen=True, slots=True)
class Span:
    """One attempt on the clock."""

    began_at: float
    ended_at: float
    nodes: int
    gpus: int | None
    productive_s: float
    """Of it: training that counted, without start, checkpoint stalls and steps that were done again later."""


@dataclass(frozen=True, slots=True)
class RunAccount:
    """One run: its attempts and what interrupted it."""

    run: str
    job_id: str
    user: str
    name: str
    source: Source
    spans: tuple[Span, ...]
    ended_at: float
    """When it was over, or the time of the report."""
    incidents: tuple[Incident, ...]
    chains: tuple[Chain, ...] = ()

    @property
    def started_at(self) -> float:
        """When it first ran; 0: never."""
        return self.spans[0].began_at if self.spans else 0.0


@dataclass(frozen=True, slots=True)
class Chain:
    """The tries that followed a failure until the run went beyond where it had been, or was given up."""

    at: float
    culprit: Culprit
    retries: int
    success: bool | None
    """None: still being tried."""
    intervals_s: tuple[float, ...] = ()
    """From each stop to the next start."""


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """A node that sovctl took out of service, from the cluster journal."""

    at: float
    node: str
    code: str
    incident: str
    fault_at: float | None = None
    serials: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    """Whose findings failed it."""
    done_at: float | None = None
    """When Slurm had taken it."""
    cleared: bool = False
    """It passed the loaded test in the same boot and was given back: nothing was wrong with it."""


@dataclass(frozen=True, slots=True)
class SiteAccount:
    """What only the site knows."""

    node_events: tuple[NodeEvent, ...] = ()
    gpu_faults: tuple[GpuFault, ...] = ()
    take_overs: tuple[TakenOver, ...] = ()
    probes: Mapping[str, ProbeCount] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A run that Slurm requeued by itself got its terms from the watch."""

    at: float
    job_id: str


@dataclass(frozen=True, slots=True)
class GpuFault:
    """A hard fault of one GPU by serial number, one a boot of its node."""

    at: float
    node: str
    serial: str
    what: str


@dataclass(frozen=True, slots=True)
class ProbeCount:
    """One probe over all nodes, since their tallies began."""

    hits: int = 0
    would_have_drained: int = 0
    confirmed: int = 0
