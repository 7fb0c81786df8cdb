"""Frees a node from a slurmstepd that only waits for the report of a dead one, in the way of its whole job.

The slurmstepd above a dead node in a step's tree waits 60 s for it (REVERSE_TREE_CHILDREN_TIMEOUT, 22.05 to 26.05), and
the job cannot begin again before: only root on that node can end it. `sovctl watch` names jobs that complete too long;
a slurmstepd of such a job that has had no process below it for two looks has nothing left to do but wait.

And ends at once what is left of a preempted job that was requeued at the end of its grace time, where a run waits for
the node: Slurm lets it live for KillWait (30 s) more. The batch script is left alone for one look: it may be sovctl's
own, with a record to write.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sovctl.ports.common import Clock
from sovctl.ports.node import StepDaemons

CHILDLESS_S = 1.5
"""Between two looks at least: a slurmstepd that was just told to end its tasks still has to tell others of it."""


@dataclass(slots=True)
class StepFreer:
    """One node's part of it."""

    daemons: StepDaemons
    clock: Clock
    _since: dict[int, float] = field(default_factory=dict)
    _ending: frozenset[str] = frozenset()
    """Preempted jobs that were told to end at the last look."""

    def turn(self) -> list[str]:
        """Look once; says what was ended."""
        now, waiting, said = self.clock.now(), dict[int, float](), []
        for job_id in self.daemons.asked():
            for pid, step in self.daemons.childless(job_id).items():
                waiting[pid] = self._since.get(pid, now)
                if now - waiting[pid] >= CHILDLESS_S and self.daemons.end(pid, job_id):
                    said.append(f"ended the slurmstepd of step {step}, which only waited for a lost node")
        self._since = waiting
        return said + self._end_preempted()

    def _end_preempted(self) -> list[str]:
        jobs, said = self.daemons.to_end(), []
        for job_id, before in jobs.items():
            ended = self.daemons.end_tasks(job_id, before, batch=job_id in self._ending)
            if ended:
                said.append(f"ended {ended} processes of job {job_id}, which was preempted and is past its grace time")
        self._ending = frozenset(jobs)
        return said
