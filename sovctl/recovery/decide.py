"""From blame and history to what happens next. Pure.

Three separate budgets: hardware faults are many and refilled by progress; the same crash at the same step is the
code's and gets `same_crash_limit` tries; stops without a culprit get `unknown_limit`. Progress means that a later
checkpoint was reached, not that time passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sovctl.model.blame import Blame, Culprit
from sovctl.recovery.blame import HANG, controller_was_away, no_step_started


class Action(StrEnum):
    """What the supervisor does with the job."""

    FINISH = "finish"
    RESTART = "restart"
    """Again; recovery/place.py says where: in this allocation or through the queue."""
    REQUEUE = "requeue"
    """Slurm has requeued the job already, or must: only another allocation will do."""
    HOLD = "hold"
    END = "end"
    """Let the job end with the script's own status, 0 included: the user ended it, or forbade requeueing."""


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
    ran_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the nodes to stay away from from now on, and why, in one sentence."""

    action: Action
    why: str
    exclude: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    """Nodes that are left out once, to find out by halves which one stops the run."""


FAULTS = frozenset({Culprit.HARDWARE, Culprit.FABRIC, Culprit.STORAGE})
"""Not the code's doing; they share the large budget."""


def decide(
    blame: Blame,
    past: Sequence[PastStop],
    checkpoint_step: int,
    limits: Limits,
    *,
    may_requeue: bool = True,
    hold_asked: bool = False,
    ran_on: Sequence[str] = (),
    replacements: int = 0,
) -> Decision:
    """`past`: earlier stops, oldest first; `checkpoint_step`: the newest complete checkpoint, 0 if there is none.
    `hold_asked`: the script asked for `scontrol requeuehold` of its job. `ran_on`: nodes of the attempt that stopped;
    `replacements`: fit nodes that could take the place of some."""
    if blame.culprit is Culprit.NONE:
        return Decision(Action.FINISH, "the script finished")
    if blame.culprit is Culprit.STOPPED and not blame.evidence:
        return Decision(Action.END, "the job was ended by request")
    if not may_requeue:
        return Decision(Action.END, "the job was submitted with --no-requeue")
    if hold_asked:
        return Decision(Action.HOLD, "the script asked to be held (scontrol requeuehold)", blame.nodes)
    over = _over_budget(
        blame, past, checkpoint_step, _widened(limits, blame, past, checkpoint_step, ran_on, replacements)
    )
    if over:
        return Decision(Action.HOLD, over, blame.nodes)
    suspects = swap_half(blame, _stuck(past, checkpoint_step), ran_on, replacements)
    if _needs_other_allocation(blame, past):
        return Decision(Action.REQUEUE, "try again in a fresh allocation: Slurm starts no step in this one any more")
    why = f"find the culprit: try without {', '.join(suspects)}" if suspects else _reason(blame)
    return Decision(Action.RESTART, why, blame.nodes, suspects)


def requeued_too_often(events: Sequence[Mapping[str, Any]], limits: Limits, replacements: int = 0) -> str:
    """Why a run is to be held before its next attempt starts: Slurm requeued it by itself, so nobody has counted its
    last stop. Empty: it is not to be, or a person let it go since. `events`: its journal."""
    turns = [event for event in events if event.get("kind") in _TURNS]
    if not turns or turns[-1].get("kind") != "attempt_ended" or turns[-1].get("action") != Action.REQUEUE:
        return ""
    *past, last = past_stops(events)
    if last.culprit in (Culprit.PREEMPTED, Culprit.STOPPED):
        return ""
    blame = Blame(last.culprit, last.nodes, str(turns[-1].get("evidence", "")), last.signature, last.step)
    limits = _widened(limits, blame, past, last.checkpoint_step, last.ran_on, replacements)
    return _over_budget(blame, past, last.checkpoint_step, limits)


_TURNS = frozenset({"attempt_started", "attempt_ended", "held", "run_reopened"})


def _widened(
    limits: Limits,
    blame: Blame,
    past: Sequence[PastStop],
    checkpoint_step: int,
    ran_on: Sequence[str],
    replacements: int,
) -> Limits:
    """With as many more tries as halving the nodes takes, where halves can be left out. A hang that names a node on the
    way is no reason to give up."""
    halves = _names_nobody(blame) or any(_names_nobody(stop) for stop in _stuck(past, checkpoint_step))
    if not _may_be_a_node(blame) or not halves or replacements < 1:
        return limits
    return replace(limits, unknown=limits.unknown + len(ran_on).bit_length())


def _needs_other_allocation(blame: Blame, past: Sequence[PastStop]) -> bool:
    """A job that slurmctld has wrong books of (its GPUs are gone from them, 22.05) gets no step before it has a fresh
    allocation. One that merely met a controller that was away gets one more try in the one it has."""
    if not no_step_started(blame.signature):
        return False
    return not controller_was_away(blame.signature) or bool(past and no_step_started(past[-1].signature))


def swap_half(blame: Blame, stuck: Sequence[PastStop], ran_on: Sequence[str], replacements: int) -> tuple[str, ...]:
    """Half of the nodes that took part in every stop without a culprit since the last progress; empty the first time
    (it may never come back), when nobody can take their place, and when no node took part in all."""
    unknown = [stop for stop in stuck if stop.ran_on and _names_nobody(stop)]
    if not _names_nobody(blame) or not unknown or replacements < 1:
        return ()
    common = [node for node in ran_on if all(node in stop.ran_on for stop in unknown)]
    return tuple(common[len(common) - min(max(1, len(common) // 2), replacements) :]) if common else ()


def _may_be_a_node(stop: Blame | PastStop) -> bool:
    """Whether a node may have stopped the run though none shows a fault. A signature other than a hang's says what
    stopped instead (the supervisor was killed, Slurm started no step): no node of the run does that."""
    return stop.culprit is Culprit.UNKNOWN and stop.signature in ("", HANG)


def _names_nobody(stop: Blame | PastStop) -> bool:
    """Whether only leaving out halves can find out which node it is."""
    return _may_be_a_node(stop) and not stop.nodes


def _stuck(past: Sequence[PastStop], checkpoint_step: int) -> list[PastStop]:
    """Stops since the last gain: the newest checkpoint then was no older than it is now."""
    return [stop for stop in past if stop.checkpoint_step >= checkpoint_step]


def _over_budget(blame: Blame, past: Sequence[PastStop], checkpoint_step: int, limits: Limits) -> str:
    stuck = _stuck(past, checkpoint_step)
    if no_step_started(blame.signature):
        # Counted by themselves: what else nobody is to blame for must not keep the run from its fresh allocation.
        refused = 1 + sum(no_step_started(stop.signature) for stop in stuck)
        over = refused > limits.unknown
        return f"{blame.evidence}; that happened {refused} times, in fresh allocations too" if over else ""
    alike = 1 + sum(stop.culprit is blame.culprit and not no_step_started(stop.signature) for stop in stuck)
    if blame.culprit is Culprit.USER_CODE:
        return _crash_over_budget(blame, past, stuck, limits)
    if blame.culprit is Culprit.UNKNOWN and alike > limits.unknown:
        return f"the run stopped {alike} times without a new checkpoint and without a culprit"
    if blame.culprit in (Culprit.TIME_LIMIT, Culprit.STOPPED) and alike > limits.unknown:
        return f"{alike} time slices passed without a new checkpoint"
    faults = 1 + sum(stop.culprit in FAULTS for stop in stuck)
    if blame.culprit in FAULTS and faults > limits.hardware:
        return f"{faults} {blame.culprit.value} faults stopped the run without a new checkpoint in between"
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
        Culprit.FABRIC: "try again: the network between the nodes failed",
        Culprit.STORAGE: "try again: the storage failed",
    }.get(blame.culprit, "try again from the last checkpoint")


def past_stops(events: Sequence[Mapping[str, Any]]) -> list[PastStop]:
    """The earlier stops in a run's journal, oldest first."""
    stops = []
    ran_on: dict[Any, tuple[str, ...]] = {}
    for event in events:
        if event.get("kind") == "attempt_started":
            ran_on[event.get("attempt")] = tuple(event.get("nodes", ()))
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
                ran_on=ran_on.get(event.get("attempt"), ()),
            )
        )
    return stops


def _culprit(value: Any) -> Culprit:
    try:
        return Culprit(value)
    except ValueError:
        return Culprit.UNKNOWN
