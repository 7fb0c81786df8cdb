"""The watch is killed before every single one of its requests and records; the next one goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from test_watch_cluster import LOOSE, suspicion
from watch_fakes import SPARED, Watched

from sovctl.model.site_answer import SiteWord
from sovctl.model.verdict import VerdictState


class Killed(BaseException):
    """SIGKILL: nothing of the watch runs after it."""


def batch_host_dies(site: Watched) -> None:
    site.site.runs("7", "n002", "n003")
    site.passes(2)
    site.kill_node("n002")


def node_of_a_run_with_spares_dies(site: Watched) -> None:
    site.site.runs("7", "n001", "n002", script=SPARED)
    site.passes(2)
    site.kill_node("n002")


def node_is_suspected(site: Watched) -> None:
    site.site.runs("7", "n001", "n002")
    site.verdicts["n002"] = VerdictState.FAILED
    site.passes(2)
    site.words["7"] = [suspicion("n002", at=site.clock.time)]


def job_hangs(site: Watched) -> None:
    site.site.stuck("9", "n002")
    site.passes(2)
    site.clock.sleep(900)


def victim_does_not_leave(site: Watched) -> None:
    site.site.runs("7", "n001", "n002")
    site.passes(2)
    site.site.waits("7")
    site.site.preempt("9", "n003", grace_s=5)


STORIES: dict[str, tuple[Callable[[Watched], None], list[tuple[object, ...]], int]] = {
    "batch host": (batch_host_dies, [("down", "n002"), ("terms", "7", ("n002",))], 4),
    "spares": (node_of_a_run_with_spares_dies, [("drop", "7", ("n001",)), ("down", "n002")], 4),
    "suspect": (node_is_suspected, [("drain", "n002")], 4),
    "stuck": (job_hangs, [("down", "n002")], 2),
    "preempted": (victim_does_not_leave, [("requeue", "9")], 4),
}


@pytest.mark.parametrize("story", STORIES)
def test_killed_between_any_two_effects_it_does_nothing_twice_and_forgets_nothing(story: str) -> None:
    tell, expected, least = STORIES[story]
    moment, killed = 0, True
    while killed:
        moment += 1
        site = Watched(limits=LOOSE)
        tell(site)
        killed = live_through(site, moment)
        assert [item[:3] for item in site.site.did] == expected, (moment, site.kinds)
        assert_every_intent_has_one_outcome(site, moment)
        if story == "suspect":
            assert [item.state for item in site.answers["7"]] == [SiteWord.FAILED], moment
    assert moment > least


@pytest.mark.parametrize("story", STORIES)
def test_with_one_effect_a_life_it_gets_there_all_the_same(story: str) -> None:
    """Whoever starts it again and again gets one request or record done each time, and none twice."""
    tell, expected, least = STORIES[story]
    site = Watched(limits=LOOSE)
    tell(site)
    lives = live_by_live(site)
    assert [item[:3] for item in site.site.did] == expected, site.kinds
    assert_every_intent_has_one_outcome(site, lives)
    assert lives > least


def test_a_death_that_was_only_begun_does_not_spend_the_limit() -> None:
    """One death an hour is dealt with here: killed before the node was set down, the next watch sets it down."""
    for moment in range(1, 8):
        site = Watched()
        batch_host_dies(site)
        live_through(site, moment)
        assert [item[:2] for item in site.site.did][:1] == [("down", "n002")], (moment, site.said)
        assert not site.of("alarm"), (moment, site.kinds)
        site.kill_node("n005")
        site.passes(60)
        assert site.site.did.count(("down", "n005")) == 0 and len(site.of("alarm")) == 1, (moment, site.kinds)


def test_what_was_begun_long_ago_is_ended_in_the_record() -> None:
    site = Watched()
    reason = "sovctl:261122-230223-n003-5979 NODE_DEAD slurmd silent"
    about = {"node": "n003", "incident": "261122-230223-n003-5979"}
    site.journal.append("down-intended", **about, reason=reason)
    site.clock.sleep(1000)
    site.passes(2)
    assert [event["incident"] for event in site.of("down-failed")] == [about["incident"]]
    site.start()
    site.passes(2)
    assert len(site.of("down-failed")) == 1


def live_by_live(site: Watched, most: int = 40) -> int:
    """Each life ends before its second effect; returns how many it took until one had nothing left to do."""
    for life in range(1, most):
        left = [2]

        def count(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        site.site.effect = site.journal.effect = count
        with suppress(Killed):
            site.passes(60)
        if left[0] == 2:
            return life
        site.start()
    raise AssertionError(site.kinds)


def live_through(site: Watched, moment: int) -> bool:
    """Passes until all is done, by a watch that is killed once at its `moment`-th effect; returns whether it was."""
    left = [moment]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    site.site.effect = site.journal.effect = count
    killed = False
    for _ in range(2):
        try:
            site.passes(60)
        except Killed:
            killed = True
            site.start()
    return killed


def assert_every_intent_has_one_outcome(site: Watched, moment: int) -> None:
    """What was begun has an end in the record, and exactly one intent was carried out."""
    for intent, outcome in (
        ("down-intended", "down-done"),
        ("drain-intended", "drain-done"),
        ("drop-intended", "dropped-from-job"),
        ("takeover-intended", "takeover-done"),
        ("end-intended", "end-done"),
    ):
        done = len(site.of(outcome))
        assert done == (1 if site.of(intent) else 0), (moment, outcome, site.kinds)
