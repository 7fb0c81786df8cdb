from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovctl.model.blame import Blame, Culprit
from sovctl.model.rank_look import NodeLook, RankLook
from sovctl.recovery.attempts import furthest_checkpoint
from sovctl.recovery.decide import Action, Decision, Limits, PastStop, decide, past_stops, requeued_too_often
from sovctl.recovery.hang import Hang, Source, Standstill, judge

LIMITS = Limits(same_crash=2, unknown=3, hardware=5)


def crash(step: int | None = 40, signature: str = "ended with status 1|ValueError") -> Blame:
    return Blame(Culprit.USER_CODE, evidence="the script ended", signature=signature, step=step)


def of(culprit: Culprit, *nodes: str) -> Blame:
    return Blame(culprit, nodes, "seen")


def after(blames: list[tuple[Blame, int]], limits: Limits = LIMITS) -> list[Decision]:
    """Decide over a history; each blame comes with the newest checkpoint's step then."""
    past: list[PastStop] = []
    decisions = []
    for attempt, (blame, checkpoint) in enumerate(blames):
        decisions.append(decide(blame, past, checkpoint, limits))
        past.append(PastStop(attempt, blame.culprit, blame.nodes, blame.signature, blame.step, checkpoint))
    return decisions


def actions(*blames: tuple[Blame, int]) -> list[str]:
    return [decision.action.value for decision in after(list(blames))]


def test_a_finished_script_ends_the_run() -> None:
    assert actions((of(Culprit.NONE), 0)) == ["finish"]


def test_a_request_without_evidence_ends_the_job() -> None:
    assert decide(Blame(Culprit.STOPPED), [], 0, LIMITS).action is Action.END


@pytest.mark.parametrize("culprit", [item for item in Culprit if item is not Culprit.NONE])
def test_no_requeue_is_the_users_word(culprit: Culprit) -> None:
    assert decide(of(culprit, "n1"), [], 0, LIMITS, may_requeue=False).action is Action.END


def test_the_first_stop_of_each_kind_is_tried_again_with_a_reason() -> None:
    for culprit in Culprit:
        decision = decide(of(culprit), [], 0, LIMITS)
        assert decision.why
        assert decision.action is (Action.FINISH if culprit is Culprit.NONE else Action.RESTART)


NO_STEP = Blame(
    Culprit.UNKNOWN,
    evidence="Slurm started no step for the script: Invalid generic resource (gres) specification",
    signature="launch|Invalid generic resource (gres) specification",
)
AWAY = Blame(Culprit.UNKNOWN, evidence="seen", signature="launch|Unable to contact slurm controller (connect failure)")


def test_an_allocation_in_which_slurm_starts_no_step_is_given_back() -> None:
    first, *_, last = after([(NO_STEP, 40)] * 4)
    assert first == Decision(
        Action.REQUEUE, "try again in a fresh allocation: Slurm starts no step in this one any more"
    )
    assert last.action is Action.HOLD
    assert last.why == f"{NO_STEP.evidence}; that happened 4 times, in fresh allocations too"


def test_a_controller_that_was_away_gets_one_more_try_in_the_allocation() -> None:
    assert actions((AWAY, 40), (AWAY, 40), (AWAY, 40), (AWAY, 40)) == ["restart", "requeue", "requeue", "hold"]
    assert actions((AWAY, 40), (of(Culprit.HARDWARE, "n1"), 40), (AWAY, 40)) == ["restart"] * 3


def test_other_stops_without_a_culprit_do_not_keep_a_run_from_its_fresh_allocation() -> None:
    lost = Blame(Culprit.UNKNOWN, evidence="seen", signature="supervisor killed")
    assert actions(*[(lost, 40)] * 3, (NO_STEP, 40)) == ["restart"] * 3 + ["requeue"]
    assert actions(*[(NO_STEP, 40)] * 3, (lost, 40)) == ["requeue"] * 3 + ["restart"]
    assert actions(*[(NO_STEP, 40)] * 3, (NO_STEP, 50)) == ["requeue"] * 4


def test_blamed_nodes_are_excluded() -> None:
    decision = decide(of(Culprit.HARDWARE, "n3", "n5"), [], 0, LIMITS)
    assert decision == Decision(Action.RESTART, "run on without n3, n5", ("n3", "n5"))


def test_the_same_crash_is_tried_once_more_then_held_with_an_explanation() -> None:
    first, second = after([(crash(), 0), (crash(), 0)])
    assert first.action is Action.RESTART
    assert second.action is Action.HOLD
    assert "at step 40 happened 2 times" in second.why


def test_the_same_crash_a_little_later_without_a_checkpoint_is_the_same() -> None:
    assert actions((crash(40), 20), (crash(41), 20)) == ["restart", "hold"]


def test_the_same_crash_at_the_same_step_is_the_same_even_after_a_checkpoint() -> None:
    assert actions((crash(40), 20), (crash(40), 30)) == ["restart", "hold"]


def test_the_same_crash_further_on_after_a_checkpoint_starts_anew() -> None:
    assert actions((crash(40), 20), (crash(90), 80), (crash(140), 120)) == ["restart"] * 3


def test_crashes_at_unknown_steps_with_progress_in_between_are_not_the_same() -> None:
    assert actions((crash(None), 20), (crash(None), 80), (crash(None), 80)) == ["restart", "restart", "hold"]


def test_different_crashes_have_a_budget_too() -> None:
    assert actions(*((crash(n, f"kind {n}"), 0) for n in range(5))) == ["restart"] * 4 + ["hold"]


def test_hardware_faults_are_many() -> None:
    faults = [(of(Culprit.HARDWARE, f"n{n}"), 0) for n in range(6)]
    assert actions(*faults) == ["restart"] * 5 + ["hold"]


def test_progress_refills_the_budget_of_hardware_faults() -> None:
    faults = [(of(Culprit.HARDWARE, f"n{n}"), n) for n in range(60)]
    assert set(actions(*faults)) == {"restart"}


@pytest.mark.parametrize("culprit", [Culprit.UNKNOWN, Culprit.TIME_LIMIT, Culprit.STOPPED])
def test_stops_without_progress_are_few(culprit: Culprit) -> None:
    assert actions(*[(of(culprit), 0)] * 4) == ["restart"] * 3 + ["hold"]


def test_a_hardware_fault_between_two_crashes_does_not_hide_that_they_are_the_same() -> None:
    assert actions((crash(), 0), (of(Culprit.HARDWARE, "n1"), 0), (crash(), 0)) == ["restart", "restart", "hold"]


def test_preemption_has_no_budget() -> None:
    assert set(actions(*[(of(Culprit.PREEMPTED), 0)] * 200)) == {"restart"}


blames = st.builds(
    Blame,
    st.sampled_from([item for item in Culprit if item is not Culprit.NONE]),
    st.lists(st.sampled_from(["n1", "n2"]), max_size=2, unique=True).map(tuple),
    st.just("seen"),
    st.sampled_from(["", "a|x", "b|y", "c|z"]),
    st.none() | st.integers(0, 100),
)
limits = st.builds(Limits, st.integers(1, 4), st.integers(0, 5), st.integers(0, 8))


@settings(deadline=None)
@given(st.data(), limits)
def test_without_progress_every_chain_of_stops_ends_held(data: st.DataObject, limit: Limits) -> None:
    """The bound is the sum of the budgets; a preemption is nobody's failure and does not count."""
    bound = limit.hardware + 3 * limit.unknown + 2 * limit.same_crash + 1
    past: list[PastStop] = []
    for attempt in range(bound + 1):
        blame = data.draw(blames.filter(lambda item: item.culprit is not Culprit.PREEMPTED))
        decision = decide(blame, past, 7, limit)
        assert decision.why
        if decision.action is Action.HOLD:
            return
        past.append(PastStop(attempt, blame.culprit, blame.nodes, blame.signature, blame.step, 7))
    raise AssertionError(f"still going after {bound} stops without a new checkpoint")


@given(st.lists(blames, max_size=30), limits)
def test_the_same_crash_without_progress_is_never_requeued_beyond_its_limit(
    history: list[Blame], limit: Limits
) -> None:
    again: dict[str, int] = {}
    decisions = after([(blame, 3) for blame in history], limit)
    for blame, decision in zip(history, decisions, strict=True):
        if blame.culprit is Culprit.USER_CODE and decision.action is Action.RESTART:
            again[blame.signature] = again.get(blame.signature, 0) + 1
    assert all(count < limit.same_crash for count in again.values())


@given(st.lists(st.tuples(blames, st.integers(0, 5)), max_size=20), limits)
def test_a_decision_is_the_same_however_the_history_is_told(history: list[tuple[Blame, int]], limit: Limits) -> None:
    """What the journal keeps of a stop is all that counts."""
    past = [
        PastStop(n, blame.culprit, blame.nodes, blame.signature, blame.step, at)
        for n, (blame, at) in enumerate(history)
    ]
    events = [{"kind": "attempt_started"}, {"kind": "requeued"}] + [_ended(stop) for stop in past]
    assert past_stops(events) == past
    assert decide(crash(), past_stops(events), 3, limit) == decide(crash(), past, 3, limit)


def requeued(*stops: Culprit, checkpoint_step: int = 0, action: str = "requeue") -> list[dict[str, Any]]:
    """Attempts that Slurm requeued before anybody decided."""
    pasts = [PastStop(n, culprit, (f"n{n}",), checkpoint_step=checkpoint_step) for n, culprit in enumerate(stops)]
    return [_ended(past) | {"action": action} for past in pasts]


@pytest.mark.parametrize(("culprit", "most"), [(Culprit.HARDWARE, 5), (Culprit.UNKNOWN, 3)])
def test_what_slurm_requeues_by_itself_counts_on_the_same_budget(culprit: Culprit, most: int) -> None:
    assert requeued_too_often(requeued(*[culprit] * most), LIMITS) == ""
    assert "without a new checkpoint" in requeued_too_often(requeued(*[culprit] * (most + 1)), LIMITS)
    gained = [event | {"checkpoint_step": n} for n, event in enumerate(requeued(*[culprit] * (most + 1)))]
    assert requeued_too_often(gained, LIMITS) == ""


@pytest.mark.parametrize("culprit", [Culprit.PREEMPTED, Culprit.STOPPED])
def test_a_preemption_and_a_requeue_from_outside_are_nobodys_failure(culprit: Culprit) -> None:
    assert requeued_too_often(requeued(*[culprit] * 200), LIMITS) == ""


@pytest.mark.parametrize("kind", ["held", "run_reopened", "attempt_started"])
def test_whoever_lets_a_held_run_go_answers_for_its_next_attempt(kind: str) -> None:
    assert requeued_too_often([*requeued(*[Culprit.UNKNOWN] * 9), {"kind": kind}], LIMITS) == ""


def test_what_was_decided_already_is_not_decided_anew() -> None:
    for action in ("restart", "hold", "finish", "end"):
        assert requeued_too_often(requeued(*[Culprit.UNKNOWN] * 9, action=action), LIMITS) == ""
    assert requeued_too_often([], LIMITS) == ""


def test_an_unreadable_past_counts_as_unknown() -> None:
    events: list[dict[str, Any]] = [
        {"kind": "attempt_ended", "culprit": "from a newer version"},
        {"kind": "attempt_ended"},
    ]
    assert [stop.culprit for stop in past_stops(events)] == [Culprit.UNKNOWN] * 2


def _ended(stop: PastStop) -> dict[str, Any]:
    return {
        "kind": "attempt_ended",
        "attempt": stop.attempt,
        "culprit": stop.culprit.value,
        "blamed": list(stop.nodes),
        "signature": stop.signature,
        "step": stop.step,
        "checkpoint_step": stop.checkpoint_step,
    }


# Halves


def stopped(attempt: int, ran_on: tuple[str, ...], culprit: Culprit = Culprit.UNKNOWN) -> PastStop:
    return PastStop(attempt, culprit, ran_on=ran_on)


def test_a_stop_without_a_culprit_is_tried_again_as_it_is_the_first_time() -> None:
    decision = decide(Blame(Culprit.UNKNOWN, evidence="x"), [], 0, Limits(), ran_on="abcd", replacements=4)
    assert (decision.action, decision.suspects) == (Action.RESTART, ())


def test_the_second_time_half_of_the_nodes_are_left_out() -> None:
    past = [stopped(0, tuple("abcd"))]
    decision = decide(Blame(Culprit.UNKNOWN, evidence="x"), past, 0, Limits(), ran_on="abcd", replacements=4)
    assert decision.suspects == ("c", "d")
    assert decision.exclude == ()


def test_then_half_of_those_that_took_part_every_time() -> None:
    past = [stopped(0, tuple("abcd")), stopped(1, tuple("abcd"))]
    blame = Blame(Culprit.UNKNOWN, evidence="x")
    assert decide(blame, past, 0, Limits(), ran_on="abef", replacements=4).suspects == ("b",)


@pytest.mark.parametrize(("ran_on", "replacements"), [("abcd", 0), ("efgh", 4)])
def test_nobody_is_left_out_without_a_replacement_or_a_common_node(ran_on: str, replacements: int) -> None:
    past = [stopped(0, tuple("abcd"))]
    blame = Blame(Culprit.UNKNOWN, evidence="x")
    assert decide(blame, past, 0, Limits(), ran_on=ran_on, replacements=replacements).suspects == ()


def test_never_more_are_left_out_than_can_be_replaced() -> None:
    past = [stopped(0, tuple("abcdefgh"))]
    blame = Blame(Culprit.UNKNOWN, evidence="x")
    assert decide(blame, past, 0, Limits(), ran_on="abcdefgh", replacements=1).suspects == ("h",)


def test_one_bad_node_among_64_is_cornered_before_the_budget_ends() -> None:
    nodes = [f"n{number}" for number in range(200)]
    bad, avoid, past = "n37", set(), []
    for attempt in range(12):
        ran_on = tuple(node for node in nodes if node not in avoid)[:64]
        if bad not in ran_on:
            break
        decision = decide(Blame(Culprit.UNKNOWN, evidence="x"), past, 0, Limits(), ran_on=ran_on, replacements=64)
        assert decision.action is Action.RESTART
        avoid = set(decision.suspects)
        past.append(stopped(attempt, ran_on))
    assert bad in avoid
    assert attempt <= 8


def hung(nodes: tuple[str, ...], stopped: str = "") -> Blame:
    """As the judge of hangs says it of ranks that all wait in the same collective; on `stopped` one is stopped."""
    stack = ("all_reduce (torch/distributed/distributed_c10d.py:2501)", "train (train.py:9)")
    states = ["T" if node == stopped else "S" for node in nodes]
    ranks = [
        RankLook(rank, 100 + rank, "python", state, stack=stack, cpu_share=0.01) for rank, state in enumerate(states)
    ]
    looks = tuple(NodeLook(node, (rank,), took_s=1.2) for node, rank in zip(nodes, ranks, strict=True))
    found = judge(Standstill(900.0, 300.0, Source.RANKS, step=27, step_s=0.2, looks=looks))
    assert isinstance(found, Hang)
    return found.blame


def hangs_until_left_out(bad: str, replacements: int = 64) -> tuple[list[Decision], set[str]]:
    """The decisions over a run of 64 nodes that hangs while the bad one is among them, and who is left out at last."""
    nodes = [f"n{number}" for number in range(200)]
    avoid: set[str] = set()
    past: list[PastStop] = []
    decisions: list[Decision] = []
    while not decisions or decisions[-1].action is Action.RESTART:
        ran_on = tuple(node for node in nodes if node not in avoid)[:64]
        if bad not in ran_on:
            break
        blame = hung(ran_on)
        decisions.append(decide(blame, past, 0, Limits(), ran_on=ran_on, replacements=replacements))
        avoid = set(decisions[-1].suspects)
        past.append(PastStop(len(past), blame.culprit, blame.nodes, blame.signature, blame.step, 0, ran_on))
    return decisions, avoid


def test_one_node_among_64_that_hangs_them_all_is_cornered_before_the_budget_ends() -> None:
    decisions, avoid = hangs_until_left_out("n37")
    assert {decision.action for decision in decisions} == {Action.RESTART}
    assert "n37" in avoid
    assert len(decisions) <= 8


def test_a_hang_of_all_ranks_has_the_small_budget_where_nobody_can_take_their_place() -> None:
    decisions, _ = hangs_until_left_out("n37", replacements=0)
    assert [decision.action.value for decision in decisions] == ["restart"] * 3 + ["hold"]


def test_a_hang_that_names_its_node_is_not_halved() -> None:
    nodes = tuple("abcd")
    named = hung(nodes, stopped="b")
    past = [PastStop(0, named.culprit, named.nodes, named.signature, 27, 0, nodes)]
    again = decide(named, past, 0, Limits(), ran_on=nodes, replacements=4)
    assert (again.exclude, again.suspects) == (("b",), ())
    # What another stop was about tells nothing of this one.
    assert decide(hung(nodes), past, 0, Limits(), ran_on=nodes, replacements=4).suspects == ()


def test_a_killed_supervisor_gets_no_more_tries_and_leaves_no_node_out() -> None:
    blame = Blame(Culprit.UNKNOWN, evidence="the supervisor was killed", signature="supervisor killed")
    past = [PastStop(n, blame.culprit, (), blame.signature, None, 0, tuple("abcd")) for n in range(3)]
    assert decide(blame, past[:2], 0, Limits(), ran_on="abcd", replacements=4).suspects == ()
    assert decide(blame, past, 0, Limits(), ran_on="abcd", replacements=4).action is Action.HOLD


def test_the_furthest_checkpoint_is_the_highest_that_was_ever_complete() -> None:
    events: list[dict[str, Any]] = [
        {"kind": "checkpoint_saved", "attempt": 0, "step": 40},
        {"kind": "attempt_ended", "attempt": 0, "step": 99, "checkpoint_step": 30},
        {"kind": "checkpoint_saved", "attempt": 1, "step": "x"},
    ]
    assert furthest_checkpoint(events) == 40
    assert furthest_checkpoint(events[1:]) == 30
    assert furthest_checkpoint([]) == 0
