"""What the site found on nodes this run suspected, taken into the run's own record."""

from __future__ import annotations

from sovctl.model.pauses import due
from sovctl.operations.supervisor.live_run import LiveRun

_EVERY_S = 10.0


class SiteWords:
    """The watch on the controller leaves its answers where only the site can write; each is recorded once. They are
    kept for weeks under the number of the job, which another run had before where slurmctld began to count anew."""

    def __init__(self, live: LiveRun) -> None:
        self._live = live
        self._looked = 0.0
        self._known: set[tuple[str, int]] | None = None

    def look(self) -> None:
        """Every 10 s at most."""
        now = self._live.ports.clock.now()
        if not due(now, self._looked, _EVERY_S):
            return
        self._looked = now
        found = self._live.ports.site_answers(self._live.raw_job_id)
        answers = [item for item in found if item.checked_at >= self._live.plan.submitted]
        if not answers:
            return
        events = self._live.ports.journal.events() if self._known is None else []
        if self._known is None:
            noted = (event for event in events if event["kind"] == "site_checked")
            self._known = {(str(event.get("node")), int(event.get("seq_named", 0))) for event in noted}
        for item in answers:
            if (item.node, item.seq) not in self._known:
                self._known.add((item.node, item.seq))
                self._live.ports.journal.append(
                    "site_checked",
                    attempt=self._live.attempt,
                    node=item.node,
                    state=str(item.state),
                    evidence=item.words,
                    seq_named=item.seq,
                )
