"""Why a run moved, in three lines: what happened, what was done, what was lost. Pure, from the run's events alone.

What the events do not tell is said to be unknown. Text in them comes from outside: whoever prints a line escapes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from sovctl.model.blame import Confidence, Culprit
from sovctl.recovery.attempts import Attempt, Event, Stop, attempts, number, seconds, text
from sovctl.recovery.blame import no_step_started
from sovctl.recovery.story import Story, story_of
from sovctl.recovery.timeline import Timeline, last_checkpoint, timeline, total_steps_lost


@dataclass(frozen=True, slots=True)
class Why:
    """The answer; `lines` are three, or one where nothing ever went wrong."""

    story: Story
    lines: tuple[str, ...]
    stop: Stop | None = None
    """The stop that is explained."""
    timeline: Timeline | None = None
    """What followed it."""


@dataclass(frozen=True, slots=True)
class Words:
    """How names and times are written."""

    fold: Callable[[Iterable[str]], str] = ",".join
    """Node names as one hostlist."""
    zone: tzinfo | None = None
    """None: the reader's own."""

    def time(self, at: float | None) -> str:
        """`2026-11-22 22:14:43`; with the name of the zone where it is not the reader's own."""
        if at is None:
            return "a time not recorded"
        return datetime.fromtimestamp(at, self.zone).strftime(f"%Y-%m-%d %H:%M:%S{' %Z' if self.zone else ''}")


def why(
    record: Mapping[str, Any], events: Sequence[Event], words: Words | None = None, *, attempt: int | None = None
) -> Why:
    """Explain the newest stop of a run, or how it stands if it never stopped.

    `record`: run.json. `attempt`: explain the end of this attempt instead of the newest.
    """
    told = events if attempt is None else _until_next_end(events, attempt)
    teller = _Teller(record, told, words or Words())
    return teller.tell()


def duration(seconds_: float) -> str:
    """`3.9 s`, `2m05s`, `7h12m`, `9d04h`."""
    if seconds_ < 100:
        return f"{max(seconds_, 0.0):.1f} s"
    whole = int(seconds_)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole // 60}m{whole % 60:02d}s"


def _until_next_end(events: Sequence[Event], attempt: int) -> Sequence[Event]:
    """The events up to the end of the attempt after this one: the story as it was told then."""
    for i, event in enumerate(events):
        if event.get("kind") == "attempt_ended" and (number(event) or 0) > attempt:
            return events[:i]
    return events


class _Teller:
    """Puts one run into words."""

    def __init__(self, record: Mapping[str, Any], events: Sequence[Event], words: Words) -> None:
        self._record = record
        self._events = events
        self._words = words
        self._attempts = attempts(events)
        stopped = next((item for item in reversed(self._attempts) if item.stop is not None), None)
        self._stopped = stopped
        self._timeline = timeline(events, stopped.number) if stopped else None

    def tell(self) -> Why:
        story = story_of(self._events)
        if story in (Story.WAITING, Story.RUNNING) or self._stopped is None or self._stopped.stop is None:
            return Why(story, (self._untroubled(story),))
        stop = self._stopped.stop
        if story is Story.FINISHED:
            lines = self._finished()
        elif story.over:
            lines = (self._ended(story, stop), self._not_restarted(story, stop), self._go_on())
        elif story is Story.HELD:
            lines = (self._happened(stop), self._held(stop), self._after_hold())
        else:
            lines = (self._happened(stop), self._done(), self._lost())
        return Why(story, lines, stop, self._timeline)

    # Nothing went wrong

    def _untroubled(self, story: Story) -> str:
        if not self._attempts:
            ended = self._last_event("run_ended")
            if ended is not None:
                because = f": {text(ended, 'why')}" if text(ended, "why") else ""
                outcome = text(ended, "outcome") or "how is not recorded"
                return f"it ended before its script was started ({outcome}){because}"
            held = self._last_event("held")
            if story is Story.HELD and held is not None:
                since = self._words.time(seconds(held, "at"))
                because = text(held, "why") or "why is not recorded"
                return f"held since {since}, before its script was started: {because}"
            return "it has not started yet: nothing is recorded about it"
        latest = self._attempts[-1]
        at = self._words.time(latest.started_at)
        if story is Story.RUNNING:
            return f"started on {self._nodes(latest)} at {at}; no trouble is recorded since{self._saved(latest)}"
        before = "how the one before ended is not recorded"
        return f"attempt {latest.number} started on {self._nodes(latest)} at {at}; {before}"

    def _saved(self, latest: Attempt) -> str:
        if latest.saved_step is None:
            return ""
        return f"; its last checkpoint is of step {latest.saved_step}"

    # First line: what happened

    def _happened(self, stop: Stop) -> str:
        when = self._when()
        if stop.culprit is Culprit.HARDWARE and stop.blamed:
            return f"{self._blamed(stop)}: {_without_name(stop)} ({when}{_doubt(stop)})"
        if stop.culprit is Culprit.UNKNOWN and not no_step_started(stop.signature):
            return f"it is not known what stopped it: {stop.evidence or 'no evidence is recorded'} ({when})"
        return f"{stop.evidence or _WORDS[stop.culprit]} ({when}{_doubt(stop)})"

    def _when(self) -> str:
        found = self._timeline
        if found is not None and found.detected_at is not None:
            return f"seen at {self._words.time(found.detected_at)}"
        if found is not None and not found.by_supervisor and found.resumed is not None:
            return f"when is not recorded, its last word came at {self._words.time(found.stopped.last_word_at)}"
        return "at " + self._words.time(self._stopped.stop.at if self._stopped and self._stopped.stop else None)

    def _blamed(self, stop: Stop) -> str:
        return f"{self._words.fold(stop.blamed)} {'was' if len(stop.blamed) == 1 else 'were'} blamed"

    # Second line: what was done

    def _done(self) -> str:
        found = self._timeline
        assert found is not None
        parts = [self._requeued(found)] if found.by_supervisor or found.resumed else []
        if found.given_up:
            parts.append(f"{self._words.fold(found.given_up)}, blamed before, had to be allowed again")
        if found.short and found.resumed is None:
            parts.append(f"it waits, for {found.short}")
        if found.slurm_silent:
            parts.append("slurmctld did not answer for a while meanwhile")
        parts.append(self._ran_again(found))
        return "; ".join(parts)

    def _requeued(self, found: Timeline) -> str:
        if found.how:
            return self._stayed(found)
        without = f" without {self._words.fold(found.excluded)}" if found.excluded else ""
        if found.held:
            return "held, and released by a person"
        if not found.by_supervisor:
            return f"Slurm requeued it{without}"
        why = found.stopped.stop.signature if found.stopped.stop is not None else ""
        fresh = " for a fresh allocation" if no_step_started(why) else ""
        begun = found.requeued_at or found.resumed
        return f"requeued{without}{fresh}" if begun else f"the requeue{without}{fresh} was begun"

    def _stayed(self, found: Timeline) -> str:
        dropped = f"{self._words.fold(found.dropped)} was dropped from the job" if found.dropped else ""
        if found.how == "spare":
            return f"{dropped or 'a node was left out'} and a spare of the allocation took over"
        if found.how == "fewer-nodes":
            return f"{dropped or 'a node was left out'}; no replacement was free, so it went on with fewer nodes"
        return "restarted in place, in the same allocation"

    def _ran_again(self, found: Timeline) -> str:
        again = found.resumed
        if again is None:
            waits = found.requeued_at is not None or not found.by_supervisor
            return "it has not started again yet" if waits else "its end is not recorded yet"
        where = f"ran again on {self._nodes(again)}"
        if found.restart_s is None:
            return f"{where} at {self._words.time(again.started_at)}"
        after = f"{where} {duration(found.restart_s)} after {_seen(found)}"
        return f"{after}, first step {duration(found.total_s)} after it" if found.total_s is not None else after

    # Third line: what was lost

    def _lost(self) -> str:
        found = self._timeline
        assert found is not None
        return f"{self._resumed(found)}; {self._repeated(found)}"

    def _resumed(self, found: Timeline) -> str:
        again = found.resumed
        if again is None:
            newest = last_checkpoint(self._events)
            return f"it will go on from {self._newest()}" if newest else "it will begin again from the start"
        if again.loaded_step is not None and again.loaded_step != again.resume_step:
            return f"resumed from step {again.loaded_step}, though it was given {_given(again)}"
        if found.own_resume_step is not None:
            return f"it went on at step {again.first_step} by itself, from a checkpoint that sovctl does not know"
        if not again.resume_from:
            return "it began again from the start, there was no complete checkpoint"
        if again.loaded_step is None:
            return f"it was given {_given(again)}; that it loaded it is not recorded"
        return f"resumed from {_given(again)}"

    def _repeated(self, found: Timeline) -> str:
        if found.resumed is None:
            known = found.last_step
            return f"it had reached step {known}" if known is not None else "how far it had come is not recorded"
        if found.steps_lost is None:
            return "how many steps were repeated is not recorded"
        return "no step was repeated" if found.steps_lost == 0 else f"{_count(found.steps_lost, 'step')} repeated"

    # Held

    def _held(self, stop: Stop) -> str:
        tries = sum(
            item.stop is not None and item.stop.culprit is stop.culprit and item.stop.signature == stop.signature
            for item in self._attempts
        )
        alike = f", {_count(tries, 'attempt')} ended alike" if tries > 1 else ""
        since = self._last_event("held")
        when = f" since {self._words.time(seconds(since, 'at'))}" if since is not None else ""
        because = text(since, "why") if since is not None else ""
        return f"held{when}{alike}: {because or stop.why or 'why is not recorded'}"

    def _after_hold(self) -> str:
        return (
            f"kept: {self._newest()}; mend what the script runs, then type: sovctl run resume {self._job()}"
            " (the batch script itself stays as it was submitted)"
        )

    # Over

    def _finished(self) -> tuple[str, ...]:
        stops = [item for item in self._attempts if item.stop is not None and item.stop.culprit is not Culprit.NONE]
        ended = self._last_event("run_ended")
        when = self._words.time(seconds(ended, "at") if ended is not None else None)
        line = f"finished at {when} in {_count(len(self._attempts), 'attempt')}"
        if not stops:
            return (line,)
        lost, unknown = total_steps_lost(self._events)
        beyond = f", and of {_count(unknown, 'recovery', 'recoveries')} it is not recorded" if unknown else ""
        return (
            line,
            f"on the way it stopped {_count(len(stops), 'time')}: {self._listed(stops)}",
            f"{_count(lost, 'step')} repeated in all{beyond}",
        )

    def _listed(self, stops: Sequence[Attempt]) -> str:
        more = f"; and {len(stops) - 4} before" if len(stops) > 4 else ""
        return "; ".join(self._short(item) for item in reversed(stops[-4:])) + more

    def _short(self, stopped: Attempt) -> str:
        stop = stopped.stop
        assert stop is not None
        nodes = f" ({self._words.fold(stop.blamed)})" if stop.blamed else ""
        return f"attempt {stopped.number} by {stop.culprit.value}{nodes}"

    def _ended(self, story: Story, stop: Stop) -> str:
        ended = self._last_event("run_ended")
        when = self._words.time(seconds(ended, "at") if ended is not None else None)
        because = text(ended, "why") if ended is not None else ""
        if story is Story.CANCELLED and stop.culprit is not Culprit.STOPPED:
            return f"cancelled at {when}, {because or 'after it had stopped'}; before that: {self._happened(stop)}"
        if story is Story.CANCELLED:
            return f"cancelled at {when}{self._at_step(stop)}"
        return f"{self._happened(stop)}{self._at_step(stop)}"

    def _at_step(self, stop: Stop) -> str:
        return f", at step {stop.step}" if stop.step is not None and str(stop.step) not in stop.evidence else ""

    def _not_restarted(self, story: Story, stop: Stop) -> str:
        if story is Story.CANCELLED:
            return "not restarted: a cancelled run stays cancelled"
        return f"not restarted: {stop.why or 'why is not recorded'}"

    def _go_on(self) -> str:
        newest = last_checkpoint(self._events)
        if newest is None:
            return "no complete checkpoint is recorded: nothing to go on from"
        directory = text(self._record, "checkpoint_dir") or "DIR"
        return f"kept: {self._newest()}; to go on: sovctl submit --checkpoint-dir={directory} SCRIPT"

    # Parts of lines

    def _last_event(self, kind: str) -> Event | None:
        return next((event for event in reversed(self._events) if event.get("kind") == kind), None)

    def _newest(self) -> str:
        newest = last_checkpoint(self._events)
        if newest is None:
            return "no complete checkpoint"
        step, path = newest
        return f"step {step} of checkpoint {path}" if path else f"the checkpoint of step {step}"

    def _nodes(self, item: Attempt) -> str:
        return self._words.fold(item.nodes) or "nodes not recorded"

    def _job(self) -> str:
        return text(self._record, "job_id") or "JOBID"


def _without_name(stop: Stop) -> str:
    """The evidence without the name of the one node it is about, which stands before it already."""
    evidence = stop.evidence or "the evidence is not recorded"
    return evidence.removeprefix(f"{stop.blamed[0]}: ") if len(stop.blamed) == 1 else evidence


def _doubt(stop: Stop) -> str:
    """What a person should know before he believes it."""
    return {Confidence.LIKELY.value: ", likely", Confidence.GUESS.value: ", a guess"}.get(stop.confidence, "")


def _seen(found: Timeline) -> str:
    fault = found.stopped.stop is not None and found.stopped.stop.culprit is Culprit.HARDWARE
    return "the fault was seen" if fault else "that was seen"


def _given(again: Attempt) -> str:
    step = "an unknown step" if again.resume_step is None else f"step {again.resume_step}"
    return f"{step} of checkpoint {again.resume_from}" if again.resume_from else f"{step}, no checkpoint"


def _count(how_many: int, what: str, many: str = "") -> str:
    return f"{how_many} {what if how_many == 1 else many or what + 's'}"


_WORDS = {
    Culprit.USER_CODE: "the script crashed",
    Culprit.PREEMPTED: "the job was preempted",
    Culprit.TIME_LIMIT: "the time limit was reached",
    Culprit.STOPPED: "somebody asked it to stop",
    Culprit.NONE: "the script finished",
    Culprit.HARDWARE: "hardware is blamed, but no node is recorded",
}
