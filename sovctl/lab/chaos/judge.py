"""Judges a run by its journal and its losses against the faults it met: blame, broken nodes, steps, chains. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sovctl.lab.chaos.report import Report, Struck
from sovctl.model.blame import Culprit
from sovctl.recovery.attempts import Attempt, Stop, attempts, names, number

_MENDED_LATELY_S = 10.0
"""A node that was mended less than this before a stop may still be named for what it had: the judgement rests on
evidence that is some seconds old."""
_ACCUSES = frozenset({Culprit.HARDWARE, Culprit.FABRIC, Culprit.STORAGE})
"""Culprits that are not nobody, with or without a node."""


def on_unforgiven(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Attempts that got a node that an earlier one was ended for by hardware, and that the journal never forgave."""
    against: dict[str, int] = {}
    found = []
    for event in events:
        if event["kind"] == "attempt_started":
            found += [
                f"attempt {number(event)} got {node}, blamed by attempt {against[node]} and not forgiven"
                for node in names(event, "nodes")
                if node in against
            ]
        elif event["kind"] == "attempt_ended" and event.get("culprit") == Culprit.HARDWARE:
            against |= {node: number(event) or 0 for node in names(event, "blamed")}
        elif event["kind"] == "forgiven":
            for node in names(event, "nodes"):
                against.pop(node, None)
    return found


def _after_another(one: Struck, during: Sequence[Struck]) -> bool:
    """Whether something else had stopped the run already: that is what is to be named, and the recovery finds this."""
    return any(other.at < one.at and other.kind.stops and not other.kind.stands_still for other in during)


class Judge:
    """Writes into the report what the run's own record says of it."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.repaired: dict[str, list[float]] = {}
        """When each node was mended; some are more than once."""
        self.damaged: list[tuple[int, int]] = []
        """(step, attempt that ran) of checkpoints that were damaged."""
        self._judged_to = -1
        """The last attempt whose blame was judged."""

    def whole_run(self, events: Sequence[Mapping[str, Any]], losses: Sequence[Mapping[str, Any]]) -> None:
        """All that is judged once, at the end."""
        made = attempts(events)
        self._report.attempts = len(made)
        self._report.on_blamed = [words for item in made if (words := self._on_blamed(item, made))]
        self._report.on_unforgiven = on_unforgiven(events)
        self._report.steps_lost = sum(self._steps_lost(item, losses) for item in made)
        self.blames(events)
        self._chains(events, made)

    def blames(self, events: Sequence[Mapping[str, Any]]) -> list[str]:
        """The stops that were not judged yet; what was misjudged of them, in words."""
        known = len(self._report.misjudged)
        since = 0.0
        for item in attempts(events):
            if item.stop is None:
                continue
            if item.number > self._judged_to:
                self._judged_to = item.number
                self.blame(item, since)
            since = item.stop.at or since
        return self._report.misjudged[known:]

    def _on_blamed(self, item: Attempt, made: Sequence[Attempt]) -> str:
        """An attempt on a node that an earlier one was ended for and that nobody had repaired since."""
        for before in made[: item.number]:
            if before.stop is None or before.stop.culprit.value != "hardware":
                continue
            for node in set(before.stop.blamed) & set(item.nodes):
                if self._still_broken(node, before.stop.at or 0.0, item.started_at or 0.0):
                    return f"attempt {item.number} got {node}, blamed by attempt {before.number}"
        return ""

    def _still_broken(self, node: str, blamed_at: float, started_at: float) -> bool:
        """Whether what it was blamed for was not mended by then; one that was blamed though it was well is judged as
        such."""
        struck = [one.at for one in self._report.struck if one.node == node and one.kind.breaks and one.at <= blamed_at]
        return bool(struck) and not any(max(struck) < at < started_at for at in self.repaired.get(node, ()))

    def _steps_lost(self, item: Attempt, losses: Sequence[Mapping[str, Any]]) -> int:
        """Saved steps come from the losses file: what the training itself had committed by then."""
        saved = [
            record["saved"]
            for record in losses
            if record["attempt"] < item.number
            and not any(step == record["saved"] and record["attempt"] <= at < item.number for step, at in self.damaged)
        ]
        return max(0, max(saved, default=0) - (item.resume_step or 0))

    def blame(self, item: Attempt, since: float = 0.0) -> None:
        """The nodes named at the end of an attempt against those that were struck in it; nobody, where none was.
        `since`: when the attempt before it stopped."""
        stop = item.stop
        if stop is None or stop.action == "finish":
            return
        during = [one for one in self._report.struck if self._met(one, item, since)]
        struck = {
            one.node
            for one in during
            if one.kind.blames and not self._too_early(one, stop) and not _after_another(one, during)
        }
        broken = {one.node for one in self._report.struck if self._stood_broken(one, item)}
        self._report.judged += 1
        named = set(stop.blamed)
        # Of two at once it is enough to name one: the other is named, or is out of service, before the next attempt.
        if (struck and not named) or not named <= broken or (not during and not named and stop.culprit in _ACCUSES):
            happened = ", ".join(f"{one.kind.name} on {one.node}" for one in during) or "no fault"
            self._report.misjudged.append(
                f"attempt {item.number}: {happened}; named {sorted(named) or 'nobody'} "
                f"({stop.culprit.value}: {stop.evidence})"
            )

    def _met(self, one: Struck, item: Attempt, since: float) -> bool:
        """Whether an attempt had to do with a fault: it ran then, or it got the node that was struck before it began
        and after the attempt before it had stopped."""
        if item.stop is None or one.at > (item.stop.at or 0.0):
            return False
        return one.attempt == item.number or (
            one.attempt < item.number and one.at > since and one.kind.breaks and one.node in item.nodes
        )

    def _stood_broken(self, one: Struck, item: Attempt) -> bool:
        """Whether a node may rightly be named for a fault at the end of an attempt."""
        at = (item.stop.at or 0.0) if item.stop is not None else 0.0
        if not one.kind.blames or one.at > at:
            return False
        if not one.kind.breaks:
            # What was stopped or killed is a process: it is gone with its attempt.
            return one.attempt == item.number
        return not any(one.at < mended < at - _MENDED_LATELY_S for mended in self.repaired.get(one.node, ()))

    def _too_early(self, one: Struck, stop: Stop) -> bool:
        """Something else stopped the run before anybody could know that a rank or a node stood still."""
        return one.kind.stands_still and (stop.at or 0.0) - one.at < self._report.spec.hang_timeout_s

    def _chains(self, events: Sequence[Mapping[str, Any]], made: Sequence[Attempt]) -> None:
        """A chain is the attempts from a stop to the next new checkpoint; it succeeds when no person had to help."""
        held = [event["attempt"] for event in events if event["kind"] == "held"]
        chain: list[int] = []
        for item in made:
            if chain and (item.saved_step or 0) > (item.resume_step or 0):
                self._close_chain(chain, held)
                chain = []
            if item.stop is not None and item.stop.action != "finish":
                chain.append(item.number)
        if chain and self._report.lost:
            self._report.chains += 1
            self._report.failed_chains.append(f"attempts {chain}: {self._report.lost[:80]}")

    def _close_chain(self, chain: Sequence[int], held: Sequence[int]) -> None:
        self._report.chains += 1
        if set(chain) & set(held):
            self._report.failed_chains.append(f"attempts {list(chain)}: held")
