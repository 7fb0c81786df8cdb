"""Messages get through once, in order, within the limit, and none is lost while nobody answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_fakes import FakeClock

from sovctl.adapters.journal import ChangeMark, FileJournal
from sovctl.adapters.site.alert_spool import AlertSpoolFiles
from sovctl.errors import AlertGivenUp, SovctlError
from sovctl.ledger.alerts import alert_of_site
from sovctl.operations.send_alerts import AlertSender, AlertSettings, FollowedJournal


class Receiver:
    """Takes messages unless it is away."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.away = False
        self.refuses: Exception | None = None
        self.tries = 0
        self.got: list[str] = []

    def send(self, subject: str, body: str, record: dict[str, Any]) -> None:
        self.tries += 1
        if self.refuses is not None:
            raise self.refuses
        if self.away:
            raise SovctlError(f"{self.name} is away")
        self.got.append(body.partition("\n\n")[0])


class Site:
    """A journal, a spool on disk, two receivers."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.clock = FakeClock()
        self.hook, self.mail = Receiver("webhook"), Receiver("e-mail")
        self.journal = FileJournal(root / "watch.jsonl")
        self.spool = AlertSpoolFiles(root / "alerts")
        self.settings = AlertSettings(frozenset({"limit", "incident"}), **settings)
        self.said: list[str] = []
        self.restart()

    def restart(self) -> None:
        followed = FollowedJournal(
            "watch",
            ChangeMark(self.root / "watch.jsonl").changed,
            self.journal.events,
            lambda entry: alert_of_site("watch", {**entry, "at": self.clock.time}, "lab"),
        )
        self.sender = AlertSender(
            self.spool, (self.hook, self.mail), lambda: (followed,), self.settings, self.clock, self.said.append
        )

    def alarm(self, words: str) -> None:
        self.journal.append("alarm", words=words)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_each_goes_once_to_each(site: Site) -> None:
    site.alarm("a")
    site.alarm("b")
    assert site.sender.turn() == 0
    site.restart()
    assert site.sender.turn() == 0
    assert site.hook.got == site.mail.got == ["a", "b"]


def test_a_receiver_that_is_away_gets_all_later_and_the_other_gets_it_now(site: Site) -> None:
    site.hook.away = True
    site.alarm("a")
    assert site.sender.turn() == 1
    site.alarm("b")
    assert site.sender.turn() == 2
    assert (site.mail.got, site.hook.got, site.hook.tries) == (["a", "b"], [], 1)
    assert len(site.said) == 1 and "tried again in 5 s" in site.said[0]
    site.hook.away = False
    site.restart()
    site.clock.sleep(6)
    assert site.sender.turn() == 0
    assert (site.hook.got, site.mail.got) == (["a", "b"], ["a", "b"])


def test_the_pause_between_tries_grows_and_is_bounded(site: Site) -> None:
    site.hook.away = True
    site.alarm("a")
    for _ in range(400):
        site.sender.turn()
        site.clock.sleep(10)
    assert 8 <= site.hook.tries <= 13
    assert site.sender.turn(now=True) == 1
    before = site.hook.tries
    site.hook.away = False
    assert site.sender.turn(now=True) == 0 and site.hook.tries == before + 1


def test_above_the_limit_the_rest_comes_as_one(tmp_path: Path) -> None:
    site = Site(tmp_path, limit_per_hour=3)
    for number in range(7):
        site.alarm(f"alarm {number}")
    assert site.sender.turn() == 0
    assert site.hook.got[:2] == ["alarm 0", "alarm 1"]
    assert len(site.hook.got) == 3 and "5 more alerts" in site.hook.got[2]
    site.alarm("later")
    assert site.sender.turn() == 1, "nothing goes, nothing is lost"
    site.clock.sleep(3601)
    assert site.sender.turn() == 0
    assert site.hook.got[3] == "later"


def test_a_message_that_gets_through_to_nobody_is_given_up_in_the_end(tmp_path: Path) -> None:
    site = Site(tmp_path, keep_s=100.0)
    site.hook.away = site.mail.away = True
    site.alarm("a")
    site.sender.turn()
    site.clock.sleep(200)
    assert site.sender.turn() == 0
    assert any("given up: a" in words for words in site.said)


def test_the_past_of_a_site_is_not_told_and_what_comes_is(tmp_path: Path) -> None:
    site = Site(tmp_path, from_start=False)
    site.alarm("long ago")
    site.sender.turn()
    site.alarm("now")
    site.restart()
    site.sender.turn()
    assert site.hook.got == ["now"]


def test_why_stands_where_it_was_announced(site: Site) -> None:
    reason = "sovctl:i1 XID79 GPU 5 fell off the bus"
    site.journal.append("drain-intended", node="n003", incident="i1", reason=reason, command="scontrol")
    site.journal.append("drain-done", node="n003", incident="i1")
    site.sender.turn()
    assert site.hook.got == ["n003 was drained: XID79 GPU 5 fell off the bus"]


def test_a_kind_that_nobody_asked_for_is_not_sent(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.settings = AlertSettings(frozenset({"incident"}))
    site.restart()
    site.alarm("a")
    assert site.sender.turn() == 0 and site.hook.tries == 0


def test_a_sender_that_died_between_two_receivers_repeats_nothing(site: Site) -> None:
    site.mail.send = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    site.alarm("a")
    with pytest.raises(KeyboardInterrupt):
        site.sender.turn()
    del site.mail.send
    site.restart()
    assert site.sender.turn() == 0
    assert (site.hook.got, site.mail.got) == (["a"], ["a"])


def test_two_senders_do_not_send_twice(site: Site) -> None:
    site.alarm("a")
    with AlertSpoolFiles(site.root / "alerts").turn():
        site.sender.turn()
        assert site.hook.got == []
    site.sender.turn()
    assert site.hook.got == ["a"]


def test_junk_in_the_spool_is_passed_over(site: Site) -> None:
    (site.root / "alerts").mkdir()
    (site.root / "alerts" / "a-1.json").write_text("{")
    (site.root / "alerts" / "a-2.json").write_text('{"alert": 3, "channels": {}}')
    (site.root / "alerts" / "state.json").write_text("[]")
    site.alarm("a")
    assert site.sender.turn() == 0 and site.hook.got == ["a"]


def test_what_some_have_got_is_not_sent_again(site: Site) -> None:
    site.mail.refuses = AlertGivenUp("1 of 2 recipients of the e-mail were refused")
    site.alarm("n001 was drained")
    site.sender.turn()
    site.mail.refuses = None
    site.alarm("n002 was drained")
    site.clock.time += 15
    site.sender.turn()
    assert (site.mail.tries, len(site.mail.got), site.spool.waiting()) == (2, 1, ())
    assert any("recipients of the e-mail were refused" in words for words in site.said)


def test_a_clock_that_was_wrong_for_a_moment_silences_nobody(site: Site) -> None:
    site.clock.time += 80_000
    site.hook.away = True
    site.alarm("n001 was drained")
    site.sender.turn()
    site.clock.time -= 80_000
    site.hook.away = False
    site.sender.turn()
    assert len(site.hook.got) == 1


def test_a_bug_in_one_turn_is_told_and_the_next_turn_comes(site: Site) -> None:
    site.hook.refuses = RuntimeError("a bug")
    site.alarm("n001 was drained")
    turns = iter([False, False, True])

    def stopped() -> bool:
        over = next(turns)
        if site.hook.tries:
            site.hook.refuses = None
        return over

    site.sender.run(stopped, 15.0)
    assert len(site.hook.got) == 1
    assert any("unexpected RuntimeError in the alerts: a bug" in words for words in site.said)
