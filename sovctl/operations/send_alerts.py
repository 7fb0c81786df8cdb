"""Follows journals and sends what people should know.

Nothing waits for it: it reads what others wrote, keeps each message in a spool, and tries until it got through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sovctl.errors import AlertGivenUp, SovctlError, TryLaterError
from sovctl.ledger.alerts import digest, rendered
from sovctl.model.alert import Alert
from sovctl.ports.alerts import AlertChannel, AlertSpool, SpooledAlert
from sovctl.ports.common import Clock

_HOUR_S = 3600.0
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 900.0


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """From the configuration."""

    kinds: frozenset[str]
    subject: str = ""
    text: str = ""
    limit_per_hour: int = 20
    keep_s: float = 7 * 86400.0
    from_start: bool = True
    """Also what was in the journals before the first look ever: of a run yes, of a site no."""


@dataclass(frozen=True, slots=True)
class FollowedJournal:
    """One journal to follow."""

    name: str
    changed: Callable[[], bool]
    """Whether it was written to since the last call."""
    entries: Callable[[], Sequence[Mapping[str, Any]]]
    alert: Callable[[Mapping[str, Any]], Alert | None]


@dataclass(slots=True)
class AlertSender:
    """`turn` is one look and one try."""

    spool: AlertSpool
    channels: Sequence[AlertChannel]
    journals: Callable[[], Sequence[FollowedJournal]]
    settings: AlertSettings
    clock: Clock
    say: Callable[[str], None]
    _told: set[str] = field(default_factory=set)

    def turn(self, *, now: bool = False) -> int:
        """Returns how many messages still wait; another sender at work is no error. `now`: a channel that failed a
        moment ago is tried again at once."""
        try:
            with self.spool.turn():
                state = self.spool.state()
                self._collect(state)
                self._deliver(state, now=now)
                return len(self.spool.waiting())
        except TryLaterError:
            return len(self.spool.waiting())
        except SovctlError as error:
            self._tell("spool", error.message)
            return 0

    def run(self, stopped: Callable[[], bool], interval_s: float) -> None:
        """Turn after turn."""
        while not stopped():
            try:
                self.turn()
            except Exception as error:  # one message must not silence all others
                self._tell("bug", f"unexpected {type(error).__name__} in the alerts: {error}")
            self.clock.sleep(interval_s)

    def flush(self, within_s: float) -> None:
        """Try until nothing waits or the time is over."""
        deadline = self.clock.now() + within_s
        while self.turn() and self.clock.now() < deadline:
            self.clock.sleep(0.5)

    def _collect(self, state: dict[str, Any]) -> None:
        seen = state.setdefault("seen", {})
        first = not state.get("begun") and not self.settings.from_start
        for journal in self.journals():
            if not journal.changed():
                continue
            try:
                entries = journal.entries()
            except SovctlError as error:
                self._tell(journal.name, error.message)
                continue
            last = seen.get(journal.name, 0)
            for entry in _with_reasons(entries):
                if not first and int(entry["seq"]) > last:
                    self._add(journal, entry)
            if entries:
                seen[journal.name] = int(entries[-1]["seq"])
        state["begun"] = True
        # Only now: what is in the spool twice is one message, what is in none would be lost.
        self.spool.save_state(state)

    def _add(self, journal: FollowedJournal, entry: Mapping[str, Any]) -> None:
        alert = journal.alert(entry)
        if alert is not None and alert.kind.value in self.settings.kinds:
            self.spool.add(alert, tuple(channel.name for channel in self.channels))

    def _deliver(self, state: dict[str, Any], *, now: bool) -> None:
        moment = self.clock.now()
        waiting = {item.alert.key: item for item in self.spool.waiting()}
        self._drop_old(waiting, moment)
        for channel in self.channels:
            book = state.setdefault("channels", {}).setdefault(channel.name, {})
            # Further ahead than any pause: the clock was wrong when it was written.
            if now or not 0 < book.get("next_at", 0.0) - moment <= _LONGEST_PAUSE_S:
                self._deliver_by(channel, book, waiting, moment)
        self.spool.save_state(state)

    def _deliver_by(
        self, channel: AlertChannel, book: dict[str, Any], waiting: dict[str, SpooledAlert], now: float
    ) -> None:
        sent = [at for at in book.get("sent", []) if 0 <= now - at < _HOUR_S]
        due = [item for item in waiting.values() if channel.name in item.channels]
        room = self.settings.limit_per_hour - len(sent)
        for bundle in _bundles(due, room):
            whole = bundle[0].alert if len(bundle) == 1 else digest([item.alert for item in bundle])
            subject, body = rendered(whole, self.settings.subject, self.settings.text)
            try:
                channel.send(subject, body, whole.record())
            except AlertGivenUp as error:
                self._tell(channel.name, error.message)
                self._done(channel, bundle, waiting, sent, now)
                continue
            except SovctlError as error:
                failures = int(book.get("failures", 0)) + 1
                pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(failures - 1, 10))
                book.update(failures=failures, next_at=now + pause, sent=sent, problem=error.message)
                self._tell(channel.name, f"{error.message}; tried again in {pause:g} s")
                return
            self._told.discard(channel.name)
            self._done(channel, bundle, waiting, sent, now)
        book.update(failures=0, next_at=0.0, sent=sent, problem="")

    def _done(
        self,
        channel: AlertChannel,
        bundle: list[SpooledAlert],
        waiting: dict[str, SpooledAlert],
        sent: list[float],
        now: float,
    ) -> None:
        sent.append(now)
        for item in bundle:
            left = tuple(name for name in item.channels if name != channel.name)
            waiting[item.alert.key] = replace(item, channels=left)
            self.spool.keep(waiting[item.alert.key])

    def _drop_old(self, waiting: dict[str, SpooledAlert], now: float) -> None:
        for key, item in list(waiting.items()):
            if now - item.alert.at > self.settings.keep_s:
                self.spool.keep(replace(waiting.pop(key), channels=()))
                self.say(f"an alert got through to nobody and is given up: {item.alert.what}")

    def _tell(self, key: str, words: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self.say(words)


def _bundles(waiting: Sequence[SpooledAlert], room: int) -> list[list[SpooledAlert]]:
    """One message each while there is room; the last one takes all that is left."""
    if room <= 0 or not waiting:
        return []
    if len(waiting) <= room:
        return [[item] for item in waiting]
    return [*([item] for item in waiting[: room - 1]), list(waiting[room - 1 :])]


def _with_reasons(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was done does not repeat why: that stands where it was announced."""
    reasons = {
        str(entry["incident"]): entry["reason"]
        for entry in entries
        if isinstance(entry.get("incident"), str) and isinstance(entry.get("reason"), str)
    }
    return [
        {**entry, "reason": reasons[entry["incident"]]}
        if isinstance(entry.get("incident"), str) and "reason" not in entry and entry["incident"] in reasons
        else entry
        for entry in entries
    ]
