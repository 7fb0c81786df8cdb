"""`sovctl spare` through its ports: journaled before and after, killed at any command, repeated without harm."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from pool_fake import FakePool, idle, ready_pool
from run_fakes import FakeClock, FakeJournal

from sovctl.errors import CommandFailed, TryLaterError, UsageError
from sovctl.model.node import NodeState
from sovctl.model.pool import PoolJob
from sovctl.operations import spares
from sovctl.operations.spares import Asked, LoadedTests, SparePorts
from sovctl.ports.site import RemoteAnswer, SshFailure
from sovctl.recovery.spares import Classes

CLASSES = Classes()


class OneAtATime:
    def take(self) -> Any:
        return nullcontext()


class Shell:
    """Answers as told, and remembers who was asked."""

    def __init__(self, answer: RemoteAnswer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []

    def ask(self, nodes: Any, command: str, timeout_s: float) -> dict[str, RemoteAnswer]:
        self.asked += [(node, command) for node in nodes]
        return dict.fromkeys(nodes, self.answer)


class Site:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.slurm = FakePool(
            ready_pool(),
            [replace(idle(name), partitions=("main", "preemptible")) for name in ready_pool().partitions["main"].nodes],
        )
        self.journal = FakeJournal(self.clock)
        self.nodes: dict[str, FakeJournal] = {}
        self.shell = Shell(RemoteAnswer(b"n001: right\n", status=0))
        self.ports = SparePorts(
            self.slurm,
            self.journal,
            OneAtATime(),
            self.clock,
            self.shell,
            lambda node: self.nodes.setdefault(node, FakeJournal(self.clock)),
        )
        self.shown: list[str] = []

    def set(self, count: int, *, dry_run: bool = False, partition: str = "") -> spares.SetOutcome:
        self.shown = []
        return spares.set_spares(count, partition, CLASSES, self.ports, self.shown.append, dry_run=dry_run)

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.journal.records]


def test_a_dry_run_shows_what_is_then_done() -> None:
    site = Site()
    planned = site.set(2, dry_run=True)
    shown = site.shown
    assert (site.slurm.applied, site.journal.records, planned.done) == ([], [], False)
    done = site.set(2)
    assert site.shown == shown
    assert done.done
    assert done.commands == planned.commands == tuple(site.slurm.applied)
    assert site.kinds() == ["spare-intended", "spare-done"]
    assert site.journal.records[0]["commands"] == shown


def test_what_is_so_already_is_not_done_again() -> None:
    site = Site()
    site.set(2)
    count = len(site.slurm.applied)
    assert site.set(2).done
    assert (len(site.slurm.applied), site.shown, len(site.journal.records)) == (count, [], 2)
    site.set(0)
    assert site.slurm.state == ready_pool()
    count = len(site.slurm.applied)
    assert site.set(0).done
    assert len(site.slurm.applied) == count


def test_lines_that_slurm_conf_lacks_stop_it_before_anything_is_changed() -> None:
    site = Site()
    pool = site.slurm.state
    site.slurm.state = replace(pool, settings={**pool.settings, "PreemptType": "preempt/none"})
    outcome = site.set(2)
    assert outcome.blocked
    assert not outcome.done
    assert (site.slurm.applied, site.journal.records, site.shown) == ([], [], [])


@pytest.mark.parametrize("fails_at", range(15))
def test_a_command_that_fails_is_told_and_the_next_call_goes_on_or_back(fails_at: int) -> None:
    for count in (2, 0):
        site = Site()
        site.slurm.fails_at = fails_at
        with pytest.raises(CommandFailed, match="the disk is full"):
            site.set(2)
        assert site.kinds() == ["spare-intended", "spare-failed"]
        assert site.journal.records[-1]["applied"] == fails_at
        site.slurm.fails_at = None
        site.set(count)
        site.set(0)
        assert site.slurm.state == ready_pool()


def test_slurmctld_may_hear_of_a_new_qos_a_moment_later() -> None:
    site = Site()
    apply = site.slurm.apply
    refused: list[Any] = []

    def late(argv: Any) -> None:
        if argv[-1].startswith("QOS=") and len(refused) < 3:
            refused.append(argv)
            raise CommandFailed(argv, 1, "slurm_update error: Invalid qos specification")
        apply(argv)

    site.slurm.apply = late  # type: ignore[method-assign]
    assert site.set(2).done
    assert len(refused) == 3


def test_the_lines_to_keep_are_told_until_slurm_conf_has_them() -> None:
    site = Site()
    assert "PartitionName=main ... QOS=sovctl-spare-main DenyQos=preemptible" in site.set(2).keep
    site.slurm.conf = "PartitionName=main QOS=sovctl-spare-main"
    assert site.set(2).keep == ()


def test_a_qos_is_not_deleted_under_a_slurm_conf_that_may_name_it() -> None:
    for conf in ("PartitionName=main QOS=sovctl-spare-main", None):
        site = Site()
        site.set(2)
        site.slurm.conf = conf
        undone = site.set(0)
        assert undone.wait
        assert site.slurm.state.qos["sovctl-spare-main"].node_limit is None
        site.slurm.conf = ""
        site.set(0)
        assert site.slurm.state == ready_pool()


def test_a_qos_is_not_deleted_under_its_jobs() -> None:
    site = Site()
    site.set(2)
    site.slurm.jobs = [PoolJob("8", "PENDING", (), ("preemptible",), "preemptible")]
    undone = site.set(0)
    assert (undone.wait, undone.left) == (True, ("QOS preemptible stays while jobs use it: 8",))
    assert "preemptible" in site.slurm.state.qos


def test_status_is_of_the_partitions_with_spares() -> None:
    site = Site()
    assert spares.status("", CLASSES, site.ports) == []
    site.set(2)
    site.ports.node_journal("n003").append("verdict", state="healthy")
    found = spares.status("", CLASSES, site.ports)
    assert [(item.partition, item.wanted, item.left) for item in found] == [("main", 2, 2)]
    assert {node.name: node.word.verdict for node in found[0].pool}["n003"] == "healthy"
    with pytest.raises(UsageError, match="nowhere"):
        spares.status("nowhere", CLASSES, site.ports)


# Tests while they wait


def test_a_shortage_is_told_once_and_its_end_once() -> None:
    site = Site()
    assert spares.tell_shortage(site.ports, lambda: CLASSES) == ()
    site.set(2)
    assert spares.tell_shortage(site.ports, lambda: CLASSES) == ()
    victim = site.slurm.views[0]
    site.slurm.views[0] = replace(victim, state=NodeState("DOWN"))
    assert spares.tell_shortage(site.ports, lambda: CLASSES) == (
        f"partition main: 1 of 2 spares left, out of service: {victim.name}",
    )
    assert spares.tell_shortage(site.ports, lambda: CLASSES) == ()
    site.slurm.views[0] = victim
    assert spares.tell_shortage(site.ports, lambda: CLASSES) == ("partition main: 2 of 2 spares left",)
    assert site.kinds()[-2:] == ["spares-short", "spares-enough"]


def test_idle_spares_are_tested_in_turn() -> None:
    site = Site()
    assert spares.test_next(site.ports, 3600.0, 60.0) is None
    site.set(2)
    site.slurm.views[1] = replace(site.slurm.views[1], state=NodeState("ALLOCATED"))
    tested = [spares.test_next(site.ports, 3600.0, 60.0) for _ in range(6)]
    assert [item.node if item else None for item in tested] == ["n001", "n003", "n004", "n005", "n006", None]
    assert {item.outcome for item in tested if item} == {"ok"}
    assert site.shell.asked[0] == ("n001", "sovctl health burn-in")
    site.clock.sleep(3700.0)
    assert spares.test_next(site.ports, 3600.0, 60.0, dry_run=True) == spares.Tested("n001")
    assert len(site.shell.asked) == 5


@pytest.mark.parametrize(
    ("answer", "outcome", "left"),
    [
        (RemoteAnswer(b"n001: wrong GPU 3", status=10), "failed", 1),
        (RemoteAnswer(b"", status=75), "interrupted", 2),
        (RemoteAnswer(b"no torch", status=1), "unsure", 2),
        (RemoteAnswer(failure=SshFailure.TIMEOUT, problem="no answer"), "unheard", 2),
    ],
)
def test_a_spare_that_fails_its_test_is_none(answer: RemoteAnswer, outcome: str, left: int) -> None:
    site = Site()
    site.set(2)
    site.shell.answer = answer
    tested = spares.test_next(site.ports, 0.0, 60.0)
    assert tested is not None
    assert tested.outcome == outcome
    status = spares.status("", CLASSES, site.ports)[0]
    assert status.left == left
    again = spares.test_next(site.ports, 0.0, 60.0)
    assert again is not None and again.node == "n002"


EVERY_S = 3600.0


def _stale(site: Site, **plan: Any) -> list[str]:
    found = spares.status("", CLASSES, site.ports, LoadedTests(EVERY_S, **plan))
    return [words for words in found[0].problems if "no loaded test" in words]


def test_a_spare_that_is_never_idle_is_named_with_what_gives_it_a_test() -> None:
    site = Site()
    site.set(2)
    busy = replace(site.slurm.views[0], state=NodeState("ALLOCATED"))
    site.slurm.views[0] = busy
    site.slurm.jobs.append(PoolJob("41", "RUNNING", (busy.name,), ("preemptible",), "preemptible"))
    site.clock.sleep(1.9 * EVERY_S)
    assert _stale(site) == [], "not late yet"
    site.clock.sleep(0.2 * EVERY_S)
    (words,) = _stale(site)
    assert busy.name in words and "n002" not in words, "idle ones have their turn"
    assert "burn_in.after_jobs = true" in words
    assert "scontrol requeue 41" in _stale(site, after_jobs=True)[0]
    assert spares.status("", CLASSES, site.ports)[0].problems == (), "nobody asked for tests"
    # The epilog of a job gave it one; one that was interrupted is no proof.
    node = site.ports.node_journal(busy.name)
    node.append("burnt-in", node=busy.name, job_id="40", outcome="ok", why="right")
    site.journal.append("spare-tested", node=busy.name, outcome="interrupted", why="job 41 is here")
    assert _stale(site) == []
    (shown,) = (item for item in spares.status("", CLASSES, site.ports)[0].pool if item.name == busy.name)
    assert (shown.word.tested, shown.word.tested_at) == ("ok", pytest.approx(site.clock.time, abs=1.0))
    site.clock.sleep(2.1 * EVERY_S)
    assert len(_stale(site)) == 1


def test_only_journals_of_nodes_that_could_be_spares_are_read() -> None:
    site = Site()
    site.set(2)
    site.nodes.clear()
    site.slurm.views[1] = replace(site.slurm.views[1], state=NodeState("DOWN"))
    site.slurm.jobs.append(PoolJob("7", "RUNNING", ("n001",), ("main",), "normal"))
    site.slurm.jobs.append(PoolJob("8", "RUNNING", ("n003",), ("preemptible",), "preemptible"))
    found = spares.status("", CLASSES, site.ports)[0]
    assert [node.name for node in found.pool] == ["n004", "n005", "n006", "n003"]
    assert sorted(site.nodes) == ["n003", "n004", "n005", "n006"]


def test_a_test_after_a_job_counts_for_whose_turn_it_is() -> None:
    site = Site()
    site.set(2)
    site.ports.node_journal("n001").append("burnt-in", node="n001", job_id="9", outcome="ok", why="right")
    assert (spares.test_next(site.ports, EVERY_S, 60.0) or spares.Tested("")).node == "n002"
    site.shell.answer = RemoteAnswer(b"", status=75)
    assert (spares.test_next(site.ports, EVERY_S, 60.0) or spares.Tested("")).node == "n003"
    assert (spares.test_next(site.ports, EVERY_S, 60.0) or spares.Tested("")).node == "n004", "n003 had its turn"


# How many


def _advise(site: Site, asked: Asked, *journals: FakeJournal) -> spares.Advised:
    return spares.advise_spares(asked, CLASSES, site.ports, journals, 0.01, 72.0)


def test_advice_counts_the_journal_and_knows_the_present_number() -> None:
    site = Site()
    site.set(2)
    journal = FakeJournal(site.clock)
    for _ in range(4):
        journal.append("drain-done", node="n001", incident="i")
        site.clock.sleep(5000.0)
        journal.append("resume-done", node="n001")
        site.clock.sleep(15_000.0)
    advised = _advise(site, Asked(), journal)
    assert (advised.observed.failures, advised.nodes, advised.assumed_repair) == (4, 6, False)
    assert advised.observed.node_hours == pytest.approx(6 * 80_000 / 3600, rel=0.001)
    assert advised.observed.repair_hours == pytest.approx(5000 / 3600, rel=0.001)
    assert advised.advice.present is not None and advised.advice.present.spares == 2


def test_what_is_said_wins_and_slurm_is_not_asked() -> None:
    site = Site()
    site.slurm.state = None  # type: ignore[assignment]
    advised = _advise(site, Asked(nodes=63, failures=17, node_hours=90_720.0, spares=3))
    assert (advised.advice.by_rate, advised.assumed_repair) == (4, True)


def test_nothing_observed_is_no_advice() -> None:
    with pytest.raises(TryLaterError, match="journal is empty"):
        _advise(Site(), Asked())
