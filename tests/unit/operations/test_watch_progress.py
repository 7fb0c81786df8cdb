"""A run that stands still is looked at, and only then is somebody blamed; without processes and without Slurm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from run_fakes import NOW, FakeClock, FakeJournal

from sovctl.errors import CommandMissing
from sovctl.model.blame import Blame, Culprit
from sovctl.model.progress import Phase, Progress
from sovctl.model.rank_look import GpuUse, LinkLook, NodeLook, RankLook
from sovctl.operations.supervisor.crash_look import CrashLook
from sovctl.operations.supervisor.follow_progress import ProgressFollower
from sovctl.operations.supervisor.watch_progress import ProgressPorts, ProgressSettings, ProgressWatch
from sovctl.ports.supervised import LookAnswer

NODES = ("n001", "n002", "n003", "n004")
STACK = ("all_reduce (dist.py:9)", "main (train.py:3)")


def answer_of(*nodes: str, odd: str = "", **rank: Any) -> LookAnswer:
    """These nodes answer; the rank of `odd` is as `rank` says."""
    looks = []
    for number, name in enumerate(nodes):
        own = rank if name == odd else {}
        looks.append(
            NodeLook(name, (RankLook(number, 9, "python", **{"state": "S", "stack": STACK, **own}),), took_s=1.0)
        )
    return LookAnswer(tuple(looks), tuple(name for name in NODES if name not in nodes), first_s=1.0)


class World:
    """Everything the watch touches, and time."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.journal = FakeJournal(self.clock)
        self.ranks: dict[int, Progress] = {}
        self.lines: list[str] = []
        self.mute: set[str] = set()
        self.lifeless: set[str] = set()
        self.checkpoint_changed = 0.0
        self.asked: list[tuple[str, ...]] = []
        self.answers: list[LookAnswer | Exception] = []
        self._pending: LookAnswer | None = None
        self._ready = 0.0
        self.files: dict[str, bytes] = {}
        self.follower = ProgressFollower(self, self.journal, self.clock)  # type: ignore[arg-type]
        ports = ProgressPorts(self, self, self, self, self.journal, self.lifeless.intersection)  # type: ignore[arg-type]
        wish = {"hang_timeout_s": 15.0, "well_after_s": math.inf, **settings}
        self.watch = ProgressWatch(ProgressSettings(NODES, "/checkpoints", **wish), ports, self.follower)
        self.follower.begin(0, 0)
        self.watch.begin(0, self.clock.time)

    def run(self, seconds: float, each: Callable[[float], None] = lambda at: None) -> Blame | None:
        """Turns of half a second; `each` gets the seconds since the start of all."""
        until = self.clock.time + seconds
        while self.clock.time < until:
            self.clock.sleep(0.5)
            each(self.clock.time - NOW)
            self.follower.follow()
            blame = self.watch.look(self.clock.time, mute=self.mute)
            if blame is not None:
                return blame
        return None

    def step(self, at: float, phase: Phase = Phase.RUNNING, **more: Any) -> None:
        """Every rank says that it did a step a second."""
        for rank, node in enumerate(NODES):
            self.ranks[rank] = Progress(
                rank, node, 1, 0, phase, NOW, step=int(at), step_at=NOW + at, step_seconds=more.get(f"r{rank}", 1.0)
            )

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.journal.records if record["kind"] == kind]

    # RunFiles, AttemptFiles, RunOutput, JobLooks

    def progress(self, rank: int) -> Progress | None:
        return self.ranks.get(rank)

    def all_progress(self) -> tuple[Progress, ...]:
        return tuple(self.ranks.values())

    def keep(self, attempt: int, name: str, data: bytes) -> str:
        self.files[name] = data
        return ""

    def changed(self, directory: str) -> float:
        return self.checkpoint_changed

    def read(self, paths: Sequence[str]) -> tuple[list[str], bool]:
        lines, self.lines = self.lines, []
        return lines, bool(lines)

    def begin(self, nodes: Sequence[str] = (), **_: Any) -> None:
        if not nodes:
            return
        self.asked.append(tuple(nodes))
        given = self.answers.pop(0) if self.answers else answer_of(*NODES)
        if isinstance(given, Exception):
            raise given
        self._pending, self._ready = given, self.clock.time + 1.5

    @property
    def going_on(self) -> bool:
        return self._pending is not None

    def poll(self) -> LookAnswer | None:
        if self._pending is None or self.clock.time < self._ready:
            return None
        given, self._pending = self._pending, None
        return given

    def cancel(self) -> None:
        self._pending = None


def test_a_run_that_steps_is_left_alone() -> None:
    world = World()
    assert world.run(300, world.step) is None
    assert world.asked == []


def test_a_run_that_stops_stepping_is_looked_at_once_and_blamed_within_seconds() -> None:
    world = World()
    world.run(30, world.step)
    world.answers = [answer_of(*NODES, odd="n003", state="T")]
    blame = world.run(60)
    assert blame is not None
    assert (blame.culprit, blame.nodes, blame.step) == (Culprit.UNKNOWN, ("n003",), 30)
    assert world.clock.time - NOW < 30 + 15 + 4
    assert world.asked == [NODES]
    hang = world.of("hang")[0]
    assert (hang["ranks"], hang["timeout_seconds"], hang["source"]) == ("2", 15.0, "ranks")
    assert world.of("detected")[0]["nodes"] == ["n003"]
    assert json.loads(world.files["stacks.json"])["groups"][1]["odd"]
    assert b"rank 2 on n003, stopped <- odd" in world.files["stacks.txt"]


def test_zero_turns_it_off() -> None:
    world = World(hang_timeout_s=0.0)
    world.run(30, world.step)
    assert world.run(7200) is None
    assert world.asked == []


def test_before_the_first_step_it_waits_for_half_an_hour() -> None:
    world = World()
    assert world.run(1790) is None
    assert world.asked == []
    assert world.run(30) is not None


def test_a_save_takes_its_time() -> None:
    world = World()
    world.run(30, world.step)
    world.run(1, lambda at: world.step(30, Phase.SAVING))
    assert world.run(500) is None


def test_nodes_that_do_not_answer_are_asked_again_alone() -> None:
    world = World()
    world.run(30, world.step)
    some = answer_of("n001", "n002", "n004")
    world.answers = [some, LookAnswer((), ("n003",))]
    blame = world.run(60)
    assert blame is not None
    assert (blame.culprit, blame.nodes) == (Culprit.HARDWARE, ("n003",))
    assert world.asked == [NODES, ("n003",)]
    assert world.watch.frozen == {"n003"}


def test_a_node_that_does_not_answer_slurm_is_not_asked_and_counts_as_silent_where_nothing_lives() -> None:
    world = World()
    world.mute = {"n003"}
    world.lifeless |= {"n003"}
    world.answers = [answer_of("n001", "n002", "n004")]
    blame = world.run(40, lambda at: world.step(min(at, 5.0)))
    assert world.asked == [("n001", "n002", "n004")]
    assert blame is not None
    assert (blame.culprit, blame.nodes) == (Culprit.HARDWARE, ("n003",))
    assert "NODE_FROZEN" in blame.evidence
    assert world.watch.frozen == {"n003"}


def test_a_node_that_slurmctld_gave_up_on_anothers_word_is_not_blamed_for_it() -> None:
    """Slurm's questions go through a tree: a frozen node takes those below it along."""
    world = World()
    world.mute = {"n001", "n003"}
    world.lifeless |= {"n003"}
    world.answers = [answer_of("n002", "n004")]
    blame = world.run(40, lambda at: world.step(min(at, 5.0)))
    assert blame is not None
    assert (blame.culprit, blame.nodes) == (Culprit.HARDWARE, ("n003",))


def test_a_controller_that_reaches_no_node_blames_nobody() -> None:
    world = World()
    world.mute = set(NODES)
    assert world.run(60, lambda at: world.step(min(at, 5.0))) is None
    assert world.asked == []
    assert [item["why"] for item in world.of("standstill")] == ["none of its nodes answers Slurm"]


def test_a_run_that_moves_on_meanwhile_is_not_blamed() -> None:
    world = World()
    world.run(30, world.step)
    world.run(16)
    assert len(world.asked) == 1
    assert world.run(10, world.step) is None
    assert not world.going_on


def test_ranks_that_compute_are_slow_and_that_is_said_once() -> None:
    world = World()
    world.run(30, world.step)
    busy = answer_of(*NODES, odd="n001", cpu_share=1.0, moving=True, stack=("tokenize (data.py:3)",))
    world.answers = [busy] * 20
    assert world.run(40) is None
    assert [item["why"].partition(", but ")[2] for item in world.of("standstill")] == [
        "rank 0 on n001 is computing: tokenize (data.py:3)"
    ]
    assert world.run(60) is not None, "four times its patience is enough"


def test_a_look_that_cannot_start_is_tried_again_and_blames_nobody() -> None:
    world = World()
    world.run(30, world.step)
    world.answers = [CommandMissing("srun"), answer_of(*NODES)]
    assert world.run(20) is None
    assert world.run(20) is not None
    assert len(world.asked) == 2


def test_a_supervisor_that_was_suspended_itself_blames_nobody() -> None:
    world = World()
    world.run(30, world.step)
    world.clock.sleep(3600)
    assert world.run(10) is None
    assert world.asked == []


def test_a_script_that_says_nothing_of_itself_is_followed_by_its_output() -> None:
    world = World()
    world.run(30, lambda at: world.lines.append(f"step {int(at)} loss 2.4"))
    assert world.follower.step in (29, 30)
    assert len(world.of("first_step")) == 1
    blame = world.run(60, lambda at: world.lines.append("NCCL watchdog: still waiting"))
    assert blame is not None
    assert world.of("hang")[0]["source"] == "steps"


def test_output_that_grows_is_enough_where_nothing_else_is_known() -> None:
    world = World()
    assert world.run(120, lambda at: world.lines.append(f"something at {at}")) is None
    assert world.run(60) is not None
    assert world.of("hang")[0]["source"] == "growth"


def test_a_checkpoint_that_grows_is_no_hang() -> None:
    world = World(hang_timeout_s=40.0)
    world.run(30, lambda at: world.lines.append(f"step {int(at)}"))

    def grow(at: float) -> None:
        world.checkpoint_changed = NOW + at

    assert world.run(200, grow) is None
    assert world.run(60) is not None


def test_a_pattern_that_takes_too_long_is_told_once() -> None:
    world = World(progress_regex=r"^(a|aa)+$(\d)")
    world.run(10, lambda at: world.lines.extend(["a" * 60 + "!"] * 3))
    assert len(world.of("progress_regex_off")) == 1


@pytest.mark.parametrize("restart", [False, True])
def test_a_rank_that_lags_behind_is_told_and_left_only_if_wished(restart: bool) -> None:
    world = World(restart_stragglers=restart)
    blame = world.run(120, lambda at: world.step(at, r2=1.4))
    found = world.of("straggler")
    assert [(item["rank"], item["node"]) for item in found] == [(2, "n003")]
    assert 1.3 < found[0]["ratio"] < 1.5
    assert (blame is not None and blame.nodes == ("n003",)) == restart


def test_the_words_of_thousands_of_ranks_are_read_seldom() -> None:
    world, read = World(), []
    words = [Progress(rank, "n001", 1, 0, Phase.RUNNING, NOW, step=1, step_at=NOW) for rank in range(4096)]

    def all_progress() -> tuple[Progress, ...]:
        read.append(world.clock.time)
        return tuple(words)

    world.all_progress = all_progress  # type: ignore[method-assign]
    world.run(410, world.step)
    assert 10 <= len(read) <= 12


def gpus(odd_clock: int) -> LookAnswer:
    """Eight busy GPUs, one of n003 at this clock."""
    looks = []
    for name in NODES:
        clocks = (1965, odd_clock if name == "n003" else 1965)
        looks.append(
            NodeLook(name, gpus=tuple(GpuUse(at, 98, 700.0, 1000.0, clock) for at, clock in enumerate(clocks)))
        )
    return LookAnswer(tuple(looks), first_s=1.0)


def slowed(world: World) -> Blame | None:
    """The run takes half as long again from its hundredth second on; in lock-step no rank stands out."""
    return world.run(
        260, lambda at: world.step(at, **dict.fromkeys(("r0", "r1", "r2", "r3"), 1.0 if at < 100 else 1.5))
    )


def test_a_run_that_became_slower_has_its_gpus_compared_twice() -> None:
    world = World()
    world.answers = [gpus(1180), gpus(1180)]
    slowed(world)
    found = world.of("straggler")
    assert [(item["node"], item["rank"]) for item in found] == [("n003", None)]
    assert "GPU 1 of n003 runs at 1180 MHz" in found[0]["evidence"]
    assert len(world.asked) == 2


def test_a_gpu_that_was_slow_for_a_moment_is_no_straggler() -> None:
    world = World()
    world.answers = [gpus(1180), gpus(1965)]
    slowed(world)
    assert world.of("straggler") == []
    assert len(world.asked) == 2


def test_a_run_at_its_pace_is_not_looked_at() -> None:
    world = World()
    world.run(600, world.step)
    assert world.asked == []


def with_links(answer: LookAnswer, **errors: int) -> LookAnswer:
    """The same, with what the port of each node has counted by now."""
    links = {name: (LinkLook("mlx5_0/1", "ACTIVE", {"link_downed": errors.get(name, 0)}),) for name in NODES}
    return replace(answer, looks=tuple(replace(look, links=links[look.node]) for look in answer.looks))


def test_links_are_compared_with_a_look_at_the_run_while_it_moved() -> None:
    world = World(well_after_s=20.0)
    world.answers = [with_links(answer_of(*NODES), n001=7), with_links(answer_of(*NODES), n001=7, n003=1)]
    assert world.run(200, world.step) is None
    assert world.asked == [NODES], "once in half an hour"
    blame = world.run(60)
    assert blame is not None
    assert (blame.culprit, blame.nodes) == (Culprit.FABRIC, ("n003",))
    assert "link_downed rose by 1" in blame.evidence


def test_a_look_that_went_on_when_the_run_stopped_is_no_look_at_a_run_that_moves() -> None:
    world = World(well_after_s=20.0)
    world.answers = [with_links(answer_of(*NODES), n003=1), with_links(answer_of(*NODES), n003=1)]
    world.run(21, world.step)
    world._ready = math.inf
    blame = world.run(60)
    assert blame is not None
    assert (blame.culprit, blame.nodes) == (Culprit.UNKNOWN, ())


# After a crash


def test_what_a_node_says_of_itself_after_a_crash_is_fetched_once() -> None:
    world = World()
    crash = CrashLook(8, world, world, world)  # type: ignore[arg-type]
    world.answers = [LookAnswer((NodeLook("n002", findings=("XID79 GPU has fallen off the bus",)),), ("n003",))]
    crash.begin(NOW, NODES)
    assert crash.pending
    world.clock.sleep(2)
    assert not crash.pending
    assert crash.findings("n002") == ("XID79 GPU has fallen off the bus",)
    assert crash.findings("n001") == crash.findings("n003") == ()


def test_the_traceback_is_kept_and_its_rank_has_a_node() -> None:
    world = World()
    world.step(5)
    crash = CrashLook(None, world, world, None)  # type: ignore[arg-type]
    text = '[rank2]: Traceback (most recent call last):\n[rank2]:   File "a"\n[rank2]: ValueError: no\n'
    found = crash.read(0, [text], 1)
    assert (found.rank, found.node) == (2, "n003")
    assert world.files["traceback.txt"].decode() == text
    crash.begin(NOW, NODES)
    assert not crash.pending


def _trains_for_ten_minutes(world: World, then: Callable[[int], None]) -> Callable[[float], None]:
    """Then every rank says that it has finished, and the script goes on: an evaluation, an upload."""

    def turn(at: float) -> None:
        if at < 600:
            world.step(at)
            return
        for rank in world.ranks:
            world.ranks[rank] = replace(world.ranks[rank], phase=Phase.FINISHED)
        then(int(at * 2))

    return turn


def test_a_script_that_goes_on_without_its_ranks_is_no_hang() -> None:
    world = World(hang_timeout_s=-1.0)
    nobody = LookAnswer(tuple(NodeLook(name, (), took_s=1.0) for name in NODES), (), first_s=1.0)
    world.answers = [nobody] * 50
    assert world.run(3600.0, _trains_for_ten_minutes(world, lambda half_seconds: None)) is None


def test_an_evaluation_after_the_training_that_prints_is_no_hang() -> None:
    world = World(hang_timeout_s=-1.0)
    world.answers = [answer_of(*NODES)] * 50

    def evaluate(half_seconds: int) -> None:
        if half_seconds % 20 == 0:
            world.lines = [f"eval step {half_seconds} loss 2.1"]

    assert world.run(3600.0, _trains_for_ten_minutes(world, evaluate)) is None


def test_ranks_that_hang_after_the_training_are_found() -> None:
    world = World(hang_timeout_s=-1.0)
    world.answers = [answer_of(*NODES)] * 50
    blame = world.run(2 * 3600.0, _trains_for_ten_minutes(world, lambda half_seconds: None))
    assert blame is not None
