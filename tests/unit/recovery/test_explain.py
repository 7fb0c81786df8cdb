"""Three lines a person believes: each story as its events, and the words that must and must not come out."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest
from event_builders import NODES, RECORD, T0, XID, Record, recovered
from hypothesis import given
from hypothesis import strategies as st

from sovctl.model.blame import Culprit
from sovctl.model.job import JobView
from sovctl.recovery.event_words import event_words
from sovctl.recovery.explain import Why, Words, duration, why
from sovctl.recovery.run_state import run_state
from sovctl.recovery.story import Story
from sovctl.recovery.timeline import timeline, total_steps_lost

WORDS = Words(zone=UTC)


def told(record: Record, attempt: int | None = None) -> Why:
    return why(RECORD, record.events, WORDS, attempt=attempt)


def test_a_recovery() -> None:
    answer = told(recovered())
    assert answer.story is Story.RECOVERED
    assert answer.lines == (
        "n003 was blamed: XID79 GPU 5 at 0000:64:00 fell off the bus (seen at 2026-11-22 22:14:43 UTC)",
        "requeued without n003; ran again on n001,n002,n005,n006 3.9 s after the fault was seen,"
        " first step 7.0 s after it",
        "resumed from step 40 of checkpoint /w/ck/step-40; 7 steps repeated",
    )
    assert answer.stop is not None and answer.stop.culprit is Culprit.HARDWARE


@pytest.mark.parametrize(
    ("confidence", "said"), [("sure", " UTC)"), ("likely", " UTC, likely)"), ("guess", " UTC, a guess)"), ("", " UTC)")]
)
def test_doubt_is_told(confidence: str, said: str) -> None:
    record = Record().started(0, 0).ended(9, 0, "user-code", "the script was killed by SIGSEGV", confidence=confidence)
    assert told(record).lines[0] == f"the script was killed by SIGSEGV (at 2026-11-22 22:13:29{said}"


UNTROUBLED = {
    "ended-unstarted": (
        Record().add(3, "run_ended", outcome="failed", why="none is proven complete"),
        Story.ENDED,
        "it ended before its script was started (failed): none is proven complete",
    ),
    "waiting": (Record(), Story.WAITING, "it has not started yet: nothing is recorded about it"),
    "running": (
        Record().started(0, 0).saved(9, 0, 20),
        Story.RUNNING,
        "started on n001,n002,n003,n005 at 2026-11-22 22:13:20 UTC; no trouble is recorded since;"
        " its last checkpoint is of step 20",
    ),
    "finished": (
        Record()
        .started(0, 0)
        .ended(9, 0, "none", "the script finished", action="finish")
        .add(9, "run_ended", outcome="finished"),
        Story.FINISHED,
        "finished at 2026-11-22 22:13:29 UTC in 1 attempt",
    ),
}


@pytest.mark.parametrize("name", UNTROUBLED)
def test_one_line_where_nothing_went_wrong(name: str) -> None:
    record, story, line = UNTROUBLED[name]
    answer = told(record)
    assert (answer.story, answer.lines) == (story, (line,))


def _first() -> Record:
    return Record().started(0, 0)


def _no_step() -> Record:
    words = "Slurm started no step for the script at step 57: Invalid generic resource (gres) specification"
    fields = {"checkpoint_step": 40, "signature": "launch|Invalid generic resource (gres) specification"}
    run = _first().saved(60, 0, 40).ended(83, 0, "unknown", words, **fields, step=57)
    return run.add(83.1, "requeue_intent", attempt=0, exclude=[], because=words).requeued(84.5, 0).started(89, 1, 40)


def _lost_supervisor() -> Record:
    evidence = "n001: NODE_DEAD slurmd does not answer and its ranks are silent"
    run = _first().saved(60, 0, 40).ended(200, 0, "hardware", evidence, blamed=["n001"], checkpoint_step=40)
    return run.started(200.1, 1, 40, ["n002", "n003"])


STORIES: dict[str, tuple[Record, Story, tuple[str, str, str]]] = {
    "no step started": (
        _no_step(),
        Story.RECOVERED,
        ("Slurm started no step for the script at step 57", "requeued for a fresh allocation; ran again", "step 40"),
    ),
    "on its way back": (
        _first().faulted(83, 0),
        Story.RECOVERING,
        ("n003 was blamed", "the requeue was begun; its end is not recorded yet", "it had reached step 47"),
    ),
    "waiting for nodes": (
        _first().faulted(83, 0).requeued(84, 0, "n003"),
        Story.RECOVERING,
        ("seen at", "requeued without n003; it has not started again yet", "it will go on from step 40 of checkpoint"),
    ),
    "two nodes": (
        _first().ended(5, 0, "hardware", "n001: A; n002: B", blamed=["n001", "n002"]),
        Story.RECOVERING,
        ("n001,n002 were blamed: n001: A; n002: B", "", "it will begin again from the start"),
    ),
    "a crash, tried again": (
        _first().crashed(9, 0).add(9.1, "requeue_intent", attempt=0).requeued(9.2, 0).started(12, 1, 40),
        Story.RECOVERED,
        (
            "no node shows a fault: ValueError: bad batch N (seen at",
            "requeued; ran again on n001,n002,n003,n005 3.0 s after that was seen",
            "it was given step 40 of checkpoint /w/ck/step-40; that it loaded it is not recorded; 17 steps repeated",
        ),
    ),
    "held": (
        _first()
        .crashed(9, 0)
        .started(12, 1, 40)
        .crashed(20, 1, "hold", "the same crash at step 57 happened 2 times; trying again would not help")
        .add(20.1, "held", attempt=1, outcome="cancelled"),
        Story.HELD,
        (
            "ValueError: bad batch N",
            "held since 2026-11-22 22:13:40 UTC, 2 attempts ended alike: the same crash at step 57 happened 2 times",
            "kept: step 40 of checkpoint /w/ck/step-40; mend what the script runs, then type: sovctl run resume 34",
        ),
    ),
    "released by a person": (
        _first()
        .crashed(9, 0, "hold")
        .add(9.1, "hold_intent", attempt=0)
        .add(9.2, "held", attempt=0)
        .started(3600, 1, 40)
        .steps(3601, 1, loaded=40),
        Story.RECOVERED,
        ("ValueError", "held, and released by a person; ran again", "resumed from step 40"),
    ),
    "cancelled": (
        _first()
        .saved(4, 0, 40)
        .ended(9, 0, "stopped", "Slurm ended the job: CANCELLED", step=47, checkpoint_step=40, action="end")
        .add(9, "run_ended", outcome="cancelled"),
        Story.CANCELLED,
        (
            "cancelled at 2026-11-22 22:13:29 UTC, at step 47",
            "not restarted: a cancelled run stays cancelled",
            "to go on: sovctl submit --checkpoint-dir=/w/ck SCRIPT",
        ),
    ),
    "cancelled in a recovery": (
        _first().faulted(83, 0).add(90, "run_ended", outcome="cancelled", why="cancelled during recovery"),
        Story.CANCELLED,
        (
            "cancelled at 2026-11-22 22:14:50 UTC, cancelled during recovery; before that: n003 was blamed: XID79",
            "not restarted",
            "kept: step 40",
        ),
    ),
    "time limit, not to be requeued": (
        _first()
        .ended(9, 0, "time-limit", "Slurm ended the job: TIMEOUT", action="end", why="the job is TIMEOUT")
        .add(9, "run_ended", outcome="timeout"),
        Story.ENDED,
        ("Slurm ended the job: TIMEOUT", "not restarted: the job is TIMEOUT", "no complete checkpoint is recorded"),
    ),
    "time slice": (
        _first()
        .ended(9, 0, "time-limit", "the time limit was near", step=40, checkpoint_step=40)
        .add(9, "requeue_intent", attempt=0)
        .requeued(10, 0)
        .started(11, 1, 40)
        .steps(12, 1, loaded=40),
        Story.RECOVERED,
        (
            "the time limit was near (seen at",
            "requeued; ran again",
            "resumed from step 40",
        ),
    ),
    "preempted": (
        _first().ended(9, 0, "preempted", "the job was preempted", step=47, checkpoint_step=40),
        Story.RECOVERING,
        (
            "the job was preempted (at 2026-11-22 22:13:29 UTC)",
            "it has not started again yet",
            "it had reached step 47",
        ),
    ),
    "unknown": (
        _first().ended(9, 0, "unknown", "no node shows a fault").add(9, "requeue_intent", attempt=0),
        Story.RECOVERING,
        ("it is not known what stopped it: no node shows a fault", "the requeue was begun", "from the start"),
    ),
    "the supervisor died with its node": (
        _lost_supervisor(),
        Story.RECOVERED,
        (
            "n001 was blamed: NODE_DEAD slurmd does not answer and its ranks are silent"
            " (when is not recorded, its last word came at 2026-11-22 22:14:20 UTC)",
            "Slurm requeued it; ran again on n002,n003 at 2026-11-22 22:16:40 UTC",
            "how many steps were repeated is not recorded",
        ),
    ),
    "slurmctld away, nodes allowed again": (
        _first()
        .faulted(83, 0)
        .add(84, "slurm_silent", attempt=0, detail="x")
        .requeued(99, 0, "n003", given_up=("n007",))
        .started(103, 1),
        Story.RECOVERED,
        (
            "n003 was blamed",
            "n007, blamed before, had to be allowed again; slurmctld did not answer for a while meanwhile; ran again",
            "it began again from the start, there was no complete checkpoint; 47 steps repeated",
        ),
    ),
    "a rank loads something else": (
        _first().faulted(83, 0).requeued(84, 0).started(86, 1, 40).steps(87, 1, loaded=20),
        Story.RECOVERED,
        (
            "n003",
            "ran again",
            "resumed from step 20, though it was given step 40 of checkpoint /w/ck/step-40; 27 steps",
        ),
    ),
    "finished after stops": (
        recovered()
        .ended(99, 1, "none", "the script finished", action="finish")
        .add(99, "run_ended", outcome="finished"),
        Story.FINISHED,
        (
            "finished at 2026-11-22 22:14:59 UTC in 2 attempts",
            "it stopped 1 time: attempt 0 by hardware (n003)",
            "7 steps",
        ),
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_three_lines(name: str) -> None:
    record, story, parts = STORIES[name]
    answer = told(record)
    assert answer.story is story
    assert len(answer.lines) == 3
    for line, part in zip(answer.lines, parts, strict=True):
        assert part in line


def test_a_step_ahead_of_what_was_known_is_no_loss() -> None:
    run = _first().faulted(83, 0, step=39).requeued(84, 0).started(86, 1, 40).steps(87, 1, loaded=40)
    assert told(run).lines[2].endswith("; no step was repeated")


def test_an_earlier_attempt_as_it_was_told_then() -> None:
    run = recovered().crashed(200, 1, "hold").add(201, "held", attempt=1)
    assert told(run).story is Story.HELD
    assert told(run, attempt=0).lines == told(recovered()).lines


def test_stages_with_the_seconds_between() -> None:
    found = timeline(recovered().events, 0)
    assert found is not None
    assert [(stage.name, stage.since_previous_s, stage.since_detected_s) for stage in found.stages] == [
        ("detected", None, 0.0),
        ("decided", 0.01, 0.01),
        ("requeued", 1.49, 1.5),
        ("started again", 2.4, 3.9),
        ("first rank up", 1.1, 5.0),
        ("checkpoint loaded", 1.0, 6.0),
        ("first step", 1.0, 7.0),
    ]
    assert (found.last_step, found.resume_step, found.steps_lost) == (47, 40, 7)
    assert (found.restart_s, found.total_s, found.excluded) == (3.9, 7.0, ("n003",))


def test_stages_not_reached_are_not_invented() -> None:
    assert timeline([], 0) is None
    assert timeline(_first().events, 0) is None
    found = timeline(_first().faulted(83, 0).events, 0)
    assert found is not None
    assert [stage.at for stage in found.stages[2:]] == [None] * 5
    assert (found.steps_lost, found.restart_s, found.total_s) == (None, None, None)
    lost = timeline(_lost_supervisor().events, 0)
    assert lost is not None
    assert (lost.detected_at, lost.decided_at, lost.restart_s, lost.started_at) == (None, None, None, T0 + 200.1)


def test_steps_repeated_over_the_whole_run() -> None:
    run = recovered().faulted(200, 1, step=None).requeued(201, 1).started(205, 2, 40)
    assert total_steps_lost(run.events) == (7, 1)


@pytest.mark.parametrize(("seconds", "words"), [(3.94, "3.9 s"), (125, "2m05s"), (7500, "2h05m"), (200000, "2d07h")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
_GOOD = recovered().ended(99, 1, "none", action="finish").add(99, "run_ended", outcome="finished").events
_KINDS = sorted({event["kind"] for event in _GOOD} | {"held", "misplaced", "slurm_silent", "signal", "odd"})


@given(
    st.lists(
        st.fixed_dictionaries({"kind": st.sampled_from(_KINDS), "attempt": st.integers(0, 2) | _JUNK}), max_size=8
    ),
    st.data(),
)
def test_a_record_written_by_anybody(events: list[dict[str, Any]], data: st.DataObject) -> None:
    keys = sorted({key for event in _GOOD for key in event} - {"kind", "attempt"})
    for event in events:
        event |= data.draw(st.dictionaries(st.sampled_from(keys), _JUNK | st.just(XID) | st.just(NODES), max_size=6))
    answer = why({}, events, WORDS)
    assert len(answer.lines) in (1, 3)
    assert run_state(events, None).word
    assert all(isinstance(event_words(event), str) for event in events)


def test_a_stop_at_which_nobody_could_tell_the_newest_checkpoint_loses_no_more_than_is_on_record() -> None:
    record = Record().started(0, 0).steps(10, 0).saved(100, 0, 900)
    stop = {"step": 950, "action": "requeue", "checkpoint": "", "checkpoint_step": 900}
    record.ended(200, 0, "preempted", "the job was preempted", **stop)
    record.add(201, "requeue_intent", attempt=0, exclude=[], because="requeued from outside")
    record.add(202, "requeued", attempt=0, exclude=[], given_up=[], begin=1, short="")
    lines = " ".join(why(RECORD, record.events).lines)
    assert "from the start" not in lines
    assert "900" in lines


def test_a_run_that_was_held_before_its_first_start_says_why() -> None:
    said = "no checkpoint in /w/ck is complete: 3 are there"
    record = Record().add(0, "hold_intent", attempt=0, why=said).add(1, "held", attempt=0, job_id="34", why=said)
    assert said in " ".join(why(RECORD, record.events).lines)


@pytest.mark.parametrize(
    ("first", "told_as", "repeated"),
    [
        (62, "it went on at step 62 by itself, from a checkpoint that sovctl does not know", "2 steps repeated"),
        (1, "it began again from the start, there was no complete checkpoint", "63 steps repeated"),
        (9, "it began again from the start, there was no complete checkpoint", "63 steps repeated"),
    ],
)
def test_a_script_that_finds_its_own_checkpoints(first: int, told_as: str, repeated: str) -> None:
    record = Record().started(0, 0).steps(10, 0).ended(100, 0, "hardware", "n003: XID79", step=63, action="requeue")
    record.add(101, "requeue_intent", attempt=0, exclude=["n003"], because="hardware")
    record.add(102, "requeued", attempt=0, exclude=["n003"], given_up=[], begin=1, short="")
    record.started(110, 1).add(115, "first_step", attempt=1, happened=T0 + 115, step=first)
    line = why(RECORD, record.events).lines[-1]
    assert told_as in line and repeated in line, line


@pytest.mark.parametrize(("held", "detail"), [(True, "while it was held"), (False, "before it started")])
def test_a_run_that_was_cancelled_before_it_ran_says_so(held: bool, detail: str) -> None:
    record = Record()
    if held:
        record.started(0, 0).ended(9, 0, "user-code", "it crashed", action="hold").add(10, "held", attempt=0, why="x")
    job = JobView("34", "t", "u", 1, "CANCELLED", extra={"JobId": "34"})
    state = run_state(record.events, job)
    assert (state.word, state.detail) == ("cancelled", detail)
