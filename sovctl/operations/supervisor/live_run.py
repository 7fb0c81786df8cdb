"""One run while it is supervised: what it was started with, what is known of it, and the questions everybody asks.

The supervisor's parts (watching, recovering, taking over) share one LiveRun; only they change it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovctl.checkpoint.find import resume_point
from sovctl.errors import CheckpointDirUnreadable, SovctlError, StorageSilent
from sovctl.model.blame import Blame
from sovctl.model.checkpoint import Checkpoint, ResumePoint
from sovctl.model.job import JobSize, JobView
from sovctl.model.job_evidence import JobEvidence
from sovctl.model.pauses import due
from sovctl.model.progress import Phase
from sovctl.model.site_answer import SiteAnswer
from sovctl.operations.supervisor.allocation import Allocation, free_nodes, preemptible_nodes
from sovctl.operations.supervisor.bring_back import BringBack
from sovctl.operations.supervisor.crash_look import CrashLook
from sovctl.operations.supervisor.follow_progress import ProgressFollower
from sovctl.operations.supervisor.pass_watch import PassWatch
from sovctl.operations.supervisor.suspicion import NodeSuspicion
from sovctl.operations.supervisor.tolerant_journal import TolerantJournal
from sovctl.operations.supervisor.watch_progress import ProgressPorts, ProgressSettings, ProgressWatch
from sovctl.ports.common import AskStorage, Clock, Journal
from sovctl.ports.slurm import ClusterView, JobControl, NodePing
from sovctl.ports.supervised import (
    AttemptFiles,
    ChildProcess,
    JobLooks,
    OutputTail,
    RunFiles,
    RunOutput,
    Signals,
    SpareHold,
    StartScript,
    WrittenFile,
)
from sovctl.recovery.attempts import furthest_checkpoint
from sovctl.recovery.blame import PREEMPTION, NodeEvidence, blame_nodes
from sovctl.recovery.decide import Decision, Limits
from sovctl.recovery.exclusion import exclusions
from sovctl.recovery.fabric import broken_links
from sovctl.recovery.hang import AUTO
from sovctl.recovery.requeue import LINGER_S
from sovctl.recovery.reserved import kept_from

if TYPE_CHECKING:  # most runs have no image
    from sovctl.isolation.inside import Inside
    from sovctl.operations.supervisor.image_of_run import RunImage

_PROOF_S = 600.0
_STORAGE_BACK_S = 3600.0
"""So long a storage that does not answer is waited for before a run is held."""
OWN_REQUEUE = "the script asked for a requeue"
"""Why ranks are asked to stop whose own framework requeues its job."""
_OUTPUT_LOOK_S = 2.0
_MOST_OUTPUT_FILES = 16
_TOLD_S = 1.5
"""So long the slurmstepds of a step get to hear an order."""
SILENCE_S = 1.0
"""A slurmd counts as gone after so long when its ranks are silent too."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What the supervisor was started with; the same at every attempt but for the Slurm part."""

    run_id: str
    cluster: str
    job_id: str
    """Names just this job, also within an array."""
    submitted: int
    name: str
    """File name of the script."""
    script: bytes
    arguments: tuple[str, ...]
    run_dir: Path
    checkpoint_dir: Path
    work_dir: str
    limits: Limits
    nodes: tuple[str, ...]
    batch_host: str
    restarts: int
    """SLURM_RESTART_COUNT of this execution."""
    environment: Mapping[str, str]
    poll_s: float = 0.5
    stop_lead_s: float = 60.0
    epilog_s: float = 2.0
    checkpoint_format: str = "auto"
    fresh: bool = False
    """Begin at step 0 where checkpoints lie but none is proven complete, instead of being held."""
    hang_timeout_s: float = AUTO
    progress_regex: str = ""
    restart_stragglers: bool = False
    inside: Inside | None = None
    """The image or isolation that its steps are to run in."""
    size: int = 0
    """Nodes the script runs on, where the job may hold spares beyond them; 0: every node of the job."""
    spares: int = 0
    """Spares the job asks for (--spare-nodes)."""
    least: int = 0
    """Nodes it is content with where no replacement is free (--min-nodes); 0: no fewer than `size`."""
    lowest: int = 0
    """The least of a range given to --nodes; 0: no range."""
    preemptible_qos: str = ""
    """Jobs of this QOS give up their nodes for ours, where the site preempts by QOS."""

    @property
    def job_name(self) -> str:
        """What squeue calls the job: --job-name, else the script's file name."""
        return self.environment.get("SLURM_JOB_NAME") or self.name

    def allocation(self) -> Allocation:
        """The nodes Slurm gave this execution."""
        size = self.size or len(self.nodes)
        return Allocation(self.nodes, self.batch_host, size, self.least or size)

    def job_size(self, usable: int | None) -> JobSize | None:
        """What to ask Slurm for when `usable` nodes could be had now; None: it is left as submitted.

        Exact figures: with one task a node, Slurm takes the least of a range of nodes (22.05 to 26.05).
        """
        if not self.size:
            return None
        least, most = self.least or self.size, self.size + self.spares
        nodes = most if usable is None else min(most, max(usable, least if usable < self.size else self.size))
        tasks = nodes * _figure(self.environment, "SLURM_NTASKS_PER_NODE")
        return JobSize(nodes, tasks, tasks * _figure(self.environment, "SLURM_CPUS_PER_TASK"))


def _image_record(inside: Inside) -> dict[str, Any]:
    return {"image": {"name": inside.image, "digest": inside.digest, "runtime": inside.runtime}}


def _figure(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return max(1, int(text)) if text.isascii() and text.isdigit() else 1


def _unsaid(_words: str) -> None:
    """For callers without an output."""


def _no_lemons() -> frozenset[str]:
    """For sites without a cluster journal."""
    return frozenset()


def _ask_at_once(
    work: Callable[[], Any], *, patience_s: float | None = None, meanwhile: Callable[[], None] | None = None
) -> Any:
    """For storages that cannot hang: nothing is waited for, however long `patience_s` is."""
    del patience_s, meanwhile
    return work()


def _no_evidence(_job_id: str) -> Sequence[JobEvidence]:
    """For sites whose epilogs leave none."""
    return ()


def _nothing_written(_pid: int) -> Sequence[WrittenFile]:
    """For scripts whose steps write to the job's output alone."""
    return ()


def _nothing_new(_nodes: Sequence[str]) -> bool:
    """For sites without a cluster journal."""
    return False


def _no_answers(_job_id: str) -> Sequence[SiteAnswer]:
    """For sites without a watch."""
    return ()


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside of the supervisor."""

    jobs: JobControl
    cluster: ClusterView
    journal: Journal
    files: RunFiles
    ping: NodePing
    start: StartScript
    signals: Signals
    output: OutputTail
    clock: Clock
    say: Callable[[str], None] = _unsaid
    """One line into the job's own output."""
    fold: Callable[[Iterable[str]], str] = ",".join
    """Node names as one hostlist."""
    leftover: Callable[[str, str], ChildProcess] | None = None
    """What is left of a script whose supervisor was killed, by the run's directory and Slurm's raw job id."""
    looks: JobLooks | None = None
    """A look at the ranks on their nodes; None: hangs are not noticed."""
    spares: SpareHold | None = None
    """Keeps the script's steps off the spares; None: nothing does."""
    run_output: RunOutput | None = None
    written: Callable[[int], Sequence[WrittenFile]] = _nothing_written
    """Files to which the steps of the script with this process id write."""
    kept: AttemptFiles | None = None
    image: RunImage | None = None
    """Of a run whose steps run inside something."""
    evidence: Callable[[str], Sequence[JobEvidence]] = _no_evidence
    """What the epilogs of the nodes left about this job, by Slurm's raw job id."""
    lemons: Callable[[], Collection[str]] = _no_lemons
    """Nodes with a bad record, as far as this user may read of it."""
    site_answers: Callable[[str], Sequence[SiteAnswer]] = _no_answers
    """What the site found on nodes that this run suspected, by Slurm's raw job id."""
    site_wrote: Callable[[Sequence[str]], bool] = _nothing_new
    """Whether the site wrote about any of these nodes since the last call; asks nobody."""
    checkpoints: AskStorage = _ask_at_once
    """Reads and proves checkpoints."""
    crowding: Callable[[], float] = lambda: 1.0
    """How many times longer than on an idle machine our work takes."""


@dataclass(slots=True)
class Watch:
    """What is known while the script runs."""

    job: JobView | None = None
    job_checked: float = 0.0
    nodes_turn: float = 0.0
    nodes_asked: float = 0.0
    slurm_silent: bool = False
    stop_asked: str = ""
    stop_asked_at: float = 0.0
    signalled: bool = False
    """A signal was passed on to the script."""
    requeue_asked: str = ""
    """What the script asked Slurm for itself: `requeue` or `requeuehold`."""
    requeue_asked_at: float = 0.0
    room_checked: float = 0.0
    spares_checked: float = 0.0
    lifeless: frozenset[str] | None = None
    """Nodes that were asked when a rank failed, and on which everything stands still; None: nobody was asked."""
    survivors_ended: int | None = None
    """The step whose ranks were ended because they outlived the end that srun gave them."""
    ended_by_slurm: str = ""


class JobIsEnding(Exception):
    """Slurm requeues or ends the job before its script was started."""


class LiveRun:
    """The state of one run in this execution of its job."""

    def __init__(self, plan: RunPlan, ports: Ports) -> None:
        self.plan = plan
        self.record_of_run = TolerantJournal(ports.journal, ports.clock, ports.say)
        self.ports = ports = replace(ports, journal=self.record_of_run)
        self.attempt = 0
        self.newest_unknown = False
        self.resumed_at = 0
        """Step of the checkpoint this attempt was given."""
        self.lingering: tuple[str, ...] = ()
        """Steps of earlier attempts that are still on Slurm's books, though their processes are dead."""
        self.lingers_until = 0.0
        """When Slurm gives the last of them up."""
        self.down: frozenset[str] = frozenset()
        """Nodes of the job that Slurm calls DOWN."""
        self.mute: frozenset[str] = frozenset()
        """Nodes of the running script that do not answer slurmctld."""
        self.doubtful = False
        """A spare could not be let go of."""
        self.unanswered: frozenset[str] = frozenset()
        """Nodes of the job whose slurmd did not answer when the next attempt's nodes were chosen."""
        self.asking_s = 0.0
        """How long slurmctld took to tell of the nodes, the last time."""
        self.watch = Watch()
        self.here = plan.allocation()
        self.progress = ProgressFollower(ports.files, ports.journal, ports.clock, ports.kept)
        self.passes = PassWatch(ports.cluster, ports.clock)
        self.suspicion = NodeSuspicion(ports.ping, ports.clock)
        self.script_began = 0.0
        """When this supervisor started the script of the attempt; 0: it did not, or not yet."""
        self.arrived = self.began = ports.clock.now()
        """`arrived`: when the supervisor started, which Slurm lets it when the prologs are done."""
        self.ran_at = self.arrived
        """When the job was last seen to run on."""
        self.allocation_noted = False
        self.output_files: tuple[str, ...] = ()
        """What the steps write to beside the job's own output."""
        self._followed: set[str] = set()
        """Those found in this attempt."""
        self._output_looked = 0.0
        self._sigterm_asked: float | None = -1.0
        """The SIGTERM after which Slurm was asked what it means."""
        self.moving = self.progress_watch()
        self.crash = self.crash_look()

    def next_attempt(self) -> None:
        """What was known of the last attempt no longer holds."""
        self.attempt += 1
        self.unanswered = frozenset()
        self._followed = set()
        self.watch = Watch()
        self.suspicion.clear()

    def poll_s(self) -> float:
        """Seconds between two turns. Nobody polls a controller twice a second for a thousand nodes: the answer grows
        with the job."""
        return self.plan.poll_s * max(1.0, len(self.plan.nodes) / 128)

    def ask_job(self) -> JobView | None:
        """The job as Slurm has it; None when it does not answer."""
        before = self.ports.clock.now()
        try:
            job = self.ports.jobs.job(self.plan.job_id)
        except SovctlError:
            return None
        if job.running and job.restarts <= self.plan.restarts:
            self.ran_at = before
        return job

    def ended_by_slurm(self, job: JobView | None) -> bool:
        """Whether this execution of the job is over, requeued from outside or for good."""
        if job is None:
            return False
        # Only what is known to be an end: a state of a name that is not known here ends nobody's run.
        if not (job.over or job.completing or job.pending or job.restarts > self.plan.restarts):
            return False
        self.watch.job, self.watch.ended_by_slurm = job, "+".join([job.state, *sorted(job.flags)])
        return True

    def evidence(
        self, silence_s: float | None, nodes: Sequence[str] = (), *, ranks_silent: bool = True
    ) -> list[NodeEvidence]:
        """These nodes, or those the script runs on; `silence_s`: also ask slurmd, and count it as gone after so long,
        unless the ranks are known to go on."""
        began = self.ports.clock.now()
        try:
            views = self.ports.cluster.nodes(nodes or self.here.running_on)
            self.asking_s = self.ports.clock.now() - began
        except SovctlError as error:
            # Nobody's training ends because Slurm, its configuration or its commands are away for a while.
            if not self.watch.slurm_silent:
                self.ports.journal.append("slurm_silent", attempt=self.attempt, detail=error.message)
            self.watch.slurm_silent = True
            return []
        if self.watch.slurm_silent:
            self.watch.slurm_silent = False
            self.ports.journal.append("slurm_back", attempt=self.attempt)
        self.mute = frozenset(view.name for view in views if not view.state.responding)
        gone: frozenset[str] = frozenset()
        if silence_s is not None:
            self.suspicion.look(views)
            gone = self.suspicion.silent_for(silence_s)
        return [
            NodeEvidence(
                view,
                view.name in gone,
                bool(gone) and ranks_silent,
                self.crash.findings(view.name),
                self.suspicion.since(view.name),
            )
            for view in views
        ]

    def follow_output(self, pid: int) -> None:
        """Find out where the script with this process id sends the words of its steps."""
        now = self.ports.clock.now()
        if not due(now, self._output_looked, _OUTPUT_LOOK_S):
            return
        self._output_looked = now
        for file in self.ports.written(pid):
            if file.path not in self._followed and len(self._followed) < _MOST_OUTPUT_FILES:
                self._followed.add(file.path)
                self.output_files = tuple(dict.fromkeys([*self.output_files, file.path]))[-_MOST_OUTPUT_FILES:]
                self.ports.output.follow(file)
                if self.ports.run_output is not None:
                    self.ports.run_output.follow(file)

    def hold_spares(self) -> None:
        """The script is about to start: keep its steps on the nodes it runs on."""
        if self.ports.spares is not None:
            self.ports.spares.hold(self.here.spares)

    def release_spares(self, nodes: Sequence[str] | None = None) -> None:
        """Let go of these spares, or of all: a node leaves the job at once when no step is on it."""
        if self.ports.spares is not None:
            self.doubtful = bool(self.ports.spares.release(nodes))

    def broken_links(self) -> dict[str, str]:
        """What became of the links of which nodes since the run was last seen well, by the look after its crash."""
        well = self.moving.well if self.moving is not None else ()
        return broken_links(well, self.crash.looked)

    def unfit(self, avoid: set[str], *, ask: bool = False) -> frozenset[str]:
        """Nodes of the job the next attempt must not get: those given, and spares with something against them.
        `ask`: slurmd of each, though nothing spoke against any before."""
        try:
            views = self.ports.cluster.nodes(self.here.nodes)
        except SovctlError:
            return frozenset(avoid)
        self.down = frozenset(item.name for item in views if item.state.down)
        self.mute = frozenset(item.name for item in views if not item.state.responding)
        asked = ask or self.suspicion.any or self.doubtful
        self.unanswered = self.ports.ping.silent(views) if asked else frozenset()
        bad = blame_nodes([NodeEvidence(item, item.name in self.unanswered, True) for item in views])
        return frozenset(avoid) | frozenset(bad.nodes if bad else ()) | self.mute

    def size_for(self, free: int | None, unfit: frozenset[str]) -> JobSize | None:
        """What to ask Slurm for: no more than could be had now. `free`: nodes elsewhere, None: not known."""
        return self.plan.job_size(None if free is None else free + len(frozenset(self.here.nodes) - unfit))

    def free_elsewhere(self, avoid: Sequence[str], job: JobView | None) -> int | None:
        """Nodes outside the job that it could get, less those of its own that it could not; None: not known."""
        excluded = [item.node for item in exclusions(self.ports.journal.events(), self.ports.clock.now())]
        partition = job.extra.get("Partition", "") if job is not None else ""
        try:
            views, takeable, kept = self.ports.cluster.nodes(), self._takeable(job), self._kept_from(job)
            reserved = job is not None and job.in_reservation
            avoided = [*avoid, *excluded, *self.here.nodes, *kept]
            free = free_nodes(views, partition, avoided, takeable, in_reservation=reserved)
        except SovctlError:
            return None
        # Of its own, it would not be given these again.
        return free - len(kept & frozenset(self.here.nodes) - frozenset(avoid))

    def _kept_from(self, job: JobView | None) -> frozenset[str]:
        """Nodes that a reservation would keep from this job if it were requeued now."""
        try:
            reservations = self.ports.cluster.reservations() if job is not None else ()
        except SovctlError:
            # The nodes' own states tell of those that have begun.
            return frozenset()
        return kept_from(job, reservations, self.ports.clock.now()) if job is not None else frozenset()

    def _takeable(self, job: JobView | None) -> frozenset[str]:
        """Nodes that this job would get by preemption; asked only where the run would else go on with fewer."""
        qos = self.plan.preemptible_qos
        if not 0 < self.plan.least < self.here.size or not qos or job is None or job.extra.get("QOS", qos) == qos:
            return frozenset()
        if self.ports.cluster.settings().get("PreemptType") != "preempt/qos":
            return frozenset()
        return preemptible_nodes(self.ports.cluster.pool_jobs(), qos)

    def silent(self) -> frozenset[str]:
        """Nodes whose part of the job cannot end by itself: no answer from slurmd, or everything on them stands."""
        frozen = self.moving.frozen if self.moving is not None else frozenset()
        return self.suspicion.silent_for(0.0) | frozen | self.down | self.mute | self.unanswered

    def end_survivors(self) -> bool:
        """End the ranks themselves of a step that srun is ending because one of them failed; whether that was to do.

        srun's way to do it (SIG_TERM_KILL) sends SIGTERM, and SIGKILL only KillWait later. Until then a slurmstepd
        takes no other order, and slurmd waits with it when the job ends: slurmctld gives the node up as not responding
        after MessageTimeout (22.05 to 26.05). The ranks are the user's own, and without them it ends.
        """
        if self.moving is None or self.ports.looks is None:
            return False
        self.moving.read_output(self.ports.clock.now())
        if self.moving.ended_step is None:
            return False
        step, _ = self.moving.ended_step
        if self.watch.survivors_ended == step:
            return False
        self.ask_for_life()
        living = set(self.here.running_on) - self.silent() - (self.watch.lifeless or frozenset())
        if self.moving.ranks_ended >= len(living) * self._ranks_a_node():
            # Nothing is left of it but where nobody answers.
            return False
        try:
            there = {item.rpartition(".")[2] for item in self.ports.jobs.steps(self.plan.job_id)}
        except SovctlError:
            return False
        self.watch.survivors_ended = step
        if str(step) not in there:
            # It has ended, and the script goes on without it.
            return False
        self._end_survivors(self.ports.looks, step)
        return True

    def _ranks_a_node(self) -> int:
        """How many tasks srun starts on each node of the job, unless it is told otherwise."""
        return max(1, _figure(self.plan.environment, "SLURM_NTASKS") // len(self.here.granted))

    def ask_for_life(self) -> None:
        """Find out, once an attempt, on which nodes everything stands still: that takes seconds where there is one."""
        if self.watch.lifeless is None:
            found = self._lifeless(self.here.running_on)
            # None of them lives: slurmctld is away, and nobody was asked.
            self.watch.lifeless = found if set(self.here.running_on) - found else frozenset()

    def _end_survivors(self, looks: JobLooks, step: int) -> None:
        nodes = self.here.running_on
        silent = self.silent() | (self.watch.lifeless or frozenset())
        try:
            if silent & set(nodes):
                # It is heard before the order that holds up the others: nobody waits for what lies below such a node.
                self.ports.jobs.kill_steps(self.plan.job_id, patience_s=_TOLD_S, lost_node=True, looks=False)
            looks.end([node for node in nodes if node not in silent], step)
        except SovctlError as error:
            self.ports.journal.append("command_refused", attempt=self.attempt, detail=error.message)
            return
        self.ports.journal.append("survivors_ended", attempt=self.attempt, step=step)

    def _lifeless(self, names: Sequence[str]) -> frozenset[str]:
        try:
            return self.ports.ping.lifeless(self.ports.cluster.nodes(names))
        except SovctlError:
            return frozenset(names)

    def bring_back(self) -> BringBack:
        """The way through the queue, for the allocation as it is now."""
        plan, ports = self.plan, self.ports
        return BringBack(
            plan.job_id,
            self.attempt,
            plan.restarts,
            self.here.nodes,
            plan.batch_host,
            plan.epilog_s,
            ports.jobs,
            ports.cluster,
            ports.journal,
            ports.clock,
            self.passes,
            size=plan.job_size(None),
            asked=plan.lowest or len(plan.nodes),
            say=ports.say,
            shrunk=self.here.shrunk,
            lingering=self.lingering,
            lingers_until=self.lingers_until,
            crowding=ports.crowding,
            sigterm_at=lambda: ports.signals.terminated_at,
            began=self.script_began,
            ran_at=self.ran_at,
            end_survivors=self.end_survivors,
        )

    def newest(self, within_s: float = _PROOF_S) -> Checkpoint | None:
        """The newest complete checkpoint; None also when nobody can tell, or not so soon (`newest_unknown`)."""
        self.newest_unknown = False
        try:
            return self._find_checkpoint(record=False, proof_s=within_s).checkpoint
        except StorageSilent as error:
            self.ports.say(CheckpointDirUnreadable(str(self.plan.checkpoint_dir), error.message).message)
        except CheckpointDirUnreadable as error:
            self.ports.say(error.message)
        self.newest_unknown = True
        return None

    def step_saved(self, newest: Checkpoint | None) -> int:
        """Its step; where nobody could tell, the furthest that is on record: no answer is no loss."""
        if newest is not None:
            return newest.step
        return furthest_checkpoint(self.ports.journal.events()) if self.newest_unknown else 0

    def resume_point(self, patience_s: float) -> ResumePoint:
        """From where to go on. No rank of this run writes any more, so that a proof is kept.

        A directory that cannot be listed is not an empty one: it is looked at again for `patience_s`, then
        CheckpointDirUnreadable is raised. Raises JobIsEnding when Slurm ends the job meanwhile.
        """
        deadline = self.ports.clock.now() + patience_s
        while True:
            try:
                return self._find_checkpoint(record=True, meanwhile=self._notice_end)
            except CheckpointDirUnreadable:
                if self.ports.clock.now() >= deadline:
                    raise
            except StorageSilent as error:
                # It comes back, or the time limit comes: a run that is held meanwhile has nobody to let it go.
                if self.ports.clock.now() >= deadline + _STORAGE_BACK_S:
                    raise CheckpointDirUnreadable(str(self.plan.checkpoint_dir), error.message) from error
            self.ports.clock.sleep(1.0)
            self._notice_end()

    def _notice_end(self) -> None:
        """Raises JobIsEnding where a SIGTERM was Slurm's. The one before the first call was perhaps not heard."""
        came = self.ports.signals.terminated_at
        if self._sigterm_asked == came:
            return
        self._sigterm_asked = came
        if self.ended_by_slurm(self.ask_job()):
            raise JobIsEnding

    def _find_checkpoint(
        self, *, record: bool, proof_s: float = _PROOF_S, meanwhile: Callable[[], None] | None = None
    ) -> ResumePoint:
        where, kind, ask = self.plan.checkpoint_dir, self.plan.checkpoint_format, self.ports.checkpoints
        # A directory that answers is read for as long as that takes: the first proof of a large one takes a minute.
        ask(where.exists)
        found: ResumePoint = ask(
            lambda: resume_point(where, kind, quiet_s=0.0, record=record), patience_s=proof_s, meanwhile=meanwhile
        )
        return found

    def append_end(
        self,
        attempt: int,
        blame: Blame,
        decision: Decision,
        newest: Checkpoint | None = None,
        status: int | None = None,
        happened: float | None = None,
        within_s: float = _PROOF_S,
    ) -> None:
        """Write down how an attempt ended; nothing is done before this is on disk. `newest`: None: looked for, and
        found `within_s` or left open; `happened`: when it ended, where that was long ago."""
        newest = newest or self.newest(within_s)
        self.ports.journal.append(
            "attempt_ended",
            attempt=attempt,
            culprit=blame.culprit.value,
            blamed=list(blame.nodes),
            suspects=list(decision.suspects),
            evidence=blame.evidence,
            confidence=blame.confidence.value,
            signature=blame.signature,
            step=blame.step,
            checkpoint=str(newest.path) if newest else "",
            checkpoint_step=self.step_saved(newest),
            action=decision.action.value,
            why=decision.why,
            exit_status=status,
            happened=happened,
        )

    @property
    def raw_job_id(self) -> str:
        """Slurm's own number of the job, also of a task of an array."""
        return self.plan.environment.get("SLURM_JOB_ID", self.plan.job_id)

    def leftover(self) -> ChildProcess:
        """The script of a supervisor that was killed."""
        assert self.ports.leftover is not None
        return self.ports.leftover(str(self.plan.run_dir), self.raw_job_id)

    def record(self) -> dict[str, Any]:
        """`run.json`."""
        plan = self.plan
        return {
            "schema": "sovctl.run/1",
            "run_id": plan.run_id,
            "cluster": plan.cluster,
            "job_id": plan.job_id,
            "submitted": plan.submitted,
            "name": plan.job_name,
            "arguments": list(plan.arguments),
            "user": plan.environment.get("SLURM_JOB_USER") or plan.environment.get("USER", ""),
            "work_dir": plan.work_dir,
            "run_dir": str(plan.run_dir),
            "checkpoint_dir": str(plan.checkpoint_dir),
            "checkpoint_format": plan.checkpoint_format,
            **(_image_record(plan.inside) if plan.inside else {}),
        }

    def ask_stop(self, why: str) -> None:
        """Ask the ranks to save and stop, once an attempt."""
        if not self.watch.stop_asked:
            self.watch.stop_asked, self.watch.stop_asked_at = why, self.ports.clock.now()
            self.ports.files.ask_stop(self.attempt, why)
            self.ports.journal.append("stop_asked", attempt=self.attempt, why=why)

    def stop_heard(self) -> bool:
        """Whether the script can know that it was asked to stop. Of the mark in the run directory only its ranks know,
        and those that leave because of it say so; a signal reaches every script."""
        watch, last = self.watch, self.progress.last
        by_name = watch.signalled or bool(watch.requeue_asked) or watch.stop_asked == PREEMPTION
        return by_name or (last is not None and last.phase is Phase.STOPPING)

    def hear_requeue(self) -> str:
        """What the script asked Slurm for in place of ending: `requeue`, `requeuehold`, or empty. Slurm would have
        ended every rank at once; they are asked to save and stop."""
        said = self.ports.files.requeue_asked(self.attempt)
        if said and not self.watch.requeue_asked:
            self.watch.requeue_asked, self.watch.requeue_asked_at = said, self.ports.clock.now()
            self.ports.journal.append("requeue_asked", attempt=self.attempt, command=said)
            self.ports.say(f"the script asked Slurm to {said} this job; sovctl does it when the script has ended")
            self.ask_stop(OWN_REQUEUE)
        return self.watch.requeue_asked

    def progress_watch(self) -> ProgressWatch | None:
        """A watch over the progress on the nodes of this attempt."""
        plan, ports = self.plan, self.ports
        if ports.looks is None or ports.run_output is None or ports.kept is None:
            return None
        settings = ProgressSettings(
            nodes=self.here.running_on,
            checkpoint_dir=str(plan.checkpoint_dir),
            job_id=self.raw_job_id,
            gpus=self.gpus(),
            hang_timeout_s=plan.hang_timeout_s,
            progress_regex=plan.progress_regex,
            restart_stragglers=plan.restart_stragglers,
        )
        outside = ProgressPorts(ports.files, ports.kept, ports.run_output, ports.looks, ports.journal, self._lifeless)
        return ProgressWatch(settings, outside, self.progress)

    def crash_look(self) -> CrashLook:
        """A look at the nodes of this attempt after a crash."""
        ports = self.ports
        return CrashLook(self.gpus(), ports.files, ports.kept, ports.looks)

    def gpus(self) -> int | None:
        """How many GPUs the job was given on each node; the batch host's number, where nodes have the same."""
        count = self.plan.environment.get("SLURM_GPUS_ON_NODE", "")
        return int(count) if count.isdigit() and self.plan.environment.get("SLURM_GPUS_PER_NODE") else None


def gpus_of(job: JobView, environment: Mapping[str, str]) -> int:
    """On all nodes of the job; where Slurm does not count GPUs (AccountingStorageTRES), as on the batch host."""
    on_node = environment.get("SLURM_GPUS_ON_NODE", "")
    return job.gpus or (int(on_node) * len(job.nodes) if on_node.isascii() and on_node.isdigit() else 0)


def last_attempt(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The newest `attempt_started`."""
    return next((event for event in reversed(events) if event["kind"] == "attempt_started"), None)


def lingering_steps(events: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], float]:
    """Steps that were left on the books when the last attempt was started in its allocation, and until when at most."""
    last = [event for event in events if event["kind"] in ("restarted", "requeued")][-1:]
    steps = tuple(str(step) for event in last for step in event.get("lingering", ()))
    return steps, float(last[0].get("at", 0.0)) + LINGER_S if steps else 0.0


def end_of(events: Sequence[Mapping[str, Any]], attempt: int) -> Mapping[str, Any] | None:
    """How an attempt ended, if it did."""
    ends = (event for event in reversed(events) if event["kind"] == "attempt_ended" and event["attempt"] == attempt)
    return next(ends, None)
