"""What the watch says: into its journal and to whoever reads its output, each thing once until it changes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from sovctl.errors import SovctlError
from sovctl.ports import Journal


@dataclass(slots=True)
class Voice:
    """A full disk must not keep a dead node in service: what cannot be written is said, and the watch goes on."""

    journal: Journal
    say: Callable[[str], None]
    _told: set[str] = field(default_factory=set)

    def write(self, kind: str, **fields: Any) -> None:
        """One record."""
        try:
            self.journal.append(kind, **fields)
        except SovctlError as error:
            self._say_once("journal", error.message)
        else:
            self._told.discard("journal")

    def tell(self, key: str, words: str) -> None:
        """Say a thing once, until `forget`."""
        if key not in self._told:
            self._told.add(key)
            self.write("noted", words=words)
            self.say(words)

    def alarm(self, key: str, words: str) -> None:
        """The same, loudly: a person has to look."""
        if key not in self._told:
            self._told.add(key)
            self.write("alarm", words=words)
            self.say(f"ALARM: {words}")

    def forget(self, prefix: str, keep: Collection[str] = ()) -> None:
        """What begins so is over, but for the keys in `keep`."""
        self._told = {key for key in self._told if not key.startswith(prefix) or key in keep}

    def _say_once(self, key: str, words: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self.say(words)
