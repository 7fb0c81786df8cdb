"""How often to save: what a checkpoint costs, what a failure costs, and the interval between them. Pure.

Times in seconds. `stall` is how long training stands still for a save, `save` how long until the checkpoint is
complete on disk (the same when saving is not asynchronous), `mttf` the mean time between failures of the whole job.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sovctl.model.blame import Culprit
from sovctl.recovery.attempts import Event, attempts, seconds
from sovctl.recovery.decide import FAULTS
from sovctl.recovery.lead import needed_lead_s, save_seconds

_FAILURES = FAULTS | {Culprit.UNKNOWN, Culprit.USER_CODE}
_DAY_H = 24.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What the record of a run tells; `None`: nothing."""

    interval_s: float | None
    """Between two saves of the same attempt, median."""
    failures: int
    ran_s: float
    """All attempts together, as far as their end is recorded."""
    save_s: float | None = None
    """How long a save takes until it is on disk, median."""
    stall_s: float | None = None
    """How long training stands still for it, median."""

    @property
    def mttf_s(self) -> float | None:
        """Mean time between failures. Without one yet: what it ran so far, which is too low."""
        return self.ran_s / max(self.failures, 1) if self.ran_s > 0 else None


@dataclass(frozen=True, slots=True)
class Advice:
    """What to set, and what the present setting costs."""

    young_s: float
    daly_s: float
    best_s: float
    """Daly's, but never shorter than a save takes."""
    lead_s: float
    """For `--signal`: a last save must fit in."""
    best_share: float
    """Share of all GPU time lost to saving and to repeating work, at the best interval."""
    present_share: float | None
    """The same at the present interval."""
    warnings: tuple[str, ...]

    def gpu_hours_a_day(self, gpus: int) -> tuple[float, float | None]:
        """Lost at the best interval, and at the present one."""
        present = None if self.present_share is None else self.present_share * _DAY_H * gpus
        return self.best_share * _DAY_H * gpus, present


def young(stall_s: float, mttf_s: float) -> float:
    """The first-order optimum, sqrt(2 C M) (Young, CACM 17(9), 1974)."""
    return math.sqrt(2 * stall_s * mttf_s)


def daly(stall_s: float, mttf_s: float) -> float:
    """The higher-order optimum (Daly, Future Generation Computer Systems 22(3), 2006, equation 37)."""
    if stall_s >= 2 * mttf_s:
        return mttf_s
    part = stall_s / (2 * mttf_s)
    return young(stall_s, mttf_s) * (1 + math.sqrt(part) / 3 + part / 9) - stall_s


def lost_share(interval_s: float, stall_s: float, save_s: float, mttf_s: float) -> float:
    """Share of the time that is not progress: standing still, and after a failure half an interval and the save that
    was not complete yet, done again. Between 0 and 1."""
    standing = stall_s / (interval_s + stall_s) if interval_s + stall_s > 0 else 1.0
    return min(standing + (interval_s / 2 + save_s) / mttf_s, 1.0)


def advise(
    stall_s: float,
    save_s: float,
    mttf_s: float,
    *,
    interval_s: float | None = None,
    grace_s: float | None = None,
) -> Advice:
    """`interval_s`: the present one; `grace_s`: what the job gets between the signal and its end."""
    exact = max(daly(stall_s, mttf_s), 0.0)
    best = max(exact, save_s, 1.0)
    return Advice(
        young_s=young(stall_s, mttf_s),
        daly_s=exact,
        best_s=best,
        lead_s=needed_lead_s(save_s),
        best_share=lost_share(best, stall_s, save_s, mttf_s),
        present_share=None if interval_s is None else lost_share(interval_s, stall_s, save_s, mttf_s),
        warnings=tuple(_warnings(save_s, mttf_s, interval_s, grace_s)),
    )


def measured(events: Sequence[Event]) -> Measured:
    """What a run's own events tell of its interval and its failures."""
    gaps: list[float] = []
    by_attempt: dict[object, list[float]] = {}
    for event in events:
        at = seconds(event, "happened")
        if event.get("kind") == "checkpoint_saved" and at is not None:
            by_attempt.setdefault(event.get("attempt"), []).append(at)
    for times in by_attempt.values():
        gaps += [later - earlier for earlier, later in itertools.pairwise(times) if later > earlier]
    done = attempts(events)
    spans = [one.stop.at - one.started_at for one in done if one.stop and one.stop.at and one.started_at]
    last = [one for one in done if one.stop is None and one.started_at and one.last_word_at]
    spans += [one.last_word_at - one.started_at for one in last if one.last_word_at and one.started_at]
    failures = sum(one.stop is not None and one.stop.culprit in _FAILURES for one in done)
    saves, stalls = save_seconds(events), save_seconds(events, "stall_seconds")
    return Measured(
        interval_s=median(gaps) if gaps else None,
        failures=failures,
        ran_s=sum(span for span in spans if span > 0),
        save_s=median(saves) if saves else None,
        stall_s=median(stalls) if stalls else None,
    )


def _warnings(save_s: float, mttf_s: float, interval_s: float | None, grace_s: float | None) -> list[str]:
    found = []
    if interval_s is not None and save_s > interval_s:
        found.append(f"a save takes {save_s:.0f} s, longer than the {interval_s:.0f} s between two: they pile up")
    if interval_s is not None and interval_s > mttf_s:
        found.append("the interval is longer than the mean time between failures: most of the work is done twice")
    if grace_s is not None and needed_lead_s(save_s) > grace_s:
        found.append(
            f"the job gets {grace_s:.0f} s between the signal and its end; a last save of {save_s:.0f} s "
            f"needs {needed_lead_s(save_s):.0f} s"
        )
    return found
