"""Turns what the ranks write about themselves into events of the run, and notices when they fall silent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum

from sovctl.model.pauses import due
from sovctl.model.progress import SEEN_FILE, Phase, Progress
from sovctl.ports.common import Clock, Journal
from sovctl.ports.supervised import AttemptFiles, RunFiles

_SHOW_EVERY_S = 10.0

_QUIET_S = 3.0
"""Ranks write at most once a second, so shorter gaps mean nothing."""
_QUIET_STEPS = 3.0


_QUIET_OUTPUT_S = 10.0


class Quiet(Enum):
    """Whether a run has gone quiet."""

    NO = "no"
    RANKS = "ranks"
    """The ranks were stepping and have not been heard of for a few steps' time."""
    OUTPUT = "output"
    """Its ranks say nothing of themselves, or only that they start or save, for a while."""


class ProgressFollower:
    """Follows rank 0; a rank that dies stops the others within a step, rank 0 included."""

    def __init__(self, files: RunFiles, journal: Journal, clock: Clock, kept: AttemptFiles | None = None) -> None:
        """`kept`: where the step is written down for those who list runs."""
        self._files = files
        self._kept = kept
        self._shown: int | None = None
        self._shown_at = 0.0
        self._journal = journal
        self._clock = clock
        self._attempt = 0
        self._furthest: int | None = None
        self._told: set[str] = set()
        self._saved_step: int | None = None
        self._last: Progress | None = None
        self._seen_step: int | None = None
        self._output_size: int | None = None
        self._output_grew = clock.now()
        self._printed_at: float | None = None
        """When the output last showed a step."""
        self._print_gap_s = 0.0
        """How long it lately was from one to the next."""
        self._heard = clock.now()
        self.save_seconds: list[float] = []
        """How long the last saves took, oldest first."""

    @property
    def step(self) -> int | None:
        """The last step known of this run, also from before this attempt's first."""
        return self._seen_step

    @property
    def last(self) -> Progress | None:
        """The newest word of rank 0 in this attempt."""
        return self._last

    def saw_step(self, step: int, at: float) -> None:
        """The output shows a step; it counts where the ranks say nothing of themselves."""
        if self._last is None:
            if self._printed_at is not None:
                self._print_gap_s = max(at - self._printed_at, 0.5 * self._print_gap_s)
            self._seen_step, self._printed_at = step, at
            self._tell("first_step", at, step=step)

    def begin(self, attempt: int, resume_step: int, furthest: int | None = None, saves_s: Sequence[float] = ()) -> None:
        """A new attempt starts: what the ranks of the last one left behind does not count. `furthest`: the step that
        earlier attempts reached; until then steps are done again. `saves_s`: how long their last saves took."""
        self.save_seconds = list(saves_s)
        self._attempt, self._furthest = attempt, furthest
        self._seen_step = resume_step or None
        self._saved_step, self._last, self._told = None, None, set()
        self._printed_at, self._print_gap_s = None, 0.0
        self._heard = self._output_grew = self._clock.now()

    def follow(self) -> None:
        """Read rank 0 once and write what is new into the journal, with the rank's own times."""
        progress = self._files.progress(0)
        if progress is None or progress.attempt != self._attempt or progress == self._last:
            return
        self._last, self._heard = progress, self._clock.now()
        if progress.step is not None:
            self._seen_step = progress.step
        self._tell("rank_up", progress.started_at, rank=0, node=progress.node)
        self._tell("checkpoint_loaded", progress.loaded_at, step=progress.loaded_step)
        self._tell("first_step", progress.first_step_at, step=progress.first_step)
        if self._furthest is not None and progress.step is not None and progress.step >= self._furthest:
            self._tell("caught_up", progress.step_at, step=progress.step)
        if progress.saved_step is not None and progress.saved_step != self._saved_step:
            self._saved_step = progress.saved_step
            if progress.save_seconds is not None:
                self.save_seconds = [*self.save_seconds[-7:], progress.save_seconds]
            self._journal.append(
                "checkpoint_saved",
                attempt=self._attempt,
                step=progress.saved_step,
                happened=progress.saved_at,
                save_seconds=progress.save_seconds,
                stall_seconds=progress.stall_seconds,
            )

    def show(self) -> None:
        """Write down for `sovctl run ls` how far it is; every 10 s at most, and only while it gets on."""
        now, step = self._clock.now(), self._seen_step
        if self._kept is None or step is None or step == self._shown or not due(now, self._shown_at, _SHOW_EVERY_S):
            return
        self._shown, self._shown_at = step, now
        self._kept.keep(self._attempt, SEEN_FILE, json.dumps({"step": step, "at": round(now, 1)}).encode())

    def quiet(self, output_size: int | None, now: float) -> Quiet:
        """Whether the run has gone quiet, and by which source. `output_size`: of the job's output, in bytes."""
        if output_size != self._output_size:
            self._output_size, self._output_grew = output_size, now
        last = self._last
        if last is None:
            return Quiet.OUTPUT if now - self._output_grew > _QUIET_OUTPUT_S or self._steps_stopped(now) else Quiet.NO
        if last.phase is not Phase.RUNNING or last.step_at is None:
            # Starting, loading and saving take their time; a node that dies meanwhile leaves the others waiting.
            return Quiet.OUTPUT if now - self._heard > _QUIET_OUTPUT_S else Quiet.NO
        longest = max(_QUIET_S, _QUIET_STEPS * (last.step_seconds or 0.0))
        return Quiet.RANKS if now - last.step_at > longest else Quiet.NO

    def _steps_stopped(self, now: float) -> bool:
        """Whether the output shows no more steps, though it may go on: a monitor beside the ranks prints for ever."""
        if self._printed_at is None or not self._print_gap_s:
            return False
        return now - self._printed_at > max(_QUIET_OUTPUT_S, _QUIET_STEPS * self._print_gap_s)

    def _tell(self, kind: str, happened: float | None, **fields: object) -> None:
        if happened is not None and kind not in self._told:
            self._told.add(kind)
            self._journal.append(kind, attempt=self._attempt, happened=happened, **fields)
