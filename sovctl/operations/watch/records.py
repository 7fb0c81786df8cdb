"""Where users' runs keep their records: written down once for each directory, for a report of root's, which finds
those that a user chose himself (`--run-dir`) nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovctl.ledger.site import record_directories
from sovctl.model.watched_run import WatchedRun
from sovctl.operations.watch.voice import Voice
from sovctl.ports.common import Clock

_A_DAY = 86400.0
_MOST_A_DAY = 200
"""Of one user: who gives each of his jobs a directory of its own fills nobody's journal."""
_LONGEST = 4096


@dataclass(slots=True)
class RecordPlaces:
    """`note` takes the runs there are."""

    clock: Clock
    voice: Voice
    _known: set[tuple[int, str]] = field(default_factory=set)
    _lately: dict[int, list[float]] = field(default_factory=dict)
    """By user: when his new ones of the last day were written down."""

    def restore(self, events: Sequence[Mapping[str, Any]]) -> None:
        """From the journal of a watch before this one."""
        self._known = {(uid, one) for uid, directories in record_directories(events).items() for one in directories}

    def note(self, runs: Iterable[WatchedRun]) -> None:
        """Write down what is new."""
        for run in runs:
            place = (run.uid, str(Path(run.run_dir).parent))
            if place not in self._known and len(place[1]) <= _LONGEST and self._may(run.uid):
                self._known.add(place)
                self.voice.write("records-at", uid=place[0], directory=place[1])

    def _may(self, uid: int) -> bool:
        now = self.clock.now()
        lately = [at for at in self._lately.get(uid, ()) if now - at < _A_DAY]
        if len(lately) >= _MOST_A_DAY:
            return False
        self._lately[uid] = [*lately, now]
        return True
