"""The recovery that followed one stop of a run, stage by stage. Pure, from the run's events alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sovctl.recovery.attempts import Attempt, Event, attempts, names, number, seconds, text, whole


@dataclass(frozen=True, slots=True)
class Stage:
    """One milestone; `None`: not recorded, or not reached yet."""

    name: str
    at: float | None
    """Seconds since the epoch. From `rank up` on by the clock of the rank's node, before by that of the batch host."""
    since_previous_s: float | None
    """Seconds since the last stage before it whose time is known."""
    since_detected_s: float | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """From the end of one attempt to the first step of the next."""

    stopped: Attempt
    resumed: Attempt | None
    """The next attempt; None: it has not started yet."""
    detected_at: float | None
    """When the fault was seen. None where no supervisor lived to see it."""
    decided_at: float | None
    requeued_at: float | None
    """When its job was back in the queue, or its allocation ready for it again."""
    how: str
    """`in-place`, `spare`, `fewer-nodes`: it went on in its allocation; empty: through the queue."""
    dropped: tuple[str, ...]
    """Nodes that left the allocation."""
    excluded: tuple[str, ...]
    given_up: tuple[str, ...]
    """Nodes blamed before that had to be allowed again, because too few were left."""
    short: str
    """Why it could not start again as things were when it was requeued; empty: it could."""
    by_supervisor: bool
    """False: Slurm requeued the job by itself, and the end was written down only by the next attempt."""
    held: bool
    """It waited for a person in between."""
    slurm_silent: bool
    """slurmctld did not answer for a while in between."""
    killed_at: float | None
    """When its last process was gone."""
    epilogs_done_at: float | None
    """When the epilogs of all nodes but the batch host were done."""
    fault_at: float | None
    """When it happened, where its own record tells (a hang, a node that died: since when nothing moved)."""
    misplaced: int
    """How often Slurm gave it a blamed node again, and it moved away without starting the script."""

    @property
    def started_at(self) -> float | None:
        return self.resumed.started_at if self.resumed else None

    @property
    def restart_s(self) -> float | None:
        """From the fault seen to the script running again."""
        return _difference(self.started_at, self.detected_at)

    @property
    def total_s(self) -> float | None:
        """From the fault seen to the first step done."""
        return _difference(self.resumed.first_step_at if self.resumed else None, self.detected_at)

    @property
    def last_step(self) -> int | None:
        """The last step known before the stop."""
        return self.stopped.stop.step if self.stopped.stop else None

    @property
    def resume_step(self) -> int | None:
        """The step it went on from: as the ranks say, else as it was told to."""
        if self.resumed is None:
            return None
        if self.resumed.loaded_step is not None:
            return self.resumed.loaded_step
        return self.own_resume_step or self.resumed.resume_step

    @property
    def own_resume_step(self) -> int | None:
        """From where a script went on by itself, of which no checkpoint is known: its first step was far from the
        first. The output of a fast one may show its own first step late, so half the way is not far."""
        again = self.resumed
        if again is None or again.resume_from or again.loaded_step is not None:
            return None
        if not self.last_step or again.first_step is None:
            return None
        return again.first_step - 1 if 2 * again.first_step > max(self.last_step, 20) else None

    @property
    def steps_lost(self) -> int | None:
        """Steps done twice. A step is known to about a second, so a checkpoint may be a step ahead of it."""
        if self.last_step is None or self.resume_step is None:
            return None
        return max(0, self.last_step - self.resume_step)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In their order, those without a time included."""
        resumed = self.resumed
        marks = (
            ("detected", self.detected_at),
            ("decided", self.decided_at),
            ("allocation ready" if self.how else "requeued", self.requeued_at),
            ("started again", self.started_at),
            ("first rank up", resumed.rank_up_at if resumed else None),
            ("checkpoint loaded", resumed.loaded_at if resumed else None),
            ("first step", resumed.first_step_at if resumed else None),
        )
        stages, before = [], None
        for name, at in marks:
            stages.append(Stage(name, at, _difference(at, before), _difference(at, self.detected_at)))
            before = before if at is None else at
        return tuple(stages)


def timeline(events: Sequence[Event], attempt: int) -> Timeline | None:
    """The recovery after attempt number `attempt` stopped; None while it has not."""
    return next((found for found in timelines(events) if found.stopped.number == attempt), None)


def timelines(events: Sequence[Event], known: Sequence[Attempt] | None = None) -> tuple[Timeline, ...]:
    """What followed each stop, oldest first; in time proportional to the number of events. `known`: the attempts of
    these events, where they have been read already."""
    known = attempts(events) if known is None else known
    pieces: dict[int, list[Event]] = {}
    hangs: dict[int, Event] = {}
    open_: int | None = None
    for event in events:
        kind = event.get("kind")
        if kind == "attempt_started":
            open_ = None
        if open_ is not None:
            pieces[open_].append(event)
        attempt = number(event) if kind in ("hang", "attempt_ended") else None
        if attempt is not None and kind == "hang":
            hangs[attempt] = event
        elif attempt is not None and attempt not in pieces:
            open_, pieces[attempt] = attempt, []
    return tuple(
        _timeline(item, later, pieces.get(item.number, ()), hangs.get(item.number))
        for item, later in zip(known, (*known[1:], None), strict=False)
        if item.stop is not None
    )


def _timeline(stopped: Attempt, resumed: Attempt | None, after: Sequence[Event], hang: Event | None) -> Timeline:
    last = {text(event, "kind"): event for event in after}
    requeued, here = last.get("requeued"), last.get("restarted")
    back = requeued or here
    # In its own allocation.
    again = here if here is not None and requeued is None else {}
    acted = not last.keys().isdisjoint(_INTENTS)
    decided = stopped.stop.at if stopped.stop else None
    return Timeline(
        stopped=stopped,
        resumed=resumed,
        # The next attempt closes one whose supervisor died: that time is no time of a fault.
        detected_at=stopped.detected_at or (decided if acted else None),
        decided_at=decided if acted or stopped.detected_at else None,
        requeued_at=seconds(back, "at") if back is not None else None,
        how=text(again, "how"),
        dropped=names(again, "dropped"),
        excluded=_excluded(requeued, resumed),
        given_up=names(requeued, "given_up") if requeued is not None else (),
        short=text(requeued, "short") if requeued is not None else "",
        by_supervisor=acted,
        held="held" in last,
        slurm_silent="slurm_silent" in last,
        killed_at=seconds(last["killed"], "at") if "killed" in last else None,
        epilogs_done_at=seconds(last["epilogs_done"], "at") if "epilogs_done" in last else None,
        fault_at=since if (since := _hung_since(hang)) is not None else stopped.fault_at,
        misplaced=sum(event.get("kind") == "misplaced" for event in after) if "misplaced" in last else 0,
    )


def _hung_since(hang: Event | None) -> float | None:
    """A hang began with the last sign of progress."""
    at, idle = (seconds(hang, "at"), seconds(hang, "idle_seconds")) if hang is not None else (None, None)
    return at - idle if at is not None and idle is not None and idle < at else None


_INTENTS = frozenset({"requeue_intent", "hold_intent", "restart_intent"})


def _excluded(requeued: Event | None, resumed: Attempt | None) -> tuple[str, ...]:
    if requeued is not None:
        return names(requeued, "exclude")
    return resumed.excluded if resumed else ()


def _difference(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else round(later - earlier, 3)


def total_steps_lost(events: Sequence[Event]) -> tuple[int, int]:
    """Steps done twice over the whole run, and the number of recoveries of which it is not known."""
    lost, unknown = 0, 0
    for found in timelines(events):
        if found.resumed is None:
            continue
        unknown += found.steps_lost is None
        lost += found.steps_lost or 0
    return lost, unknown


def last_checkpoint(events: Sequence[Event]) -> tuple[int, str] | None:
    """Step and path of the newest complete checkpoint the events tell of; the path is empty where only its step is."""
    newest: tuple[int, str] | None = None
    for event in events:
        if event.get("kind") == "attempt_ended":  # looked for on disk at that moment
            step = whole(event, "checkpoint_step")
            newest = (step, text(event, "checkpoint")) if step else None
        elif event.get("kind") == "checkpoint_saved" and (step := whole(event, "step")):
            newest = (step, "")
    return newest
