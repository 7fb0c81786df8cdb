"""When a run counts as hung, and who is to blame for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.errors import UsageError
from sovctl.model.blame import Culprit
from sovctl.model.progress import Phase
from sovctl.model.rank_look import GpuUse, NodeLook, RankLook
from sovctl.recovery.hang import AUTO, STARTUP_S, Hang, NotYet, Pace, Source, Standstill, judge, parse_timeout
from sovctl.recovery.paces import Paces, paces

REDUCE = ("all_reduce (torch/distributed/distributed_c10d.py:2501)", "train (train.py:9)")
LOAD = ("__next__ (torch/utils/data/dataloader.py:733)", "train (train.py:7)")


def waits(rank: int, stack: tuple[str, ...] = REDUCE, **more: object) -> RankLook:
    return RankLook(rank, 100 + rank, "python", "S", "futex_wait_queue", stack=stack, cpu_share=0.01, **more)  # type: ignore[arg-type]


def node(number: int, *ranks: RankLook, **more: object) -> NodeLook:
    return NodeLook(f"n{number:03d}", tuple(ranks), took_s=1.2, **more)  # type: ignore[arg-type]


def four(odd: RankLook | None = None, **more: object) -> Standstill:
    """Rank r on node r + 1; `odd` replaces one of them."""
    ranks = [odd if odd is not None and odd.rank == rank else waits(rank) for rank in range(4)]
    looks = tuple(node(rank.rank + 1, rank) for rank in ranks)
    return replace(Standstill(30.0, 15.0, Source.RANKS, step=27, step_s=0.2, looks=looks), **more)  # type: ignore[arg-type]


def hang(seen: Standstill) -> Hang:
    found = judge(seen)
    assert isinstance(found, Hang), found
    return found


# Patience


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("900", 900), ("90s", 90), ("15m", 900), ("2h", 7200), ("off", 0), ("0", 0), ("auto", AUTO), (" 5M ", 300)],
)
def test_a_timeout_is_read(text: str, seconds: float) -> None:
    assert parse_timeout(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "1d", "1:30", "m", "99999999999"])
def test_a_timeout_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--hang-timeout"):
        parse_timeout(text)


def stepping(every_s: float, count: int = 30, **own: float) -> Pace:
    pace = Pace(**own)  # type: ignore[arg-type]
    pace.begin(0.0)
    for number in range(1, count + 1):
        pace.moved(number * every_s, Source.RANKS)
    return pace


def test_before_the_first_step_patience_is_generous() -> None:
    pace = Pace(timeout_s=15.0)
    pace.begin(0.0)
    assert pace.patience_s() == STARTUP_S
    pace.entered(Phase.LOADING, 5.0)
    pace.moved(60.0, Source.RANKS)
    pace.entered(Phase.RUNNING, 60.0)
    assert pace.patience_s() == 15.0


@pytest.mark.parametrize(("every_s", "patience_s"), [(0.2, 300.0), (10.0, 300.0), (30.0, 600.0), (120.0, 2400.0)])
def test_the_derived_patience_grows_with_the_steps(every_s: float, patience_s: float) -> None:
    assert stepping(every_s).patience_s() == pytest.approx(patience_s)


def test_one_long_pause_of_its_own_makes_it_patient() -> None:
    pace = stepping(1.0)
    pace.moved(30.0 + 400.0, Source.RANKS)
    assert pace.patience_s() == pytest.approx(1600.0)


def test_a_save_may_take_three_times_as_long_as_the_longest() -> None:
    pace = stepping(1.0, timeout_s=20.0)
    assert pace.patience_s() == 20.0
    pace.entered(Phase.SAVING, 40.0)
    assert pace.patience_s() == 600.0
    pace.entered(Phase.RUNNING, 340.0)
    pace.entered(Phase.SAVING, 400.0)
    assert pace.patience_s() == 900.0


def test_a_better_source_takes_over_and_a_worse_one_is_not_heard() -> None:
    pace = Pace()
    pace.begin(0.0)
    pace.moved(1.0, Source.GROWTH)
    pace.moved(2.0, Source.STEPS)
    pace.moved(50.0, Source.GROWTH)
    assert (pace.source, pace.moved_at) == (Source.STEPS, 2.0)
    pace.moved(60.0, Source.RANKS)
    assert (pace.source, pace.moved_at) == (Source.RANKS, 60.0)


def test_a_run_that_only_prints_has_started_once_it_printed_a_few_times() -> None:
    pace = Pace(timeout_s=60.0)
    pace.begin(0.0)
    for second in (1.0, 2.0, 3.0, 4.0):
        assert pace.patience_s() == STARTUP_S
        pace.moved(second, Source.GROWTH)
    assert pace.patience_s() == 60.0


def test_the_time_in_which_everything_was_suspended_does_not_count() -> None:
    pace = stepping(1.0, timeout_s=20.0)
    pace.paused(3600.0)
    assert pace.idle_s(30.0 + 3605.0) == pytest.approx(5.0)


@given(st.lists(st.floats(0.01, 500.0), min_size=1, max_size=80))
def test_a_run_is_never_hung_at_its_own_usual_pace(gaps: list[float]) -> None:
    pace, now = Pace(), 0.0
    pace.begin(now)
    for gap in gaps:
        now += gap
        pace.moved(now, Source.RANKS)
    for gap in gaps[1:]:
        assert pace.idle_s(now + gap) < pace.patience_s()


# Judgement


def test_a_run_that_moves_is_none() -> None:
    assert isinstance(judge(four(idle_s=5.0)), NotYet)


def test_a_stopped_rank_is_named_with_its_node() -> None:
    found = hang(four(replace(waits(2), state="T")))
    assert (found.blame.culprit, found.blame.nodes, found.ranks) == (Culprit.UNKNOWN, ("n003",), (2,))
    assert "rank 2 on n003 is stopped" in found.blame.evidence
    assert "3 others wait in all_reduce" in found.blame.evidence
    assert found.blame.evidence.startswith("no progress for 30 s after step 27, usually one in 0.2 s")


def test_the_rank_that_is_elsewhere_is_the_odd_one() -> None:
    found = hang(four(waits(3, LOAD)))
    assert (found.blame.nodes, found.ranks) == (("n004",), (3,))
    assert "rank 3 on n004 is at __next__" in found.blame.evidence


def test_all_at_one_place_blames_nobody() -> None:
    found = hang(four())
    assert (found.blame.culprit, found.blame.nodes, found.ranks) == (Culprit.UNKNOWN, (), ())
    assert "all 4 ranks wait at all_reduce" in found.blame.evidence


def test_two_halves_blame_nobody() -> None:
    looks = tuple(node(rank + 1, waits(rank, REDUCE if rank < 2 else LOAD)) for rank in range(4))
    assert hang(four(looks=looks)).blame.nodes == ()


def test_a_spinning_wait_is_a_hang_and_not_work() -> None:
    """A process that waits for its GPU burns a whole core at the same place."""
    looks = tuple(node(rank + 1, replace(waits(rank), cpu_share=1.0, moving=False)) for rank in range(4))
    assert isinstance(judge(four(looks=looks)), Hang)


def test_a_rank_that_computes_makes_it_slow_and_only_much_later_hung() -> None:
    busy = replace(waits(0, ("tokenize (data.py:3)",)), cpu_share=0.99, moving=True)
    found = judge(four(busy))
    assert isinstance(found, NotYet)
    assert found.slow
    assert "rank 0 on n001 is computing: tokenize" in found.why
    assert "still no step" in hang(four(busy, idle_s=60.0)).blame.evidence


def test_an_accelerator_that_works_speaks_for_the_run_and_one_that_waits_does_not() -> None:
    hot, waiting = GpuUse(0, 100, 780.0, 1000.0), GpuUse(0, 100, 210.0, 1000.0)
    assert isinstance(judge(four(looks=(node(1, waits(0), gpus=(hot,)),))), NotYet)
    assert isinstance(judge(four(looks=(node(1, waits(0), gpus=(waiting,)),))), Hang)


def test_a_network_that_carries_data_speaks_for_the_run() -> None:
    assert isinstance(judge(four(looks=(node(1, waits(0), network_bytes_s=2e9),))), NotYet)


def test_a_process_that_uses_the_cpu_without_a_stack_gets_the_doubt() -> None:
    looks = (node(1, RankLook(0, 1, "a.out", "R", cpu_share=1.0, problem="not a Python process")),)
    found = judge(four(looks=looks))
    assert isinstance(found, NotYet)
    assert found.slow
    assert isinstance(judge(four(looks=looks, idle_s=61.0)), Hang)


def test_a_rank_blocked_by_the_file_system_blames_the_storage() -> None:
    found = hang(four(replace(waits(1), state="D", blocked="rpc_wait_bit_killable")))
    assert (found.blame.culprit, found.blame.nodes, found.ranks) == (Culprit.STORAGE, ("n002",), (1,))


def test_all_ranks_blocked_by_the_file_system_blame_no_node() -> None:
    looks = tuple(node(rank + 1, replace(waits(rank), state="D", blocked="percpu_rwsem_wait")) for rank in range(4))
    found = hang(four(looks=looks))
    assert (found.blame.culprit, found.blame.nodes) == (Culprit.STORAGE, ())


def test_what_the_node_says_of_itself_is_stronger_than_where_ranks_stand() -> None:
    looks = (node(1, replace(waits(0), state="T")), node(2, waits(1), findings=("XID79 GPU has fallen off the bus",)))
    found = hang(four(looks=looks))
    assert (found.blame.culprit, found.blame.nodes) == (Culprit.HARDWARE, ("n002",))


def test_a_silent_node_is_asked_again_before_it_is_blamed() -> None:
    looks = tuple(node(rank + 1, waits(rank)) for rank in range(3))
    assert isinstance(judge(four(looks=looks, silent=("n004",))), NotYet)
    found = hang(four(looks=looks, silent=("n004",), silent_again=True))
    assert (found.blame.culprit, found.blame.nodes) == (Culprit.HARDWARE, ("n004",))
    assert "NODE_FROZEN" in found.blame.evidence


def test_nobody_is_blamed_when_nobody_can_be_asked() -> None:
    unseen = four(looks=(), silent=("n001", "n002", "n003", "n004"), problem="Unable to contact slurm controller")
    assert isinstance(judge(unseen), NotYet)
    assert isinstance(judge(replace(unseen, idle_s=600.0, tries=2)), NotYet)
    assert hang(replace(unseen, idle_s=600.0, tries=3)).blame.nodes == ()


def test_a_rank_that_is_gone_is_missed() -> None:
    looks = (node(1, waits(0)), node(2), node(3, waits(2)))
    found = hang(four(looks=looks, expected=((0, "n001"), (1, "n002"), (2, "n003"))))
    assert (found.ranks, found.blame.nodes) == ((1,), ("n002",))
    assert "no process is left of rank 1" in found.blame.evidence


def test_measured_saves_say_how_long_one_may_take() -> None:
    """A run that hangs in a save is not left standing for ten minutes when its saves take seconds."""
    pace = Pace(8.0)
    pace.begin(0.0)
    pace.moved(1.0, Source.RANKS)
    for number in range(3):
        assert pace.patience_s() == 8.0
        pace.entered(Phase.SAVING, 10.0 * number + 10.0)
        assert pace.patience_s() == 600.0
        pace.entered(Phase.RUNNING, 10.0 * number + 14.0)
    pace.entered(Phase.SAVING, 50.0)
    assert pace.patience_s() == 12.0


def test_what_the_ranks_measured_counts_where_nobody_saw_the_phase() -> None:
    """A save of a few milliseconds falls between two looks, and the node that freezes in one is no slow save."""
    pace = Pace(8.0)
    pace.begin(0.0)
    pace.moved(1.0, Source.RANKS)
    pace.knows([0.02, 0.03])
    pace.entered(Phase.SAVING, 10.0)
    assert pace.patience_s() == 600.0, "two are not enough to tell"
    pace.knows([5.0])
    assert pace.patience_s() == 15.0


@pytest.mark.parametrize(
    ("startups", "patience_s"), [([], 1800.0), ([3.0], 120.0), ([3.0, 60.0], 240.0), ([900.0], 1800.0)]
)
def test_a_start_is_borne_as_long_as_the_runs_own_starts_suggest(startups: list[float], patience_s: float) -> None:
    pace = Pace(8.0)
    pace.begin(0.0)
    pace.knows((), startups)
    assert pace.patience_s() == patience_s


def test_the_paces_of_a_run_are_in_its_journal() -> None:
    events = [
        {"kind": "attempt_started", "attempt": 0, "at": 100.0},
        {"kind": "first_step", "attempt": 0, "at": 105.0, "happened": 104.0},
        {"kind": "checkpoint_saved", "attempt": 0, "save_seconds": 2.5},
        {"kind": "checkpoint_saved", "attempt": 0, "save_seconds": "x"},
        {"kind": "attempt_started", "attempt": 1, "at": 200.0},
    ]
    assert paces(events) == Paces((2.5,), (4.0,))
