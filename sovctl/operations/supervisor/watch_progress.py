"""Watches whether a run moves, and when it does not, has its ranks looked at before anybody is blamed.

Asked once a turn by the supervisor and never waits: a look at the nodes goes on beside it (ports.JobLooks).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from sovctl.errors import SovctlError
from sovctl.model.blame import Blame
from sovctl.model.pauses import due
from sovctl.model.progress import Phase, Progress
from sovctl.model.rank_look import NodeLook
from sovctl.operations.supervisor.follow_progress import ProgressFollower
from sovctl.operations.supervisor.watch_stragglers import StragglerSettings, StragglerWatch
from sovctl.ports.common import Journal
from sovctl.ports.supervised import AttemptFiles, JobLooks, LookAnswer, RunFiles, RunOutput
from sovctl.recovery.crash import SrunEnds
from sovctl.recovery.hang import AUTO, Hang, NotYet, Pace, Source, Standstill, judge
from sovctl.recovery.output_steps import OutputSteps
from sovctl.recovery.paces import Paces
from sovctl.recovery.stacks import fold_ranks, stacks_record, stacks_text

_OUTPUT_EVERY_S = 1.0
_CHECKPOINTS_EVERY_S = 15.0
_PROBLEM_PAUSE_S = 15.0
_REFUSED_PAUSE_S = 3.0
"""After the first look that Slurm refused; longer after each further one."""
_SLOW_PAUSE_S = 30.0
_AGAIN_S = 4.0
"""How long nodes that did not answer get at least when they are asked again, now that it is known that others do."""
_WELL_EVERY_S = 1800.0
_LONGEST_TURN_S = 30.0
"""A supervisor whose turns are further apart stood still itself."""


@dataclass(frozen=True, slots=True)
class ProgressSettings:
    """What to watch, and how patiently."""

    nodes: tuple[str, ...]
    checkpoint_dir: str
    job_id: str = ""
    """Slurm's raw one, as srun names its steps."""
    gpus: int | None = None
    """GPUs of the job on each node."""
    hang_timeout_s: float = AUTO
    """AUTO: derived; 0: never."""
    progress_regex: str = ""
    restart_stragglers: bool = False
    well_after_s: float = 20.0
    """A run that moves for so long is looked at once: what its links counted until then is none of its troubles."""


@dataclass(frozen=True, slots=True)
class ProgressPorts:
    """The outside of the watch."""

    files: RunFiles
    kept: AttemptFiles
    output: RunOutput
    looks: JobLooks
    journal: Journal
    lifeless: Callable[[Sequence[str]], Collection[str]] = frozenset
    """Which of these nodes' slurmd do not even notice a connection; asked of nodes on which Slurm makes no step."""


class ProgressWatch:
    """One attempt's progress."""

    def __init__(self, settings: ProgressSettings, ports: ProgressPorts, follower: ProgressFollower) -> None:
        self._settings = settings
        self._ports = ports
        self._follower = follower
        self._pace = Pace(settings.hang_timeout_s)
        self._steps = OutputSteps(settings.progress_regex)
        compared = StragglerSettings(settings.nodes, settings.gpus, settings.restart_stragglers)
        self._stragglers = StragglerWatch(compared, ports.files, ports.looks, ports.journal)
        self._attempt = 0
        self._began = self._turn = 0.0
        self._output_read = self._checkpoints_read = self._checkpoints_at = self._next_look = 0.0
        self._said: Progress | None = None
        self._looks: dict[str, NodeLook] = {}
        self._silent: tuple[str, ...] = ()
        self._tries = 0
        self._first_s = 0.0
        self._told = ""
        self._paths: tuple[str, ...] = ()
        self._srun_ends = SrunEnds(settings.job_id)
        self.ended_step: tuple[int, float] | None = None
        """The step whose ranks srun ends because one of them failed, and when that was read."""
        self._mute: frozenset[str] = frozenset()
        self._well_due = 0.0
        self._asks_well = False
        self.well: tuple[NodeLook, ...] = ()
        """The last look at the nodes while the run moved."""
        self.frozen: frozenset[str] = frozenset()
        """Nodes that are to blame and start no process: they will not report the end of the job either."""

    def begin(self, attempt: int, now: float, known: Paces | None = None) -> None:
        """The script is about to start. `known`: from its earlier attempts."""
        self._attempt, self._began, self._turn = attempt, now, now
        if known is not None:
            self._pace.knows(known.saves_s, known.startups_s)
        self._well_due = now + self._settings.well_after_s
        self._pace.begin(now)
        self._stragglers.begin(attempt, now)
        self._ports.output.begin(())
        self._checkpoints_at = self._ports.kept.changed(self._settings.checkpoint_dir)

    def look(self, now: float, paths: Sequence[str] = (), mute: Collection[str] = ()) -> Blame | None:
        """Who is to blame when the run hangs (or, if wished, for a straggler); None: it goes on. `paths`: the job's
        output files as Slurm knows them; `mute`: nodes that do not answer slurmctld, which makes no step there."""
        self._mute, self._paths = frozenset(mute), tuple(paths)
        if not 0.0 <= now - self._turn <= _LONGEST_TURN_S:  # below: the clock was set back
            self._pace.paused(now - self._turn)
            self._next_look = 0.0
        self._turn = now
        self._observe(now, paths)
        idle, patience = self._pace.idle_s(now), self._pace.patience_s()
        if self._pace.off or idle < patience:
            self._moves_again()
            self._look_while_well(now)
            return None if self._asks_well else self._stragglers.look(now, self._step_s)
        self._stragglers.stop_asking()
        if self._asks_well:
            # Whatever it would answer now is no longer how things were while the run moved.
            self._ports.looks.cancel()
            self._asks_well = False
        if self._ports.looks.going_on:
            answer = self._ports.looks.poll()
            return self._judge(answer, now) if answer is not None else None
        if now >= self._next_look:
            self._ask()
        return None

    @property
    def ranks_ended(self) -> int:
        """How many ranks of that step are over, as far as srun tells."""
        return len(self._srun_ends.ended)

    def read_output(self, now: float) -> None:
        """What the job printed since the last turn."""
        self._read_output(now, self._paths)

    def end(self) -> None:
        """The attempt is over."""
        self._ports.looks.cancel()
        self._asks_well = False

    # What is seen

    def _observe(self, now: float, paths: Sequence[str]) -> None:
        said = self._follower.last
        if said is not None and said != self._said:
            self._hear(said, now)
        if due(now, self._output_read, _OUTPUT_EVERY_S):
            self._output_read = now
            self._read_output(now, paths)
        if due(now, self._checkpoints_read, _CHECKPOINTS_EVERY_S) and self._pace.idle_s(now) > _CHECKPOINTS_EVERY_S:
            self._checkpoints_read = now
            self._see_checkpoints(now)

    def _hear(self, said: Progress, now: float) -> None:
        before, self._said = self._said, said
        if said.step is not None and (before is None or said.step != before.step):
            self._pace.moved(now, Source.RANKS)
        if said.save_seconds is not None and (before is None or said.saved_step != before.saved_step):
            self._pace.knows([said.save_seconds])
        self._pace.entered(said.phase, now)

    def _read_output(self, now: float, paths: Sequence[str]) -> None:
        lines, grew = self._ports.output.read(paths)
        step = self._srun_ends.feed(lines)
        if step is not None:
            self.ended_step = step, now
        if grew:
            self._pace.moved(now, Source.GROWTH)
        if not self._steps.feed(lines):
            if self._steps.gave_up and not self._told:
                self._told = "regex"
                self._ports.journal.append(
                    "progress_regex_off", attempt=self._attempt, why="it took too long on several lines"
                )
            return
        self._pace.moved(now, Source.STEPS)
        if self._steps.step is not None:
            self._follower.saw_step(self._steps.step, now)

    def _see_checkpoints(self, now: float) -> None:
        changed = self._ports.kept.changed(self._settings.checkpoint_dir)
        if changed <= self._checkpoints_at:
            return
        self._checkpoints_at = changed
        if self._said is None or self._said.phase in (Phase.SAVING, Phase.STOPPING):
            self._pace.alive(now)

    @property
    def _step_s(self) -> float | None:
        return self._said.step_seconds if self._said is not None else self._pace.step_s

    # When it stands still

    def _look_while_well(self, now: float) -> None:
        """Once after the start and then twice an hour: the links' counters tell nothing without an earlier look."""
        looks = self._ports.looks
        if self._asks_well and (answer := looks.poll()) is not None:
            self.well, self._asks_well = answer.looks or self.well, False
        due = now >= self._well_due and self._pace.stepped
        if not due or self._asks_well or looks.going_on:
            return
        self._well_due = now + _WELL_EVERY_S
        try:
            looks.begin(self._settings.nodes, since=self._began, stacks=False, gpus=self._settings.gpus)
            self._asks_well = looks.going_on
        except SovctlError:
            # Only the evidence of the fabric is poorer for it.
            return

    def _moves_again(self) -> None:
        if self._tries or (self._ports.looks.going_on and not self._stragglers.asking and not self._asks_well):
            self._ports.looks.cancel()
            self._looks, self._silent, self._tries, self._next_look = {}, (), 0, 0.0

    def _ask(self) -> None:
        # A step on a node that does not answer slurmctld is refused as a whole ("Memory required by task is not
        # available", 22.05); what Slurm says of that node is its answer.
        nodes = tuple(name for name in self._silent or self._settings.nodes if name not in self._mute)
        if not nodes:
            self._next_look = self._turn + _PROBLEM_PAUSE_S
            self._tell_slow("none of its nodes answers Slurm")
            return
        try:
            self._ports.looks.begin(
                nodes,
                since=self._began,
                stacks=True,
                gpus=self._settings.gpus,
                within_s=max(_AGAIN_S, 1.25 * self._first_s) if self._silent else None,
            )
        except SovctlError as error:
            self._next_look = self._turn + _PROBLEM_PAUSE_S
            self._tell_slow(error.message)

    def _judge(self, answer: LookAnswer, now: float) -> Blame | None:
        asked_before = frozenset(self._silent) | self._mute
        self._tries += 1
        self._first_s = answer.first_s or self._first_s
        self._looks |= {look.node: look for look in answer.looks}
        self._silent = self._without_alive(tuple(name for name in self._settings.nodes if name not in self._looks))
        seen = Standstill(
            idle_s=self._pace.idle_s(now),
            patience_s=self._pace.patience_s(),
            source=self._pace.source,
            step=self._follower.step,
            step_s=self._step_s,
            looks=tuple(self._looks.values()),
            silent=self._silent,
            silent_again=bool(self._silent) and asked_before >= frozenset(self._silent),
            before=self.well,
            expected=self._expected(),
            problem=answer.problem,
            tries=self._tries,
            finished=self._said is not None and self._said.phase is Phase.FINISHED,
        )
        found = judge(seen)
        if isinstance(found, Hang):
            return self._hung(found, seen, now)
        self._wait(found, now)
        return None

    def _without_alive(self, silent: tuple[str, ...]) -> tuple[str, ...]:
        """Without those that nobody could ask, because slurmctld gave them up on the word of another node of the tree
        its questions go through, and whose slurmd lives."""
        unasked = [name for name in silent if name in self._mute]
        if not unasked or not self._looks:
            return silent
        gone = frozenset(self._ports.lifeless(unasked))
        return tuple(name for name in silent if name not in self._mute or name in gone)

    def _wait(self, found: NotYet, now: float) -> None:
        if self._looks and self._silent:
            # Only those that did not answer are asked again, at once.
            self._next_look = now
            return
        # A slurmctld that was just started refuses steps until the nodes have registered.
        again_s = min(_PROBLEM_PAUSE_S, _REFUSED_PAUSE_S * self._tries)
        self._next_look = now + (max(_SLOW_PAUSE_S, self._pace.patience_s() / 2) if found.slow else again_s)
        self._looks, self._silent = {}, ()
        self._tell_slow(found.why)

    def _hung(self, found: Hang, seen: Standstill, now: float) -> Blame:
        record = stacks_record(self._attempt, now, seen.looks, seen.silent)
        files = {
            "stacks.json": json.dumps(record, indent=1).encode(),
            "stacks.txt": stacks_text(seen.looks, seen.silent).encode("utf-8", "replace"),
        }
        problems = [said for name, data in files.items() if (said := self._ports.kept.keep(self._attempt, name, data))]
        blame = replace(found.blame, step=self._follower.step)
        self.frozen = frozenset(seen.silent) & frozenset(blame.nodes)
        self._ports.journal.append(
            "hang",
            attempt=self._attempt,
            idle_seconds=round(seen.idle_s, 1),
            timeout_seconds=round(seen.patience_s, 1),
            source=seen.source.value if seen.source else "",
            ranks=fold_ranks(found.ranks),
            stacks="" if problems else f"attempts/{self._attempt}/stacks.txt",
        )
        self._ports.journal.append("detected", attempt=self._attempt, nodes=list(blame.nodes), evidence=blame.evidence)
        return blame

    def _tell_slow(self, why: str) -> None:
        if self._told != why.partition(",")[0]:
            self._told = why.partition(",")[0]
            self._ports.journal.append("standstill", attempt=self._attempt, why=why)

    def _expected(self) -> tuple[tuple[int, str], ...]:
        words = (item for item in self._ports.files.all_progress() if item.attempt == self._attempt)
        return tuple((item.rank, item.node) for item in words if item.phase is not Phase.FINISHED)
