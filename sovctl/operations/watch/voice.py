"""What the watch says: into its journal and to whoever reads its output, each thing once until it changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sovctl.errors import SovctlError
from sovctl.operations.watch.late_alarms import LateAlarms
from sovctl.ports.common import Clock, Journal


@dataclass(slots=True)
class Voice:
    """A full disk must not keep a dead node in service: what cannot be written is said, and the watch goes on."""

    journal: Journal
    say: Callable[[str], None]
    clock: Clock
    _told: set[str] = field(default_factory=set)
    _late: LateAlarms = field(default_factory=LateAlarms)
    _begun: dict[tuple[str, str, str], Mapping[str, Any]] = field(default_factory=dict)
    """Intents of a watch that was killed before it carried them out, by kind, node and job."""

    def remember(self, events: Sequence[Mapping[str, Any]]) -> None:
        """What was written before this process: an entry of the last hour needs no second one."""
        self._late.take(events)

    def write(self, kind: str, **fields: Any) -> None:
        """One record."""
        try:
            self.journal.append(kind, **fields)
        except SovctlError as error:
            self._say_once("journal", error.message)
        else:
            self._told.discard("journal")

    def go_on(self, intent: Mapping[str, Any]) -> None:
        """This was begun before, and not carried out: who does so now needs no second record of it."""
        about = (str(intent.get("node", "")), str(intent.get("job_id", "")))
        self._begun[(str(intent["kind"]), *about)] = intent

    def begun(self, kind: str, *, node: str = "", job_id: str = "") -> Mapping[str, Any] | None:
        """Take an intent that was begun before."""
        return self._begun.pop((kind, node, job_id), None)

    def tell(self, key: str, words: str) -> bool:
        """Say a thing once, until `forget`; whether it was said now."""
        if key in self._told:
            return False
        self._told.add(key)
        if self._late.new(words, self.clock.now(), "noted"):
            self.write("noted", words=words)
        self.say(words)
        return True

    def note(self, words: str) -> None:
        """Say a thing, and write it down."""
        self.write("noted", words=words)
        self.say(words)

    def alarm(self, key: str, words: str) -> None:
        """Say a thing once and loudly: a person has to look. What was written within the hour is only
        said."""
        if key not in self._told:
            self._told.add(key)
            if self._late.new(words, self.clock.now()):
                self.write("alarm", words=words)
            self.say(f"ALARM: {words}")

    def alarms(self, about: str, all_words: Sequence[str]) -> None:
        """Those there are about something now; others about it are over."""
        keys = {f"{about}-alarm:{words}": words for words in all_words}
        self.forget(f"{about}-alarm:", keys)
        for key, words in keys.items():
            self.alarm(key, words)

    def forget(self, prefix: str, keep: Collection[str] = ()) -> None:
        """What begins so is over, but for the keys in `keep`."""
        self._told = {key for key in self._told if not key.startswith(prefix) or key in keep}

    def _say_once(self, key: str, words: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self.say(words)
