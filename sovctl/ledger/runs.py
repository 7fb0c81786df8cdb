"""The account of a run from its own journal. Pure; the journal is a user's, so nothing here raises on what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sovctl.ledger.incident import Chain, Incident, Outcome, RunAccount, Source, Span
from sovctl.ledger.stamps import Stamp, began, stamps_of
from sovctl.model.blame import Culprit
from sovctl.recovery.attempts import Attempt, Event, Stop, attempts, seconds, text
from sovctl.recovery.story import Story, story_of
from sovctl.recovery.timeline import Timeline, timelines

_CODE = re.compile(r"\b(S?XID) ?(\d{1,4})\b|\b([A-Z]{3,}(?:_[A-Z0-9]+)+)\b")
_NO_INCIDENT = frozenset({Culprit.NONE, Culprit.STOPPED})
_RETRIED = frozenset({Culprit.PREEMPTED, Culprit.TIME_LIMIT, *_NO_INCIDENT})
"""Stops that make no failed try of the ones before."""


def run_account(record: Mapping[str, Any], events: Sequence[Event], now: float) -> RunAccount:
    """`record`: run.json. `now`: until when a run that is not over is counted."""
    known = attempts(events)
    found = timelines(events, known)
    story = story_of(events)
    ended = next((seconds(event, "at") for event in reversed(events) if event.get("kind") == "run_ended"), None)
    until = (ended if story.over else None) or now
    run, job_id, user = text(record, "run_id"), text(record, "job_id"), text(record, "user")
    incidents = [
        _incident(item, story, (run, job_id, user))
        for item in found
        if item.stopped.stop is not None and item.stopped.stop.culprit not in _NO_INCIDENT
    ]
    return RunAccount(
        run=run,
        job_id=job_id,
        user=user,
        name=text(record, "name"),
        source=Source.RECORD,
        spans=tuple(_spans(known, found, until)),
        ended_at=until,
        incidents=tuple(incidents),
        chains=tuple(_chains(known, found, story)),
    )


def code_of(words: str) -> str:
    """The finding in a sentence of evidence: `XID79`, `GPU_COUNT`; empty: none is named."""
    match = _CODE.search(words)
    if match is None:
        return ""
    return f"{match[1]}{match[2]}" if match[1] else match[3]


def _incident(found: Timeline, story: Story, names: tuple[str, str, str]) -> Incident:
    stop, stamps = found.stopped.stop, stamps_of(found)
    assert stop is not None
    run, job_id, user = names
    return Incident(
        run=run,
        job_id=job_id,
        user=user,
        attempt=found.stopped.number,
        culprit=stop.culprit,
        code=code_of(stop.evidence) or stop.signature.rpartition("|")[2][:60],
        evidence=stop.evidence,
        nodes=stop.blamed,
        stamps=stamps,
        outcome=_outcome(found, stop, story),
        source=Source.RECORD,
        how=found.how,
        steps_lost=found.steps_lost,
        lost_s=_lost_s(found, stamps),
        gpus=found.stopped.gpus,
        last_word_at=_last_word_at(found),
    )


def _last_word_at(found: Timeline) -> float:
    stop = found.stopped.stop
    return found.stopped.last_word_at or (stop.at if stop is not None else None) or 0.0


def _outcome(found: Timeline, stop: Stop, story: Story) -> Outcome:
    if found.resumed is not None:
        return Outcome.BY_HAND if found.held else Outcome.RECOVERED
    if story.over or story is Story.HELD or stop.action in ("end", "hold"):
        return Outcome.HELD
    return Outcome.OPEN


def _lost_s(found: Timeline, stamps: Mapping[Stamp, float]) -> float | None:
    """From the beginning until every step was done again; where the last is not recorded, the steps to do again are
    counted at the pace of the attempt that stopped."""
    start, first = began(stamps) or _last_word_at(found), stamps.get(Stamp.FIRST_STEP)
    if not start:
        return None
    if Stamp.CAUGHT_UP in stamps:
        return max(0.0, round(stamps[Stamp.CAUGHT_UP] - start, 1))
    first = first if first is not None else stamps.get(Stamp.STARTED)
    if first is None:
        return None
    pace = _step_s(found.stopped, start)
    again = (found.steps_lost or 0) * pace if pace is not None else 0.0
    return max(0.0, round(first - start + again, 1))


def _step_s(item: Attempt, until: float) -> float | None:
    if item.first_step_at is None or item.first_step is None or item.stop is None or item.stop.step is None:
        return None
    steps = item.stop.step - item.first_step
    return max(0.0, until - item.first_step_at) / steps if steps > 0 else None


# Time on the clock


def _spans(known: Sequence[Attempt], found: Sequence[Timeline], until: float) -> list[Span]:
    after = {item.stopped.number: item for item in found}
    spans: list[Span] = []
    later = until
    for item in reversed(known):
        if item.started_at is None:
            continue
        own = after.get(item.number)
        end = min(later, _stopped_at(item, own) or until)
        length = max(0.0, end - item.started_at)
        productive = min(length, _productive_s(item, own, end))
        spans.append(Span(item.started_at, item.started_at + length, len(item.nodes), item.gpus, productive))
        later = item.started_at
    return spans[::-1]


def _stopped_at(item: Attempt, own: Timeline | None) -> float | None:
    if own is None or item.stop is None:
        return None
    # An end that the next supervisor wrote down tells when that was, and not when the training stopped.
    if not own.by_supervisor and own.detected_at is None and item.stop.culprit is not Culprit.NONE:
        return own.fault_at or item.last_word_at or item.stop.at
    return own.fault_at or own.detected_at or item.stop.at


def _productive_s(item: Attempt, own: Timeline | None, end: float) -> float:
    """Training that counted."""
    begin = item.first_step_at or item.loaded_at or item.rank_up_at or item.started_at
    if begin is None:
        return 0.0
    trained = max(0.0, end - begin)
    reached = item.stop.step if item.stop else None
    if own is not None and own.steps_lost is not None and reached is not None:
        steps = reached - (item.resume_step or 0)
        trained *= 1.0 - min(1.0, own.steps_lost / steps) if steps > 0 else 0.0
    elif item.stop is not None and item.stop.culprit not in (Culprit.NONE, Culprit.STOPPED):
        # Without steps only what was saved counts.
        trained = max(0.0, min(end, item.saved_at) - begin) if item.saved_at is not None else 0.0
    return max(0.0, trained - item.stall_s)


# Tries


def _chains(known: Sequence[Attempt], found: Sequence[Timeline], story: Story) -> list[Chain]:
    chains: list[Chain] = []
    after = {item.stopped.number: item for item in found}
    open_: list[Timeline] = []
    furthest = 0
    for item in known:
        if open_ and _went_beyond(item, furthest):
            chains.append(_chain(open_, True))
            open_ = []
        furthest = max(furthest, item.saved_step or 0, (item.stop.checkpoint_step or 0) if item.stop else 0)
        own = after.get(item.number)
        stop = item.stop
        if own is None or stop is None:
            continue
        if stop.culprit is Culprit.NONE and open_:
            chains.append(_chain(open_, True))
            open_ = []
        if stop.culprit not in _RETRIED:
            open_.append(own)
    if open_:
        chains.append(_chain(open_, False if story.over or story is Story.HELD else None))
    return chains


def _went_beyond(item: Attempt, furthest: int) -> bool:
    """A checkpoint that no attempt had before, or every step done again: this try was worth something."""
    return item.caught_up_at is not None or (item.saved_step or 0) > furthest


def _chain(tries: Sequence[Timeline], success: bool | None) -> Chain:
    first = tries[0]
    stop = first.stopped.stop
    starts = [item for item in tries if item.resumed is not None]
    gaps = [
        max(0.0, item.started_at - since)
        for item in starts
        if item.started_at is not None and (since := item.detected_at or item.decided_at or item.fault_at) is not None
    ]
    assert stop is not None
    at = next((at for at in (first.fault_at, first.detected_at, first.decided_at) if at is not None), None)
    return Chain(at or _last_word_at(first), stop.culprit, len(starts), success, tuple(gaps))
