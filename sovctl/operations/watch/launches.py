"""Runs that Slurm holds because it could not launch them: let go again a few times, for the node that refused is out of
service by then. So does the batch host of a slurmctld that came back with an older state: it still runs the job, and
takes no second copy ("Duplicate jobid", 22.05 to 26.05)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sovctl.errors import SlurmUnreachable, SovctlError
from sovctl.model.job import JobView
from sovctl.operations.watch.site import Site
from sovctl.operations.watch.voice import Voice
from sovctl.ports.common import Clock
from sovctl.recovery.attempts import seconds, text

_AN_HOUR = 3600.0
LAUNCHES_AN_HOUR = 3
"""So often a run is let go again within an hour; one that no node launches is a matter for a person."""


@dataclass(slots=True)
class LaunchAgain:
    """Lets runs go whose launch failed."""

    site: Site
    clock: Clock
    voice: Voice
    act: bool
    _tries: dict[str, list[float]] = field(default_factory=dict)
    """When each job was let go, within the last hour."""

    def restore(self, events: Sequence[Mapping[str, Any]]) -> None:
        """From the journal of a watch before this one."""
        for event in events:
            if event.get("kind") == "launch-again-intended":
                self._tries.setdefault(text(event, "job_id"), []).append(seconds(event, "at") or 0.0)

    def again(self, job: JobView) -> bool:
        """Whether this held run was let go; else a person has to."""
        now = self.clock.now()
        lately = {job_id: [at for at in tries if now - at < _AN_HOUR] for job_id, tries in self._tries.items()}
        self._tries = {job_id: tries for job_id, tries in lately.items() if tries}
        tries = self._tries.get(job.job_id, [])
        if len(tries) >= LAUNCHES_AN_HOUR:
            self._give_up(job, len(tries))
            return False
        words = f"job {job.job_id} is let go again: Slurm held it, for its launch failed"
        if not self.act:
            self.voice.tell(f"observe:launch:{job.job_id}", f"would act: {words}")
            return False
        self._tries[job.job_id] = [*tries, now]
        self.voice.write("launch-again-intended", job_id=job.job_id, why=job.reason)
        try:
            self.site.release(job.job_id)
        except SlurmUnreachable:
            raise
        except SovctlError as error:
            self.voice.say(f"job {job.job_id} could not be released: {error.message}")
            return False
        self.voice.write("launch-again-done", job_id=job.job_id)
        self.voice.say(words)
        return True

    def _give_up(self, job: JobView, tries: int) -> None:
        why = f"{job.reason}, {tries} times within an hour"
        mended = f"see sinfo -R, then type: scontrol release {job.job_id}"
        if self.voice.tell(f"launch:{job.job_id}", f"job {job.job_id} is held by Slurm: {why}; {mended}"):
            self.voice.write("run-held-by-slurm", job_id=job.job_id, why=why)
