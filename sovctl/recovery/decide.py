"""From blame and history to what happens next. Pure.

Three separate budgets: hardware faults are many and refilled by progress; the same crash at the same step is the
code's and gets `same_crash_limit` tries; stops without a culprit get `unknown_limit`. Progress means that a later
checkpoint was reached, not that time passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sovctl.model.blame import Blame, Culprit


class Action(StrEnum):
    """What the supervisor does with the job."""

    FINISH = "finish"
    REQUEUE = "requeue"
    HOLD = "hold"
    END = "end"
    """Let the job end with the script's own status: the user ended it, or forbade requeueing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many stops of each kind without progress are borne."""

    same_crash: int = 2
    unknown: int = 3
    hardware: int = 50


@dataclass(frozen=True, slots=True)
class PastStop:
    """How an earlier attempt ended."""

    attempt: int
    culprit: Culprit
    nodes: tuple[str, ...] = ()
    signature: str = ""
    step: int | None = None
    checkpoint_step: int = 0
    """The newest complete checkpoint when it ended; 0: none."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the nodes to stay away from from now on, and why, in one sentence."""

    action: Action
    why: str
    exclude: tuple[str, ...] = ()


def decide(
    blame: Blame, past: Sequence[PastStop], checkpoint_step: int, limits: Limits, *, may_requeue: bool = True
) -> Decision:
    """`past`: earlier stops, oldest first; `checkpoint_step`: the newest complete checkpoint, 0 if there is none."""
    if blame.culprit is Culprit.NONE:
        return Decision(Action.FINISH, "the script finished")
    if blame.culprit is Culprit.STOPPED and not blame.evidence:
        return Decision(Action.END, "the job was ended by request")
    if not may_requeue:
        return Decision(Action.END, "the job was submitted with --no-requeue")
    over = _over_budget(blame, past, checkpoint_step, limits)
    if over:
        return Decision(Action.HOLD, over, blame.nodes)
    return Decision(Action.REQUEUE, _reason(blame), blame.nodes)


def _over_budget(blame: Blame, past: Sequence[PastStop], checkpoint_step: int, limits: Limits) -> str:
    # Stops since the last gain: the newest checkpoint then was no older than it is now.
    stuck = [stop for stop in past if stop.checkpoint_step >= checkpoint_step]
    alike = 1 + sum(stop.culprit is blame.culprit for stop in stuck)
    if blame.culprit is Culprit.USER_CODE:
        return _crash_over_budget(blame, past, stuck, limits)
    if blame.culprit is Culprit.UNKNOWN and alike > limits.unknown:
        return f"the run stopped {alike} times without a new checkpoint and without a culprit"
    if blame.culprit in (Culprit.TIME_LIMIT, Culprit.STOPPED) and alike > limits.unknown:
        return f"{alike} time slices passed without a new checkpoint"
    if blame.culprit is Culprit.HARDWARE and alike > limits.hardware:
        return f"{alike} hardware faults stopped the run without a new checkpoint in between"
    return ""


def _crash_over_budget(blame: Blame, past: Sequence[PastStop], stuck: Sequence[PastStop], limits: Limits) -> str:
    crashes = [stop for stop in past if stop.culprit is Culprit.USER_CODE and stop.signature == blame.signature]
    # The step a run was at is known to about a second only; the same crash without a new checkpoint counts as well.
    known = blame.step is not None
    same = 1 + sum((known and stop.step == blame.step) or stop in stuck for stop in crashes)
    if same >= limits.same_crash:
        at = f" at step {blame.step}" if blame.step is not None else ""
        return f"the same crash{at} happened {same} times; trying again would not help"
    any_crash = 1 + sum(stop.culprit is Culprit.USER_CODE for stop in stuck)
    if any_crash > 2 * limits.same_crash:
        return f"the script crashed {any_crash} times without reaching a new checkpoint"
    return ""


def _reason(blame: Blame) -> str:
    if blame.nodes:
        return f"run on without {', '.join(blame.nodes)}"
    return {
        Culprit.USER_CODE: "try once more from the last checkpoint",
        Culprit.STOPPED: "run on from the checkpoint it just saved",
        Culprit.PREEMPTED: "run on when there is room again",
        Culprit.TIME_LIMIT: "run on in a new time slice",
    }.get(blame.culprit, "try again from the last checkpoint")


def past_stops(events: Sequence[Mapping[str, Any]]) -> list[PastStop]:
    """The earlier stops in a run's journal, oldest first."""
    stops = []
    for event in events:
        if event.get("kind") != "attempt_ended":
            continue
        stops.append(
            PastStop(
                attempt=int(event.get("attempt", 0)),
                culprit=_culprit(event.get("culprit")),
                nodes=tuple(event.get("blamed", ())),
                signature=str(event.get("signature", "")),
                step=event.get("step"),
                checkpoint_step=int(event.get("checkpoint_step") or 0),
            )
        )
    return stops


def _culprit(value: Any) -> Culprit:
    try:
        return Culprit(value)
    except ValueError:
        return Culprit.UNKNOWN
