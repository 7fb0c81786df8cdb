"""Which faults a run meets, and what each should lead to. Everything drawn at random comes from one seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_CONTROLLER_AWAY_S = (2.0, 6.0)
_SECOND_SHARE = 0.25
"""Share of the stopping faults that get a second one while the run recovers."""
_FIRST_WITHIN_S, _SECOND_WITHIN_S = 3.0, 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault and what it should lead to."""

    name: str
    weight: int
    stops: bool = True
    """The attempt ends; otherwise the run must go on as if nothing had happened."""
    blames: bool = False
    """The node it happened to is named."""
    breaks: bool = False
    """No run may go on there before the node is repaired."""
    batch_host: bool = True
    """May happen to the batch host."""
    second: bool = False
    """May come while the run recovers from another."""
    stands_still: bool = False
    """Nothing ends by itself: it shows only when the run has made no progress for the hang timeout."""


KINDS = (
    Kind("xid:79", 14, blames=True, breaks=True, second=True),
    Kind("ecc-uncorrectable", 6, blames=True, breaks=True, second=True),
    Kind("node-dead", 10, blames=True, breaks=True, second=True),
    Kind("node-frozen", 6, blames=True, breaks=True, batch_host=False, second=True, stands_still=True),
    Kind("rank-crash", 12, second=True),
    # What was stopped is one process; its node is named because nobody knows more.
    Kind("rank-hang", 6, blames=True, stands_still=True),
    Kind("supervisor-killed", 8, second=True),
    Kind("checkpoint-damaged", 6),
    Kind("requeue", 5),
    Kind("slurmctld-down", 6, stops=False, second=True),
    Kind("xid:13", 3, stops=False),
    Kind("xid:31", 3, stops=False),
    Kind("xid:45", 3, stops=False),
    Kind("thermal-throttle", 4, stops=False),
    Kind("gpu-slow", 4, stops=False),
    Kind("link-flap", 4, stops=False),
    Kind("disk-full", 4, stops=False),
)


@dataclass(frozen=True, slots=True)
class ChaosSpec:
    """What to run."""

    seed: int
    faults: int = 100
    nodes: int = 24
    job_nodes: int = 16
    spares: int = 2
    step_seconds: float = 0.1
    save_every: int = 10
    hang_timeout_s: int = 8
    repair_after_s: float = 20.0
    only: tuple[str, ...] = ()
    """Draw from these kinds alone; empty: from all."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault as drawn, before it is known what runs where. Shares are 0 to 1."""

    kind: Kind
    wait_s: float
    """After the run computes, or after the fault before."""
    place: float
    """Which of the nodes."""
    part: float
    """Which of its GPUs, or of the files."""
    away_s: float
    """How long the controller stays away."""


def draw(spec: ChaosSpec) -> tuple[tuple[Blow, ...], ...]:
    """Every fault of a run: episodes of one, or of two where the second meets the recovery. A function of the seed.

    It is the same for everybody: a full disk, which needs root, is drawn for an ordinary user too and then impossible.
    """
    source = random.Random(spec.seed)
    kinds = [kind for kind in KINDS if not spec.only or kind.name in spec.only]
    seconds = [kind for kind in kinds if kind.second]
    episodes: list[tuple[Blow, ...]] = []
    left = spec.faults
    while left:
        blows = [_blow(source, kinds, _FIRST_WITHIN_S)]
        if blows[0].kind.stops and seconds and source.random() < _SECOND_SHARE and left > 1:
            blows.append(_blow(source, seconds, _SECOND_WITHIN_S))
        episodes.append(tuple(blows))
        left -= len(blows)
    return tuple(episodes)


def _blow(source: random.Random, kinds: Sequence[Kind], within_s: float) -> Blow:
    kind = source.choices(kinds, [item.weight for item in kinds])[0]
    return Blow(
        kind, source.uniform(0.0, within_s), source.random(), source.random(), source.uniform(*_CONTROLLER_AWAY_S)
    )
