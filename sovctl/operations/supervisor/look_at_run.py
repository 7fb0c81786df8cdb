"""Looks at a run while its script works: nodes, spares, the time limit, room to grow, requests, progress.

Each look returns whom to blame when the script has to be ended now, and None while all is well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sovctl.errors import SovctlError
from sovctl.model.blame import Blame, Culprit
from sovctl.model.pauses import due
from sovctl.model.progress import Phase
from sovctl.operations.supervisor.follow_progress import Quiet
from sovctl.operations.supervisor.live_run import OWN_REQUEUE, SILENCE_S, LiveRun, gpus_of
from sovctl.operations.supervisor.site_words import SiteWords
from sovctl.recovery.blame import NodeEvidence, blame_nodes, condemned_since
from sovctl.recovery.lead import stop_lead_s, stop_patience_s
from sovctl.recovery.place import may_grow

CALM_S = 1.25
"""How often slurmctld is asked about the nodes while the ranks move and the site wrote nothing: that is two RPCs a time
(nodes and partitions, `scontrol show node`, 22.05 to 26.05), and each carries every node of the cluster."""
CALM_SHARE = 0.02
"""The most of the time that asking may take: a slow slurmctld is asked less."""
_SURVIVE_S = 2.0
"""So long ranks get to end by themselves after one of them failed: with the time it takes to end them that is less than
MessageTimeout (10 s), after which slurmctld would give up their nodes."""
_JOB_CHECK_S = 5.0
_ROOM_CHECK_S = 5.0
"""How often a run on fewer nodes looks for a new checkpoint and free nodes."""
_SPARES_CHECK_S = 10.0
_LEAST_END_S = 10.0
"""How long a script that asked for its own requeue has at least to end by itself, once its saves were measured."""
_SILENCE_WITHOUT_RANKS_S = 20.0
"""The same for scripts whose ranks say nothing of themselves: longer than any restart of slurmd."""


class RunLooks:
    """Everything that is looked at once a turn."""

    def __init__(self, live: LiveRun) -> None:
        self._live = live
        self._site = SiteWords(live)

    def look(self) -> Blame | None:
        """One turn of all looks; the first that finds something ends it."""
        self._site.look()
        self._live.progress.show()
        looks = (
            self._look_for_survivors,
            self._look_at_nodes,
            self._look_at_time,
            self._look_for_room,
            self._look_for_requests,
            self._look_at_progress,
        )
        return next((found for look in looks if (found := look()) is not None), None)

    def _look_for_survivors(self) -> None:
        """Ranks that outlive the SIGTERM which srun sends them when another one failed. One that saves gets Slurm's
        whole KillWait."""
        live = self._live
        said = live.moving.ended_step if live.moving is not None else None
        if said is None or live.watch.survivors_ended == said[0]:
            return
        if live.watch.stop_asked and not self._asked_long_ago():
            # The first rank that has saved and stopped is none that failed.
            return
        live.ask_for_life()
        saves = live.progress.last is not None and live.progress.last.phase in (Phase.SAVING, Phase.STOPPING)
        if not saves and live.ports.clock.now() - said[1] >= _SURVIVE_S:
            live.end_survivors()

    def _look_at_nodes(self) -> Blame | None:
        """Node states of the allocation, and slurmd itself once the ranks have gone silent."""
        now = self._live.ports.clock.now()
        if not due(now, self._live.watch.nodes_turn, self._live.poll_s() * 0.9):
            return None
        self._live.watch.nodes_turn = now
        self._look_at_spares(now)
        quiet = self._live.progress.quiet(self._output_size(), now)
        news = self._live.ports.site_wrote(self._live.here.running_on)
        if quiet is Quiet.NO:
            self._live.suspicion.clear()
        # A script that says nothing of itself may print seldom: that alone is no trouble.
        trouble = news or quiet is Quiet.RANKS or self._live.suspicion.any
        if not trouble and not due(now, self._live.watch.nodes_asked, self._calm_s()):
            return None
        self._live.watch.nodes_asked = now
        patience = SILENCE_S if quiet is Quiet.RANKS else _SILENCE_WITHOUT_RANKS_S
        evidence = self._live.evidence(patience if quiet is not Quiet.NO else None)
        blame = blame_nodes(evidence)
        if blame is None:
            return None
        self._live.ports.journal.append(
            "detected",
            attempt=self._live.attempt,
            nodes=list(blame.nodes),
            evidence=blame.evidence,
            happened=self._happened(evidence, quiet),
        )
        return replace(blame, step=self._live.progress.step)

    def _happened(self, evidence: Sequence[NodeEvidence], quiet: Quiet) -> float | None:
        """Since when a node is at fault: the ranks of the others stop within a step of it."""
        last = self._live.progress.last
        moved = last.step_at if last is not None and quiet is Quiet.RANKS else None
        known = [at for at in (moved, condemned_since(evidence)) if at is not None]
        return min(*known, self._live.ports.clock.now()) if known else None

    def _calm_s(self) -> float:
        """Seconds between two questions while nothing speaks for trouble."""
        return max(CALM_S, self._live.poll_s(), self._live.asking_s / CALM_SHARE)

    def _look_at_spares(self, now: float) -> None:
        """A spare with something against it is given back: whoever repairs it need not wait for the run to end."""
        here = self._live.here
        spares = here.spares
        if not spares or not due(now, self._live.watch.spares_checked, _SPARES_CHECK_S):
            return
        self._live.watch.spares_checked = now
        try:
            lost = blame_nodes([NodeEvidence(item) for item in self._live.ports.cluster.nodes(spares)])
        except SovctlError:
            return
        if lost is None:
            return
        self._live.release_spares(lost.nodes)
        if self._live.bring_back().drop(lost.nodes):
            here.dropped(lost.nodes)
            self._live.ports.journal.append(
                "spare_lost", attempt=self._live.attempt, nodes=list(lost.nodes), evidence=lost.evidence
            )

    def _look_at_progress(self) -> Blame | None:
        """Whether the run still moves."""
        if self._live.moving is None or (self._live.watch.stop_asked and not self._asked_long_ago()):
            return None
        job = self._live.watch.job
        paths = [path for path in dict.fromkeys([job.stdout, job.stderr]) if path] if job is not None else []
        return self._live.moving.look(self._live.ports.clock.now(), paths, self._live.mute)

    def _asked_long_ago(self) -> bool:
        """Ranks that save and stop do no steps: only when that takes too long is it a hang like any other."""
        asked_s = self._live.ports.clock.now() - self._live.watch.stop_asked_at
        return asked_s > stop_patience_s(self._live.progress.save_seconds)

    def _output_size(self) -> int | None:
        job = self._live.watch.job
        own = [job.stdout] if job is not None and job.stdout else []
        sizes = [self._live.ports.output.size(path) for path in (*own, *self._live.output_files)]
        known = [size for size in sizes if size is not None]
        return sum(known) if known else None

    def _look_at_time(self) -> Blame | None:
        """Near the time limit the ranks are asked to save and stop; if they do not, the last checkpoint must do."""
        now = self._live.ports.clock.now()
        if due(now, self._live.watch.job_checked, _JOB_CHECK_S if self._live.watch.job is None else 60.0):
            self._live.watch.job_checked = now
            self._live.watch.job = self._live.ask_job() or self._live.watch.job
            # Its SIGTERM may have come before anybody here could hear it.
            if self._live.ended_by_slurm(self._live.watch.job):
                return None
            self._note_allocation()
        job = self._live.watch.job
        if job is None or job.ends_at is None or not job.requeue:
            return None
        lead = stop_lead_s(
            self._live.plan.stop_lead_s, job.ends_at - (job.started_at or job.ends_at), self._live.progress.save_seconds
        )
        if now < job.ends_at - lead:
            return None
        self._live.ask_stop("time limit")
        if now > job.ends_at - min(10.0, lead / 2):
            return Blame(Culprit.TIME_LIMIT, evidence="the time limit was near", step=self._live.progress.step)
        return None

    def _note_allocation(self) -> None:
        """What only Slurm knows of the way through the queue, once an execution of the job."""
        live, job = self._live, self._live.watch.job
        if live.allocation_noted or job is None:
            return
        live.allocation_noted = True
        live.ports.journal.append(
            "allocated",
            attempt=live.attempt,
            eligible_at=job.eligible_at,
            allocated_at=job.started_at,
            began_at=round(live.arrived, 3),
            gpus=gpus_of(job, live.plan.environment),
        )

    def _look_for_room(self) -> Blame | None:
        """A run on fewer nodes than it wants goes back to all of them right after a checkpoint, when they are free."""
        here, now = self._live.here, self._live.ports.clock.now()
        if len(here.running_on) >= here.size or not due(now, self._live.watch.room_checked, _ROOM_CHECK_S):
            return None
        self._live.watch.room_checked = now
        if self._live.watch.stop_asked:
            wish = Blame(Culprit.STOPPED, evidence=self._live.watch.stop_asked, step=self._live.progress.step)
            return wish if self._asked_long_ago() else None
        newest = self._live.newest()
        if newest is None or newest.step <= self._live.resumed_at:
            return None
        if may_grow(here.room(self._live.free_elsewhere((), self._live.watch.job), self._live.watch.job, now)):
            self._live.ask_stop(f"{here.size} nodes are free again")
        return None

    def _look_for_requests(self) -> Blame | None:
        """A framework that wants to requeue the job itself: there is one owner of the requeue, and it is this one. The
        rank that asks may be done while others still save, so the script may end by itself first."""
        live = self._live
        if not live.hear_requeue():
            return None
        saves = live.progress.save_seconds
        patience_s = stop_patience_s(saves, _LEAST_END_S) if saves else stop_patience_s(())
        if live.ports.clock.now() - live.watch.requeue_asked_at <= patience_s:
            return None
        return Blame(Culprit.STOPPED, evidence=OWN_REQUEUE, step=live.progress.step)
