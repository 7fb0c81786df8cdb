"""What a watch that was killed had begun: settled by what Slurm shows now, or gone on with under the same record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovctl.errors import SlurmUnreachable, SovctlError
from sovctl.model.reason import parse_reason
from sovctl.operations.watch.places import RunPlaces
from sovctl.operations.watch.preempted import PreemptedJobs
from sovctl.operations.watch.runs import RunTakeOver
from sovctl.operations.watch.site import Site
from sovctl.operations.watch.voice import Voice
from sovctl.recovery.attempts import seconds

_STILL_MEANT_S = 600.0
"""An intent that is older was of another time."""
_OUTCOMES = {
    "down-done": "down-intended",
    "down-failed": "down-intended",
    "drain-done": "drain-intended",
    "drain-failed": "drain-intended",
    "takeover-done": "takeover-intended",
    "takeover-failed": "takeover-intended",
    "dropped-from-job": "drop-intended",
    "end-done": "end-intended",
    "end-failed": "end-intended",
    "room-restored": "room-intended",
    "first-done": "first-intended",
    "first-failed": "first-intended",
    "suspect-checked": "suspected",
}
_INTENTS = frozenset(_OUTCOMES.values())


def open_intents(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Intents without an outcome, oldest first; a newer intent of the same kind about the same thing takes an older
    one's place."""
    still_open: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for event in events:
        kind = str(event.get("kind", ""))
        about = (str(event.get("node", "")), str(event.get("job_id", "")))
        if kind in _INTENTS:
            still_open[(kind, *about)] = event
        elif kind in _OUTCOMES:
            still_open.pop((_OUTCOMES[kind], *about), None)
    return list(still_open.values())


@dataclass(frozen=True, slots=True)
class Settlement:
    """Of each of them."""

    site: Site
    voice: Voice
    runs: RunTakeOver
    preempted: PreemptedJobs
    places: RunPlaces

    def all(self, begun: Sequence[Mapping[str, Any]], now: float) -> frozenset[str]:
        """Returns the incidents whose nodes were never taken out. Raises SovctlError when Slurm does not answer."""
        reasons = {node.name: parse_reason(node.reason) for node in self.site.nodes()}
        never = set()
        for event in begun:
            kind, node = str(event["kind"]).removesuffix("-intended"), str(event.get("node", ""))
            if kind in ("down", "drain"):
                reason, incident = reasons.get(node), str(event.get("incident", ""))
                if reason is not None and reason.incident == incident:
                    self.voice.write(f"{kind}-done", node=node, incident=incident)
                else:
                    never.add(incident)
                    self._not_carried_out(kind, event, now)
            else:
                self._settle(kind, event)
        return frozenset(never)

    def _not_carried_out(self, kind: str, event: Mapping[str, Any], now: float) -> None:
        if now - (seconds(event, "at") or 0.0) < _STILL_MEANT_S:
            self.voice.go_on(event)
        else:
            common = {"node": event.get("node", ""), "incident": event.get("incident", "")}
            self.voice.write(f"{kind}-failed", **common, error="sovctl ended before it was done")

    def _settle(self, kind: str, event: Mapping[str, Any]) -> None:
        match kind:
            case "takeover":
                self._takeover(event)
            case "drop":
                self._drop(event)
            case "end":
                self.preempted.resume(event)
            case "room":
                self.places.resume(event)
                self.voice.go_on(event)
            case "first" | "suspected":
                self.voice.go_on(event)

    def _takeover(self, event: Mapping[str, Any]) -> None:
        job_id, exclude = str(event.get("job_id", "")), [str(node) for node in event.get("exclude", ())]
        try:
            job = self.site.job(job_id)
        except SlurmUnreachable:
            raise
        except SovctlError:
            return
        if job.pending and not set(exclude) <= set(job.excluded):
            self.runs.take_over(job_id, exclude)
            self.voice.go_on(event)
        else:
            self.voice.write("takeover-done", job_id=job_id)

    def _drop(self, event: Mapping[str, Any]) -> None:
        job_id, node = str(event.get("job_id", "")), str(event.get("node", ""))
        try:
            gone = node not in self.site.job(job_id).nodes
        except SlurmUnreachable:
            raise
        except SovctlError:
            return
        if gone:
            self.voice.write("dropped-from-job", node=node, job_id=job_id)
        else:
            self.voice.go_on(event)
