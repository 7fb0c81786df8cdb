"""`sovctl run`: find a run by what a person has at hand, say how it stands, stop it, let it go on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.errors import (
    JobNotFound,
    RefusedError,
    RunGone,
    RunNotFound,
    SovctlError,
    StacksMissing,
    TryLaterError,
    UsageError,
)
from sovctl.model.job import JobView
from sovctl.model.progress import SEEN_FILE, Progress
from sovctl.model.submitted import SubmittedRun
from sovctl.recovery.attempts import attempts, names, seconds, text, whole
from sovctl.recovery.run_digest import RunDigest, digest_from_record, digest_of, digest_record
from sovctl.recovery.run_state import RunState, is_job_of, run_state, told_state
from sovctl.recovery.slurm_hold import held

if TYPE_CHECKING:  # a list of runs is waited for: what it does not need is not imported for it
    from sovctl.ledger.incident import Incident
    from sovctl.ports.common import Clock
    from sovctl.ports.runs import MadeOfFiles, RunIndex, RunRecords
    from sovctl.ports.slurm import ClusterView, JobControl, JobQueue
    from sovctl.recovery.exclusion import Exclusion
    from sovctl.recovery.explain import Why, Words

RUNS = ".sovctl/runs"
"""Where runs lie below the directory they were submitted from."""
_JOB_ID = re.compile(r"\d+(_\d+)?")
_RUN_ID = re.compile(r".+-(?P<job>\d+)-(?P<submitted>\d+)")
_TASKS_SHOWN = 5
_SOON_S = 2
_LEAVES_S = 120
"""So long a job that is being held may take to leave its nodes."""
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class RunPorts:
    """The outside of these operations."""

    index: RunIndex
    records: RunRecords
    jobs: JobControl
    queue: JobQueue
    clock: Clock
    cluster: ClusterView | None = None
    kept: MadeOfFiles | None = None
    """What a list made of the files of runs when it read them last."""


@dataclass(frozen=True, slots=True)
class KnownRun:
    """One run as far as it is recorded."""

    job_id: str
    run_id: str
    """Empty while it has not started: the cluster's name is not known before."""
    run_dir: str
    """Empty while there is none."""
    submitted: int
    """Seconds since the epoch; 0: not recorded."""
    name: str
    remote: str
    """Cluster it was submitted to with -M; empty: this one."""
    record: Mapping[str, Any]
    events: tuple[Mapping[str, Any], ...] = ()

    @property
    def checkpoint_dir(self) -> str:
        return text(self.record, "checkpoint_dir")


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run with how it stands now; its events are not kept in `run`."""

    run: KnownRun
    state: RunState
    digest: RunDigest


@dataclass(frozen=True, slots=True)
class Act:
    """What was done to a run, or would be."""

    commands: tuple[tuple[str, ...], ...]
    """The literal Slurm commands; none: there was nothing to do."""
    said: str


# Finding


def find_run(name: str, ports: RunPorts, cwd: str, typed: str = "sovctl run show") -> KnownRun:
    """By job id, run id or run directory; of several with the same job id the newest. Raises RunNotFound, and
    UsageError for the id of a whole array: one task of it is not what was meant. `typed`: the command that asks."""
    found = _at_path(name, ports, cwd) if "/" in name or name in (".", "..") else _by_id(name, ports, cwd)
    if not found:
        raise _not_there(name, ports, cwd)
    last = _newest(found)
    if name.isdecimal() and any(_is_task(run) for run in last):
        raise _is_array(name, last, typed)
    return _whole(last[0], ports)


def _newest(found: Sequence[KnownRun]) -> list[KnownRun]:
    """Of runs whose job ids came back those of the last submission: one, or tasks of one array."""
    newest = max(run.submitted for run in found)
    return [run for run in found if run.submitted == newest]


def _is_task(run: KnownRun) -> bool:
    return "_" in run.job_id


def _is_array(name: str, tasks: Sequence[KnownRun], typed: str) -> UsageError:
    ids = sorted((run.job_id for run in tasks), key=lambda job: (len(job), job))
    shown = ids if len(ids) <= _TASKS_SHOWN else [*ids[: _TASKS_SHOWN - 1], "...", ids[-1]]
    have = "1 task has" if len(ids) == 1 else f"{len(ids)} tasks have"
    return UsageError(
        f"{name} is an array, of which {have} started",
        hint=f"Name one of its tasks ({', '.join(shown)}), such as: {typed} {ids[0]}; "
        f"the whole array is cancelled with: {_scancel(tasks[0], name)}",
    )


def _not_there(name: str, ports: RunPorts, cwd: str) -> SovctlError:
    """A task of an array gets its record when it starts; before that only Slurm knows it."""
    array, is_task, _ = name.partition("_")
    known = _by_id(array, ports, cwd) if is_task and _JOB_ID.fullmatch(name) else []
    last = _newest(known)[0] if known else None
    if last is None or not (_is_task(last) or not last.run_dir):
        return RunNotFound(name)
    return SovctlError(
        f"task {name} is not there, or has not started: there is no run of it",
        hint=f"See squeue --me; it is cancelled with: {_scancel(last, name)}",
    )


def _scancel(run: KnownRun, job_id: str) -> str:
    return f"scancel -M {run.remote} {job_id}" if run.remote else f"scancel {job_id}"


def known_runs(ports: RunPorts, cwd: str) -> tuple[KnownRun, ...]:
    """Every run of the index and below the current directory, newest first; without their events."""
    return _known_runs(ports, cwd, _head)


def _known_runs(ports: RunPorts, cwd: str, head: Callable[[str, RunPorts], KnownRun]) -> tuple[KnownRun, ...]:
    listed = ports.index.list()
    places = dict.fromkeys([*(entry.run_root for entry in listed), str(Path(cwd, RUNS))])
    found = {run_dir: None for root in places for run_dir in ports.records.below(root)}
    runs = [head(run_dir, ports) for run_dir in found]
    started = {(run.job_id.partition("_")[0], run.submitted) for run in runs}
    waiting = [entry for entry in listed if (entry.job_id, entry.submitted) not in started]
    remote = {(entry.job_id, entry.submitted): entry.cluster for entry in listed}
    runs = [_with_remote(run, remote.get((run.job_id.partition("_")[0], run.submitted), "")) for run in runs]
    runs += [_not_started(entry) for entry in waiting]
    return tuple(sorted(runs, key=lambda run: (run.submitted, len(run.job_id), run.job_id), reverse=True))


def _by_id(name: str, ports: RunPorts, cwd: str) -> list[KnownRun]:
    if _JOB_ID.fullmatch(name):
        return [run for run in known_runs(ports, cwd) if name in (run.job_id, run.job_id.partition("_")[0])]
    match = _RUN_ID.fullmatch(name)
    if match is None:
        return _at_path(name, ports, cwd)
    roots = dict.fromkeys([*(entry.run_root for entry in ports.index.list()), str(Path(cwd, RUNS))])
    places = [str(Path(root, name)) for root in roots]
    return [_head(place, ports) for place in places if ports.records.record(place)][:1]


def _at_path(name: str, ports: RunPorts, cwd: str) -> list[KnownRun]:
    run_dir = str(Path(cwd, name))
    return [_head(run_dir, ports)] if ports.records.record(run_dir) or ports.records.events(run_dir) else []


def _head(run_dir: str, ports: RunPorts) -> KnownRun:
    return _head_by(run_dir, ports.records.record(run_dir))


def _kept_head(run_dir: str, ports: RunPorts) -> KnownRun:
    """With so much of run.json as a list shows; that file is written once."""
    path = f"{run_dir}/run.json"
    record = ports.kept.recall(path) if ports.kept else None
    if not isinstance(record, dict):
        whole_record = ports.records.record(run_dir)
        record = {name: whole_record[name] for name in _OF_A_HEAD if name in whole_record}
        if ports.kept:
            ports.kept.keep(path, record)
    return _head_by(run_dir, record)


_OF_A_HEAD = ("job_id", "run_id", "submitted", "name", "cluster")


def _head_by(run_dir: str, record: Mapping[str, Any]) -> KnownRun:
    """What the directory's name says is used where run.json does not."""
    own_name = run_dir.rpartition("/")[2]
    match = _RUN_ID.fullmatch(own_name)
    submitted = whole(record, "submitted")
    return KnownRun(
        job_id=text(record, "job_id") or (match["job"] if match else ""),
        run_id=text(record, "run_id") or own_name,
        run_dir=run_dir,
        submitted=submitted if submitted is not None else int(match["submitted"]) if match else 0,
        name=text(record, "name"),
        remote="",
        record=record,
    )


def _whole(run: KnownRun, ports: RunPorts) -> KnownRun:
    return replace(run, events=tuple(ports.records.events(run.run_dir))) if run.run_dir else run


def _not_started(entry: SubmittedRun) -> KnownRun:
    record = {"job_id": entry.job_id, "submitted": entry.submitted, "work_dir": entry.work_dir}
    name = Path(entry.script).name or "sbatch"
    return KnownRun(entry.job_id, "", "", entry.submitted, name, entry.cluster, record)


def _with_remote(run: KnownRun, cluster: str) -> KnownRun:
    if not cluster or cluster == text(run.record, "cluster"):
        # Named by itself: the run may well be of the cluster whose commands we have.
        return run
    return replace(run, remote=cluster)


# How it stands


def list_runs(ports: RunPorts, cwd: str) -> tuple[ListedRun, ...]:
    """Every run, newest first, with one question to Slurm for all of them."""
    heads = _known_runs(ports, cwd, _kept_head)
    jobs, problem = _own_jobs(ports, heads)
    # An id that came back belongs to the newest run that has it: each job is taken once, newest runs first.
    listed = tuple(_listed(head, ports, jobs, problem) for head in heads)
    _save_kept(ports)
    return listed


def recent_runs(ports: RunPorts, cwd: str, newest: int = 20) -> tuple[tuple[ListedRun, ...], int]:
    """The newest runs and those that are not over, newest first, and how many there are besides.

    The events of an older run are not even read where Slurm no longer knows its job: whatever its record says, it is
    over, and there may be thousands of those.
    """
    heads = _known_runs(ports, cwd, _kept_head)
    jobs, problem = _own_jobs(ports, heads)
    shown = []
    for index, head in enumerate(heads):
        if index >= newest and not problem and not head.remote and head.job_id not in jobs:
            continue
        item = _listed(head, ports, jobs, problem)
        if index < newest or not item.state.over:
            shown.append(item)
    _save_kept(ports)
    return tuple(shown), len(heads) - len(shown)


def _own_jobs(ports: RunPorts, heads: Sequence[KnownRun]) -> tuple[dict[str, JobView], str]:
    """The caller's jobs by id, or why Slurm could not be asked."""
    try:
        jobs = {job.job_id: job for job in ports.queue.own_jobs()} if heads else {}
    except SovctlError as error:
        return {}, error.message
    # While no task of an array has started, its run is known by the id of the whole.
    wholes = {job_id.partition("_")[0]: job for job_id, job in jobs.items() if job.pending}
    return {**wholes, **jobs}, ""


def _listed(head: KnownRun, ports: RunPorts, jobs: dict[str, JobView], problem: str) -> ListedRun:
    job = jobs.pop(head.job_id, None)
    problem = _unasked(head) or problem
    # While Slurm may know its job somebody may be writing the record, and what a file server says of a file may be as
    # old as a minute.
    still = bool(job or problem)
    digest = _digest(head.run_dir, ports, still=still) if head.run_dir else RunDigest()
    state = told_state(digest.story, digest.short, job, problem=problem)
    if state.word == "running" and digest.attempts:
        digest = replace(digest, step=_step_seen(head.run_dir, digest, ports))
    return ListedRun(head, state, digest)


def _step_seen(run_dir: str, digest: RunDigest, ports: RunPorts) -> int | None:
    """Where its supervisor saw it last, which its events tell only at checkpoints."""
    seen = ports.records.kept(run_dir, digest.attempts - 1, SEEN_FILE)
    step = whole(seen, "step") if isinstance(seen, dict) else None
    return digest.step if step is None else max(step, digest.step or 0)


def _digest(run_dir: str, ports: RunPorts, *, still: bool) -> RunDigest:
    path = f"{run_dir}/events.jsonl"
    kept = ports.kept if not still else None
    digest = digest_from_record(kept.recall(path)) if kept else None
    if digest is None:
        # A long run has saved thousands of times; a list shows the last.
        digest = digest_of(ports.records.events(run_dir, newest_only="checkpoint_saved"))
        if kept:
            kept.keep(path, digest_record(digest))
    return digest


def _save_kept(ports: RunPorts) -> None:
    if ports.kept:
        ports.kept.save()


def state_of(run: KnownRun, ports: RunPorts) -> RunState:
    """One run, with Slurm's newest word; without it where Slurm does not answer."""
    try:
        return _state(run, ports.jobs.job(run.job_id) if not run.remote else None, "")
    except JobNotFound:
        return _state(run, None, "")
    except SovctlError as error:
        return _state(run, None, error.message)


def _unasked(run: KnownRun) -> str:
    """Why this Slurm is not asked about it."""
    return f"its job is on the cluster {run.remote}" if run.remote else ""


def _state(run: KnownRun, job: JobView | None, problem: str) -> RunState:
    problem = _unasked(run) or problem
    if job is not None and not is_job_of(run.record, run.events, job):
        job = None  # A later job got the same id.
    return run_state(run.events, job, problem=problem)


def stacks_of(run: KnownRun, ports: RunPorts, attempt: int | None) -> dict[str, Any]:
    """What was kept of the ranks' stacks: of this attempt, else of the last one that hung. Raises StacksMissing."""
    from sovctl.recovery.stacks import looks_of

    hung = [whole(event, "attempt") for event in run.events if event.get("kind") == "hang"]
    wanted = attempt if attempt is not None else next((number for number in reversed(hung) if number is not None), None)
    record = ports.records.kept(run.run_dir, wanted, "stacks.json") if wanted is not None and run.run_dir else None
    if not isinstance(record, dict) or not looks_of(record):
        raise StacksMissing(run.job_id, wanted)
    return record


def progress_of(run: KnownRun, ports: RunPorts) -> tuple[Progress, ...]:
    """What the ranks of the newest attempt last said."""
    known = attempts(run.events)
    if not known or not run.run_dir:
        return ()
    return tuple(item for item in ports.records.progress(run.run_dir) if item.attempt == known[-1].number)


def exclusions_of(run: KnownRun, state: RunState, ports: RunPorts) -> tuple[Exclusion, ...]:
    """The nodes that a run keeps away from, oldest first: without those it had to be allowed again, and none once it is
    over."""
    from sovctl.recovery.exclusion import exclusions

    requeued = [event for event in run.events if event.get("kind") == "requeued"][-1:]
    allowed = {node: seconds(event, "at") or 0.0 for event in requeued for node in names(event, "given_up")}
    known = exclusions(run.events, ports.clock.now()) if not state.over else []
    kept = [item for item in known if item.since > allowed.get(item.node, -1.0)]
    return tuple(sorted(kept, key=lambda item: item.since))


def incidents_of(run: KnownRun, ports: RunPorts) -> tuple[Incident, ...]:
    """Every incident of a run as its own record tells it, oldest first."""
    from sovctl.ledger.runs import run_account

    return run_account(run.record, run.events, ports.clock.now()).incidents


def explain_run(run: KnownRun, words: Words, attempt: int | None = None) -> Why:
    """`sovctl run why`. Raises UsageError for an attempt that never ended."""
    if attempt is not None and not any(item.number == attempt and item.stop for item in attempts(run.events)):
        raise UsageError(
            f"the end of an attempt {attempt} is not recorded",
            hint=f"See which there are: sovctl run show {run.job_id}",
        )
    from sovctl.recovery.explain import why

    return why(run.record, run.events, words, attempt=attempt)


# Acting


def stop_run(run: KnownRun, ports: RunPorts, *, dry_run: bool = False) -> Act:
    """Cancel its job, whether it runs, waits or is held. A run that is over is left alone."""
    try:
        job = _own_job(run, ports)
    except JobNotFound:
        job = None
    if job is None or job.over:
        return Act((), f"job {run.job_id} is over already: there is nothing to stop")
    command = ("scancel", run.job_id)
    if not dry_run:
        ports.jobs.cancel(run.job_id)
    return Act((command,), f"job {run.job_id} is cancelled; the run will not come back")


def resume_run(
    run: KnownRun, ports: RunPorts, *, dry_run: bool = False, say: Callable[[str], None] = lambda _words: None
) -> Act:
    """Release its held job, with the exclusions as they are now. `say`: told that it is waited for. Raises RunGone when
    Slurm has no job of it to go on with, TryLaterError when it does not become free of its nodes.

    Nothing is written into the run's record: that has one writer, the supervisor.
    """
    job = _job_to_resume(run, ports)
    if _on_its_way(run, job) and not dry_run:
        say(f"job {run.job_id} is to be held and still leaves its nodes: waiting for that")
        job = _await_held(run, ports)
    if not held(job) and not (dry_run and _on_its_way(run, job)):
        return Act((), f"job {run.job_id} is {job.state} and not held: there is nothing to resume")
    # Slurm lets a requeued job wait 121 s; who releases it sooner does not want to wait for the rest of that.
    now = int(ports.clock.now())
    early = bool(job.restarts and job.eligible_at and job.eligible_at > now + _SOON_S)
    begin = f"StartTime=uts{now + 2}"
    exclude = _exclusions_now(run, job, ports)
    commands: list[tuple[str, ...]] = []
    if exclude is not None:
        commands += [("scontrol", "update", f"JobId={run.job_id}", f"ExcNodeList={','.join(exclude)}")]
    commands += [("scontrol", "release", run.job_id)]
    commands += [("scontrol", "update", f"JobId={run.job_id}", begin)] if early else []
    if not dry_run:
        _exclude(run, exclude, ports, say)
        ports.jobs.release(run.job_id)
        if early:
            ports.jobs.update_pending(run.job_id, exclude=None, begin=now + 2)
    return Act(tuple(commands), f"job {run.job_id} is released and starts as soon as there is room")


def _job_to_resume(run: KnownRun, ports: RunPorts) -> JobView:
    try:
        job = _own_job(run, ports)
    except JobNotFound:
        job = None
    if job is None or job.over:
        raise RunGone(run.job_id, _gone(run, job), run.checkpoint_dir)
    return job


def _on_its_way(run: KnownRun, job: JobView) -> bool:
    """Whether its supervisor has decided to hold it, and it still has to leave its nodes."""
    from sovctl.recovery.story import Story, story_of

    if story_of(run.events) is not Story.HELD or held(job):
        return False
    started = [event for event in run.events if event.get("kind") == "attempt_started"]
    same = bool(started) and job.restarts == whole(started[-1], "restarts")
    return job.completing or (job.running and same)


def _await_held(run: KnownRun, ports: RunPorts) -> JobView:
    deadline = ports.clock.now() + _LEAVES_S
    while True:
        job = _job_to_resume(run, ports)
        if not _on_its_way(run, job):
            return job
        if ports.clock.now() >= deadline:
            raise TryLaterError(
                f"job {run.job_id} still leaves its nodes after {_LEAVES_S} s ({job.state})",
                hint=f"An epilog may take long. Later type: sovctl run resume {run.job_id}",
            )
        ports.clock.sleep(_LOOK_S)


def _exclusions_now(run: KnownRun, job: JobView, ports: RunPorts) -> list[str] | None:
    """What the job is to exclude after days in which nodes were repaired, or blamed long enough ago; None: as it does,
    also where Slurm does not tell of its nodes."""
    from sovctl.operations.supervisor.allocation import nodes_asked
    from sovctl.recovery.exclusion import renew

    needed = nodes_asked(job)
    if ports.cluster is None or not run.events or not needed:
        return None
    try:
        nodes = ports.cluster.nodes()
    except SovctlError:
        return None
    terms = renew(run.events, job, nodes, needed, ports.clock.now(), by_person=True)
    exclude = sorted(terms.chosen.nodes)
    return exclude if exclude != sorted(job.excluded) else None


def _exclude(run: KnownRun, exclude: Sequence[str] | None, ports: RunPorts, say: Callable[[str], None]) -> None:
    """Where Slurm refuses that, the job is released all the same: that is what was asked for."""
    if exclude is None:
        return
    try:
        ports.jobs.update_pending(run.job_id, exclude=exclude, begin=None)
    except SovctlError as error:
        say(f"the exclusions of job {run.job_id} stay as they were: {error.message}")


def _gone(run: KnownRun, job: JobView | None) -> str:
    from sovctl.recovery.story import story_of

    story = story_of(run.events)
    if story.over:
        return f"the run is {story.value}"
    return f"it is {job.state}" if job is not None else "Slurm no longer knows it"


def _own_job(run: KnownRun, ports: RunPorts) -> JobView | None:
    """The job of the run; None when its id belongs to another job now. Raises JobNotFound, TryLaterError."""
    if run.remote:
        raise RefusedError(
            f"job {run.job_id} is on the cluster {run.remote}",
            hint=f"Run this on a login node of that cluster; see the job: squeue -M {run.remote} -j {run.job_id}",
        )
    job = ports.jobs.job(run.job_id)
    return job if is_job_of(run.record, run.events, job) else None
