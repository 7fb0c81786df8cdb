"""Slurm through its own commands: the adapter that is always complete, on every version from 22.05."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sovctl.adapters.command import CommandRunner, Completed
from sovctl.adapters.slurm import parse
from sovctl.adapters.slurm.question_env import question_env
from sovctl.errors import (
    CommandFailed,
    CommandMissing,
    CommandTimeout,
    JobNotFound,
    NotPermitted,
    SlurmConfMissing,
    SlurmUnreachable,
    SovctlError,
)
from sovctl.model.step_id import LOOK_STEP

if TYPE_CHECKING:  # what a list does not need is not imported for it
    from sovctl.model.job import JobSize, JobView
    from sovctl.model.node import NodeView
    from sovctl.model.pool import Partition, PoolJob
    from sovctl.model.reservation import Reservation
    from sovctl.model.site import Preemptable

_UNREACHABLE = (
    "Unable to contact slurm controller",
    "Connection refused",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Communication connection failure",
    "in standby mode",
    "Connection timed out",
    "Connection reset",
    "Unexpected message received",
    "controller not responding",
    # munged away or overloaded, on this machine or the controller's; credentials of a clock that was set.
    "Munge encode failed",
    "Protocol authentication error",
    "Invalid authentication credential",
    "Resource temporarily unavailable",
)
_NO_CONF = ("cannot stat file", "Could not find slurm.conf", "Could not establish a configuration source")
_NO_JOB = ("Invalid job id", "Job/step already completing or completed: No such", "does not exist")
_DENIED = ("Access/permission denied", "Invalid user id", "Permission denied")
_PASSES_S = 2.0
"""How long the count of the scheduler's passes is waited for: later it tells nothing of their moments."""
_SIG_ABORT = "997"
"""slurm_protocol_defs.h (22.05 to 26.05): slurmstepd sends SIGKILL and does not wait for the nodes below it in the
step's tree. After an ordinary SIGKILL the one above a dead node waits 60 s for it, and the job with it. A step's owner
may send it."""


class SlurmCli:
    """Implements ports.NodeControl, JobControl and ClusterView."""

    def __init__(self, runner: CommandRunner, *, bin_dir: str = "", timeout_s: float = 15.0) -> None:
        self._runner = runner
        self._bin_dir = bin_dir
        self._timeout_s = timeout_s

    # Reads

    def job(self, job_id: str) -> JobView:
        """One job, also when it ended a short while ago (MinJobAge)."""
        done = self._slurm("scontrol", "-o", "show", "job", job_id, about=job_id)
        records = parse.parse_records(done.stdout)
        jobs = [parse.parse_job(record) for record in records if "JobId" in record]
        # `show job 12` prints every task when 12 is an array; the record asked for comes by its own id.
        for job in jobs:
            if job_id in (job.job_id, job.extra["JobId"]):
                return job
        raise JobNotFound(job_id)

    def node(self, name: str) -> NodeView:
        """One node by its NodeName."""
        return self.nodes([name])[0]

    def nodes(self, names: Sequence[str] = ()) -> tuple[NodeView, ...]:
        """The named nodes, or all."""
        done = self._slurm("scontrol", "-o", "show", "node", *([parse.fold(names)] if names else []))
        return tuple(parse.parse_nodes(done.stdout))

    def jobs_on(self, nodes: Sequence[str]) -> tuple[JobView, ...]:
        """Active jobs that hold any of these nodes."""
        done = self._slurm("squeue", "-h", "-a", "-o", parse.QUEUE_FORMAT, "-w", parse.fold(nodes))
        return tuple(parse.parse_queue(done.stdout))

    def jobs(self) -> tuple[JobView, ...]:
        """Every active job, by columns that no user can forge."""
        done = self._slurm("squeue", "-h", "-a", "-r", "-o", parse.QUEUE_FORMAT)
        return tuple(parse.parse_queue(done.stdout))

    def pool_jobs(self) -> tuple[PoolJob, ...]:
        """Every job that is not over, by columns that no user can forge."""
        return tuple(parse.parse_pool_jobs(self._slurm("squeue", "-h", "-a", "-r", "-o", parse.POOL_FORMAT).stdout))

    def reservations(self) -> tuple[Reservation, ...]:
        """Every reservation, also those that have not begun."""
        return tuple(parse.parse_reservations(self._slurm("scontrol", "-o", "show", "reservation").stdout))

    def preempted(self, qos: str) -> tuple[str, ...]:
        """Running jobs of this QOS that were told to leave, for a job that preempts them."""
        asked = ("-h", "-a", "-r", "-t", "RUNNING", "-q", qos, "-O", parse.PREEMPTED_FORMAT)
        # Where there is no such QOS squeue says so.
        return tuple(parse.parse_preempted(self._slurm("squeue", *asked, check=False).stdout))

    def own_jobs(self) -> tuple[JobView, ...]:
        """The caller's jobs that Slurm still knows, also those that ended a short while ago (MinJobAge)."""
        done = self._slurm("squeue", "-h", "-a", "-r", "-t", "all", "--me", "-o", parse.QUEUE_FORMAT)
        return tuple(parse.parse_queue(done.stdout))

    def settings(self) -> Mapping[str, str]:
        """`scontrol show config` by key."""
        return parse.parse_config(self._slurm("scontrol", "show", "config").stdout)

    def partitions(self) -> Mapping[str, Partition]:
        """Every partition by name, hidden ones too."""
        found = parse.parse_partitions(self._slurm("scontrol", "-o", "show", "partition", "-a").stdout)
        return {item.name: item for item in found}

    def preemptable_partitions(self) -> tuple[Preemptable, ...]:
        """Every partition, as far as preemption goes."""
        return parse.parse_preemptable_partitions(self._slurm("scontrol", "-o", "show", "partition").stdout)

    def preemptable_qos(self) -> tuple[Preemptable, ...]:
        """Every QOS, as far as preemption goes; slurmdbd answers."""
        wanted = "format=Name,GraceTime,PreemptMode"
        return parse.parse_preemptable_qos(self._slurm("sacctmgr", "-nP", "show", "qos", wanted).stdout)

    def batch_script(self, job_id: str) -> str:
        """The script of a job, for root and its owner."""
        return self._slurm("scontrol", "write", "batch_script", job_id, "-", about=job_id).stdout

    def scheduler_passes(self) -> int | None:
        """sdiag's count of main scheduler cycles; None when it cannot be had (PrivateData, no sdiag)."""
        try:
            return parse.parse_scheduler_passes(self._slurm("sdiag", timeout_s=_PASSES_S).stdout)
        except (CommandFailed, NotPermitted, CommandMissing):
            return None

    # Acts on a job

    def requeue(self, job_id: str, *, hold: bool = False) -> None:
        """Requeue a running job. `incomplete` makes slurmctld itself refuse a job that was cancelled meanwhile:
        a plain requeue would bring a cancelled job back to life (22.05 to 26.05)."""
        self._slurm("scontrol", "requeuehold" if hold else "requeue", "incomplete", job_id, about=job_id)

    def update_pending(
        self, job_id: str, *, exclude: Sequence[str] | None, begin: int | None, size: JobSize | None = None
    ) -> None:
        """Replace ExcNodeList, the begin time and the size in one request."""
        self._slurm(*pending_update(job_id, exclude=exclude, begin=begin, size=size), about=job_id)

    def drop_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        """Shrink a running job to `keep`; slurmctld refuses to drop the batch host."""
        self._slurm("scontrol", "update", f"JobId={job_id}", f"NodeList={parse.fold(keep)}", about=job_id)

    def steps(self, job_id: str) -> dict[str, float]:
        """The steps but the batch script's and the extern step, and when each began."""
        listed = self._slurm("squeue", "-h", "-s", "-j", job_id, "-o", "%i %S", about=job_id, check=False)
        return parse.parse_step_starts(listed.stdout)

    def kill_steps(
        self, job_id: str, *, patience_s: float | None = None, lost_node: bool = False, looks: bool = True
    ) -> None:
        """SIGKILL every step but the batch script; where one of their nodes is gone, by Slurm's own
        SIG_ABORT. Never name the bare job id here: on a job that is being requeued, `scancel -s KILL JOBID` cancels the
        requeue (22.05).

        `patience_s`: so long the answers are waited for. scancel itself tells every node, and a slurmstepd whose
        child in the step's tree is gone lets it wait for MessageTimeout (10 s, 22.05).

        `looks`: those of ours too. A slurmstepd that is told twice while it ends may join the wrong thread and wait
        UnkillableStepTimeout (60 s) for itself, and then drain its node (step_terminate_monitor_stop, 22.05 to 25.05;
        mended in 25.11). A look that was let go has been told by its srun."""
        listed = self._slurm("squeue", "-h", "-s", "-j", job_id, "-o", "%i %j", about=job_id, check=False)
        steps = [step for step, name in parse.parse_step_names(listed.stdout).items() if looks or name != LOOK_STEP]
        if not steps:
            return
        try:
            self._slurm(
                "scancel",
                "-Q",
                "-s",
                _SIG_ABORT if lost_node else "KILL",
                *steps,
                about=job_id,
                check=False,
                timeout_s=patience_s,
            )
        except SlurmUnreachable as error:
            if patience_s is None or not isinstance(error.__cause__, CommandTimeout):
                raise

    def put_first(self, job_id: str) -> None:
        """The highest priority among pending jobs, until it is requeued; for root and operators."""
        from sovctl.model.job import FIRST_PRIORITY

        self._slurm("scontrol", "update", f"JobId={job_id}", f"Priority={FIRST_PRIORITY}", about=job_id)

    def forbid_requeue(self, job_id: str) -> None:
        """Requeue=0: stronger than RequeueExit and than --requeue=expedite (23.11 on)."""
        self._slurm("scontrol", "update", f"JobId={job_id}", "Requeue=0", about=job_id)

    def release(self, job_id: str) -> None:
        """Let a held job run."""
        self._slurm("scontrol", "release", job_id, about=job_id)

    def cancel(self, job_id: str) -> None:
        """scancel."""
        self._slurm("scancel", job_id, about=job_id)

    # Acts on a node

    def drain(self, node: str, reason: str) -> None:
        """No new work on this node; what runs goes on."""
        self._slurm(*node_update(node, "DRAIN", reason), about=f"node {node}")

    def set_down(self, node: str, reason: str) -> None:
        """Declare a node dead: Slurm ends what ran there and requeues it."""
        self._slurm(*node_update(node, "DOWN", reason), about=f"node {node}")

    def reconfigure(self) -> None:
        """Have every daemon read slurm.conf again."""
        self._slurm("scontrol", "reconfigure")

    def resume(self, node: str) -> None:
        """Give a node back."""
        self._slurm("scontrol", "update", f"NodeName={node}", "State=RESUME", about=f"node {node}")

    def set_weight(self, node: str, weight: int) -> None:
        """Hand this node out before or after others; slurmctld forgets it when it reads slurm.conf again."""
        self._slurm("scontrol", "update", f"NodeName={node}", f"Weight={weight}", about=f"node {node}")

    def _slurm(
        self, program: str, *arguments: str, about: str = "", check: bool = True, timeout_s: float | None = None
    ) -> Completed:
        argv = [str(Path(self._bin_dir) / program) if self._bin_dir else program, *arguments]
        patience_s = self._timeout_s if timeout_s is None else timeout_s
        look_for_conf(self._runner)
        try:
            done = self._runner.run(argv, timeout_s=patience_s, env=question_env(self._runner), check=False)
        except CommandTimeout as error:
            raise SlurmUnreachable(f"{program} gave no answer within {patience_s:g} s") from error
        if done.status != 0 and (check or _transport_failed(done.stderr)):
            raise slurm_error(argv, done, about)
        return done


def look_for_conf(runner: CommandRunner) -> None:
    """Slurm's commands themselves look for the file that SLURM_CONF names for a minute. Raises SlurmConfMissing."""
    conf = runner.variable("SLURM_CONF")
    if conf and _absent(Path(conf)):
        raise SlurmConfMissing()


def _absent(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:
        # It may not be ours to look at; Slurm has words of its own for that.
        return False


def pending_update(
    job_id: str, *, exclude: Sequence[str] | None, begin: int | None, size: JobSize | None = None
) -> list[str]:
    """The scontrol command that changes a pending job; also what a dry run prints."""
    argv = ["scontrol", "update", f"JobId={job_id}"]
    if exclude is not None:
        argv.append(f"ExcNodeList={parse.fold(exclude)}")
    if size is not None:
        # `NumNodes=N` alone keeps the old maximum and the old tasks and CPUs, which then fit nowhere (22.05).
        argv += [f"NumNodes={size.nodes}-{size.nodes}", f"NumTasks={size.tasks}", f"NumCPUs={size.cpus}"]
    if begin is not None:
        # Absolute and free of time zones; `now+N` would be counted from the moment scontrol runs.
        argv.append(f"StartTime=uts{begin}")
    return argv


def node_update(node: str, state: str, reason: str) -> list[str]:
    """The scontrol command that drains a node or sets it down; also what a dry run prints."""
    return ["scontrol", "update", f"NodeName={node}", f"State={state}", f"Reason={reason}"]


def slurm_error(argv: Sequence[str], done: Completed, about: str) -> SovctlError:
    """Slurm's words as one of our errors."""
    said = done.stderr or done.stdout
    if any(words in said for words in _NO_CONF):
        return SlurmConfMissing()
    if _transport_failed(said):
        return SlurmUnreachable(" ".join(said.split())[:120])
    if any(words in said for words in _NO_JOB):
        return JobNotFound(about)
    if any(words in said for words in _DENIED):
        return NotPermitted(about if about.startswith("node ") else f"job {about}")
    return CommandFailed(argv, done.status, said)


def _transport_failed(said: str) -> bool:
    return any(words in said for words in _UNREACHABLE)
