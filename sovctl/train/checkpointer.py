"""Save and load with torch.distributed.checkpoint, so that a checkpoint is either complete or not there.

torch and torch.distributed.checkpoint are imported at the first save or load, not before.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.errors import CheckpointIncomplete, CheckpointUnloadable
from sovctl.train.background import BackgroundWriter, SaveOutcome
from sovctl.train.context import RunContext
from sovctl.train.heartbeat import Heartbeat
from sovctl.train.layout import Layout
from sovctl.train.loading import NotLoadable, content_problem, older_complete, proven_step, read_into
from sovctl.train.local_tier import LocalTier
from sovctl.train.save_job import SaveJob, Target, say
from sovctl.train.side_groups import BACKGROUND, CONTROL, SideGroup, renew
from sovctl.train.staging import HostBuffers, Staged
from sovctl.train.tree import Parts, collect, collect_to_save, distribute

if TYPE_CHECKING:
    from torch import nn, optim

PATIENCE_S = 1800.0
"""How long the end of a script waits for its last checkpoint: as long as the ranks wait for each other."""
CRASH_PATIENCE_S = 10.0
"""How long a script that failed waits for the checkpoint that is being written: it may save an hour of work."""
_JITTER_PER_NODE_S = 0.1
_LONGEST_JITTER_S = 5.0
_WORTH_SAYING_S = 1.0


@dataclass(frozen=True, slots=True)
class SaveReport:
    """What a call of `save` did. True unless the checkpoint is known not to be on disk."""

    step: int
    complete: bool
    """Complete on disk, on shared storage; `False` for one that is still being written in the background."""
    problem: str
    """Why it is not there; always empty in the background, where the next report tells."""
    stall_seconds: float
    """How long the call took: how long training stood still."""
    waited_seconds: float
    """The part of it spent waiting for an earlier checkpoint to be done: back-pressure."""
    failed: tuple[SaveOutcome, ...] = ()
    """Earlier saves in the background that could not be written, each told once; the same on every rank."""

    def __bool__(self) -> bool:
        return not self.problem


class Checkpointer:
    """Checkpoints of one run in `ctx.checkpoint_dir/step-<N>`.

    Works in one process without torch.distributed, and with DDP, FSDP2, HSDP and plain modules. A checkpoint may be
    loaded on another number of ranks and another sharding than it was saved on. `save`, `load`, `wait` and `close`
    are collective: every rank calls them, with the same step.
    """

    def __init__(
        self,
        ctx: RunContext,
        keep: int | None = 3,
        *,
        heartbeat: Heartbeat | None = None,
        checksums: bool = True,
        background: bool = True,
        in_flight: int = 1,
        local_dir: Path | None = None,
        keep_local: int = 1,
        jitter_s: float | None = None,
    ) -> None:
        """`keep`: so many complete checkpoints stay, `None`: all. `checksums`: record the SHA-256 of each file, taken
        while it is written, for `sovctl ckpt verify --deep`. `background`: `save` returns once a copy is in host
        memory. `in_flight`: so many are written or wait at most, each with a copy of its own in host memory; then
        `save` waits. `local_dir`: a directory of each node (default: `ctx.local_checkpoint_dir`) for the first tier,
        of which `keep_local` stay. `jitter_s`: the nodes begin to write to shared storage spread over so many seconds
        (default: 0.1 s a node, at most 5 s).
        Raises ValueError for a number below 1.
        """
        for name, number in (("keep", keep), ("in_flight", in_flight), ("keep_local", keep_local)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1{' or None' if name == 'keep' else ''}, not {number}")
        self._ctx = ctx
        self._heartbeat = heartbeat or ctx.heartbeat
        self._keep, self._keep_local, self._checksums = keep, keep_local, checksums
        self._background, self._in_flight = background, in_flight
        self._local_dir = local_dir or ctx.local_checkpoint_dir
        self._jitter_s = jitter_s
        self._layout = Layout()
        self._writer = BackgroundWriter()
        self._buffers: list[HostBuffers] = []
        self._hurry = threading.Event()
        self._lost = threading.Event()
        self._broken: set[Path] = set()
        """Checkpoints that look complete and could not be loaded; each rank knows those of its own node."""
        self._target: Target | None = None
        self._tier: LocalTier | None = None
        ctx.before_destroying(self.close)
        atexit.register(self._at_exit)

    def save(
        self,
        step: int,
        *,
        model: nn.Module | None = None,
        optimizer: optim.Optimizer | None = None,
        state: Mapping[str, Any] | None = None,
        rank_state: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> SaveReport:
        """Save after step `step` (>= 1). The report is true unless the checkpoint is known not to be on disk.

        `state` is one for all ranks (a scheduler, counters, the position in the data), `rank_state` each rank's own:
        names to objects with `state_dict()`/`load_state_dict()`, tensors, or dicts of tensors and plain values. The
        random numbers of every rank are always saved.

        Returns when everything is copied, and writes in the background; with `wait`, with `background=False`, and
        after a stop was requested, when it is complete on disk. A full or failing disk costs this checkpoint only: one
        warning on stderr, a false report (in the background: the next report's `failed`), partial data removed,
        earlier checkpoints kept. Raises ValueError, RuntimeError and what a `state_dict()` raises.
        """
        if step < 1:
            raise ValueError(f"a checkpoint needs a step of at least 1, not {step}")
        began = time.monotonic()
        wait = wait or not self._background or self._ctx.stopping
        control = self._groups()
        self._heartbeat.saving()
        waited = self._room(step)
        parts = Parts(model, optimizer, state or {}, rank_state or {})
        job, failed = self._staged_job(step, parts, control)
        stalled = time.monotonic() - began
        problem = self._hand_over(job, wait=wait, stalled=stalled)
        self._heartbeat.training_again()
        return SaveReport(step, wait and not problem, problem, time.monotonic() - began, waited, failed)

    def wait(self, timeout_s: float | None = None) -> tuple[SaveOutcome, ...]:
        """Wait until nothing is being written; returns the saves that failed since the last report.

        Returns what is known after `timeout_s`; `None`: waits as long as it takes.
        """
        self._hurry.set()
        self._writer.wait_until(0, timeout_s)
        self._hurry.clear()
        return self.poll()

    def poll(self) -> tuple[SaveOutcome, ...]:
        """The saves that failed since the last report, as far as this rank knows by now. Not collective, no wait."""
        return tuple(outcome for outcome in self._writer.take(self._writer.ended()) if outcome.problem)

    def close(self) -> None:
        """Wait for what is being written. After `finished()` the tier on the nodes is removed: shared storage has all.

        `ctx.destroy_process_group()` calls it, and the end of the script.
        """
        ended = self._writer.wait_until(0, PATIENCE_S) is not None
        if self._tier is not None and ended and self._ctx.phase.value == "finished":
            self._tier.clear()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(
        self,
        *,
        model: nn.Module | None = None,
        optimizer: optim.Optimizer | None = None,
        state: Mapping[str, Any] | None = None,
        rank_state: Mapping[str, Any] | None = None,
        path: Path | None = None,
    ) -> int:
        """Load `path`, or the newest there is of this run; returns its step, 0 when there is nothing to load.

        Without `path` that is what the context says to resume from, or a newer step that is complete on the nodes'
        own tier of every rank. One whose content does not match its checksums is said so, and the next older one is
        taken. Everything is changed in place; name what was named in `save`. Random numbers and `rank_state` come back
        for the ranks that were there when it was saved.
        Raises CheckpointIncomplete, CheckpointUnloadable.
        """
        parts = Parts(model, optimizer, state or {}, rank_state or {})
        self._heartbeat.loading()
        self._writer.wait_until(0)
        control = self._groups()
        source = control.from_first(lambda: str(path or self._ctx.resume_from or ""))
        step, half_loaded = (0, None) if path else self._load_local(parts, control, self._step_of(source))
        if not step and source:
            step = self._load_shared(Path(source), parts, control, exact=path is not None)
        elif not step and half_loaded is not None:
            raise half_loaded
        self._heartbeat.loaded(step)
        return step

    # Saving

    def _groups(self) -> SideGroup:
        """Make both side groups, on every rank in the same order; returns the one of this thread."""
        control = SideGroup(CONTROL)
        if control.size == 1 and self._ctx.world_size > 1:
            raise RuntimeError(
                f"{self._ctx.world_size} ranks cannot share one checkpoint before the process group is there: "
                "call ctx.init_process_group() first"
            )
        SideGroup(BACKGROUND)
        if self._target is None:
            self._open_tiers(control)
        return control

    def _open_tiers(self, control: SideGroup) -> None:
        ctx = self._ctx
        nodes = control.everyone(ctx.node)
        spread = min(_JITTER_PER_NODE_S * len(set(nodes)), _LONGEST_JITTER_S)
        self._target = Target(
            directory=ctx.checkpoint_dir,
            attempt=ctx.attempt,
            run_id=ctx.run_id,
            keep=self._keep,
            checksums=self._checksums,
            jitter_s=spread if self._jitter_s is None else self._jitter_s,
            nodes=tuple(nodes),
        )
        problem = ""
        if self._local_dir is not None:
            try:
                self._tier = LocalTier(self._local_dir, _name_of_run(ctx), nodes, control.rank, keep=self._keep_local)
            except OSError as error:
                problem = error.strerror or str(error)
        problems = {f"{node}: {words}" for node, words in zip(nodes, control.everyone(problem), strict=True) if words}
        if problems:  # all ranks or none: a step that half the nodes keep is of no use
            self._tier = None
            if control.rank == 0:
                say(f"no checkpoints on the nodes themselves: {'; '.join(sorted(problems))}")

    def _room(self, step: int) -> float:
        """Wait until one more may be in flight; returns for how long."""
        if self._writer.in_flight < self._in_flight:
            return 0.0
        self._hurry.set()
        waited = self._writer.wait_until(self._in_flight - 1) or 0.0
        self._hurry.clear()
        if waited >= _WORTH_SAYING_S and self._ctx.rank == 0:
            say(
                f"the checkpoint of step {step} had to wait {waited:.1f} s for an earlier one to be written: "
                "save less often, or allow more in flight"
            )
        return waited

    def _staged_job(self, step: int, parts: Parts, control: SideGroup) -> tuple[_Job, tuple[SaveOutcome, ...]]:
        """Everything copied on every rank; what is wrong on one of them is raised on all."""
        assert self._target is not None
        tree, error = _attempt(lambda: collect_to_save(control.rank, parts))
        planner, share = self._layout.share(tree, error, control, self._target.nodes if self._tier else None)
        buffers = self._buffers.pop() if self._buffers else HostBuffers()
        staged, error = _attempt(lambda: buffers.stage(planner, share.node.items))
        lost = self._lost.is_set()
        wrong, any_lost, ended = control.largest(int(error is not None), int(lost), -self._writer.ended())
        if error is not None:
            raise error
        if wrong or staged is None:
            raise RuntimeError("another rank could not copy what it has to save; it says why")
        failed = tuple(outcome for outcome in self._writer.take(-ended) if outcome.problem)
        if any_lost:
            renew(BACKGROUND)
            self._lost.clear()
        broken = frozenset(path for path in self._broken if path.name == f"step-{step}")
        self._broken -= broken
        job = SaveJob(step, self._target, share, staged, SideGroup(BACKGROUND), self._tier, self._hurry, broken)
        return _Job(step, job, buffers, staged), failed

    def _hand_over(self, job: _Job, *, wait: bool, stalled: float) -> str:
        """Have it written; with `wait`, until it is there. Returns why it is not, as far as that is known."""
        outcomes: list[SaveOutcome] = []
        began = time.monotonic()

        def run() -> SaveOutcome:
            self._heartbeat.save_started(job.step)
            outcome = job.work.run()
            if outcome.lost:
                self._lost.set()
            self._buffers.append(job.buffers)
            self._tell(outcome, stalled + (time.monotonic() - began if wait else 0.0))
            outcomes.append(outcome)
            return outcome

        if not wait:
            self._writer.submit(run)
            return ""
        self._hurry.set()
        self._writer.submit(run)
        self._writer.wait_until(0)
        self._hurry.clear()
        problem = outcomes[0].problem
        self._writer.forget(outcomes[0])
        return problem

    def _tell(self, outcome: SaveOutcome, stalled: float) -> None:
        self._heartbeat.save_ended(outcome.step, outcome.problem, save_seconds=outcome.seconds, stall_seconds=stalled)
        if outcome.problem and self._ctx.rank == 0:
            kept = "; the nodes' own tier has it" if outcome.local_seconds is not None else ""
            say(
                f"checkpoint of step {outcome.step} was not saved: {outcome.problem}{kept}; "
                "training goes on, earlier checkpoints are kept"
            )
        if outcome.local_problem and self._tier is not None and self._tier.is_leader:
            say(f"{self._ctx.node} does not keep the checkpoint of step {outcome.step}: {outcome.local_problem}")

    def _at_exit(self) -> None:
        """The end of the script: what is in flight is worth waiting for, less so when the script failed."""
        failed = getattr(sys, "last_value", None) is not None
        self._hurry.set()
        self._writer.wait_until(0, CRASH_PATIENCE_S if failed else PATIENCE_S)

    # Loading

    def _step_of(self, source: str) -> int:
        return proven_step(Path(source))[0] if source else 0

    def _load_local(self, parts: Parts, control: SideGroup, above: int) -> tuple[int, CheckpointUnloadable | None]:
        """The newest step above `above` that every rank can load from its own node; 0 when there is none.

        With an error when one was tried that overwrote a part of what is live: no training may begin with that.
        """
        tier = self._tier
        if tier is None:
            return 0, None
        if not self._ctx.run_id and not above:  # without a run, whoever emptied the directory wants to begin anew
            return 0, None
        complete, error = _attempt(tier.complete)
        seen = control.everyone({(step, at) for step, at in (complete or {}).items()} if error is None else set())
        common = sorted(set.intersection(*seen), reverse=True)
        shut_out = control.from_first(lambda: _quarantined(self._ctx.checkpoint_dir))
        steps: list[int] = [step for step, _ in common if step > above and step not in shut_out]
        half_loaded = None
        for step in steps:
            path = tier.path / f"step-{step}"
            problem, touched = self._load_everywhere(path, parts, control, tier.metadata)
            if not problem:
                return step, None
            self._broken.add(path)
            if touched:
                half_loaded = CheckpointUnloadable(str(path), problem)
            if control.rank == 0:
                say(f"step {step} on the nodes themselves cannot be loaded: {problem}; looking further")
        return 0, half_loaded

    def _load_shared(self, path: Path, parts: Parts, control: SideGroup, *, exact: bool) -> int:
        """From shared storage; one that is proven broken is passed over, unless it was asked for by its path."""
        while True:
            step, why = control.from_first(lambda path=path: proven_step(path))  # type: ignore[misc]
            if why:
                raise CheckpointIncomplete(str(path), why)
            problem, _ = self._load_everywhere(path, parts, control, None)
            if not problem:
                return step
            older = control.from_first(lambda path=path, step=step: _next_older(path, step, exact))  # type: ignore[misc]
            if older is None:
                raise CheckpointUnloadable(str(path), problem)
            self._broken.add(path)
            path = Path(older)

    def _load_everywhere(self, path: Path, parts: Parts, control: SideGroup, metadata_of: Any) -> tuple[str, bool]:
        """Read on every rank, and give it to the objects only when all could. Returns why not, and whether live
        tensors were overwritten nevertheless: torch reads straight into them."""
        tree, error = _attempt(lambda: collect(control.rank, parts))
        if error is None and tree is not None:
            _, error = _attempt(lambda: read_into(path, tree, control.rank, metadata_of))
        unloadable = isinstance(error, NotLoadable)
        touched = error.touched if isinstance(error, NotLoadable) else error is None
        everyone = control.everyone((str(error) if error else "", error is not None and not unloadable, touched))
        if error is not None and not unloadable:
            raise error
        if any(bug for _, bug, _ in everyone):
            raise RuntimeError("another rank could not gather what it has to load; it says why")
        problem = next((words for words, _, _ in everyone if words), "")
        if not problem and tree is not None:
            distribute(tree, control.rank, parts)
        return problem, any(touched for _, _, touched in everyone)


@dataclass(frozen=True)
class _Job:
    step: int
    work: SaveJob
    buffers: HostBuffers
    staged: Staged


def _attempt(action: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """(result, `None`) or (`None`, error): the other ranks must hear of it before anybody leaves.

    Some of torch's own errors are no `Exception`; what ends a process on purpose gets through.
    """
    try:
        return action(), None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return None, error


def _name_of_run(ctx: RunContext) -> str:
    """What tells the tiers of two runs on one node apart: the run, else the directory of its checkpoints."""
    place = str(ctx.checkpoint_dir.absolute())
    return ctx.run_id or f"dir-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}"


def _next_older(path: Path, step: int, exact: bool) -> str | None:
    """After a checkpoint could not be loaded: the next older one when it is proven broken, else `None`."""
    why = "" if exact else content_problem(path, step)
    if not why:
        return None
    older = older_complete(path.parent, step)
    if older is None:
        return None
    say(f"checkpoint {path} is broken: {why}; going on from {older.name}")
    return str(older)


def _quarantined(directory: Path) -> set[int]:
    """Steps that were put aside as bad: an older copy of one must not come back by another way."""
    try:
        names = [entry.name for entry in (directory / ".quarantine").iterdir()]
    except OSError:
        return set()
    numbers = (name.removeprefix("step-").partition("-")[0] for name in names)
    return {int(number) for number in numbers if number.isascii() and number.isdigit() and len(number) < 19}
