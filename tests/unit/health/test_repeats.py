"""Faults that return: by serial number, over boots and node names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from node_builders import NOW, gpu, snapshot, xid

from sovctl.health.judge import judge
from sovctl.health.ledger import (
    LEMON,
    Ledger,
    gpu_score,
    ledger_from_record,
    ledger_record,
    lemon_score,
    merged,
    past_faults,
    recorded,
)
from sovctl.model.gpu import XidEvent
from sovctl.model.node import NodeSnapshot
from sovctl.model.verdict import Repair, VerdictState

HOUR = 3600.0


def later(event: XidEvent, pid: int, sequence: int, since_boot_s: float = 0.0) -> XidEvent:
    text = event.text.replace("pid=1,", f"pid={pid},")
    return replace(event, sequence=sequence, text=text, since_boot_s=since_boot_s)


def look(ledger: Ledger, seen: NodeSnapshot) -> tuple[Ledger, VerdictState]:
    seen = replace(seen, past=past_faults(ledger, seen))
    verdict = judge(seen)
    return recorded(ledger, seen, verdict), verdict.state


def test_a_program_that_fails_twice_on_the_same_gpu_alone_blames_the_gpu() -> None:
    ledger, state = look(Ledger(), snapshot(xid(31, index=3)))
    assert state is VerdictState.HEALTHY
    again = snapshot(later(xid(31, index=3), 2, 9), boot_id="boot-2", observed_at=NOW + 5 * HOUR, node="other")
    seen = replace(again, past=past_faults(ledger, again))
    verdict = judge(seen)
    # Any user's program can fail twice on one GPU: it only warns, unless the site has it drain.
    assert (verdict.state, verdict.repair) == (VerdictState.DEGRADED, Repair.RESET_GPU)
    assert verdict.worst is not None and verdict.worst.code == "XID31_REPEATED"
    assert "serial 1653" in verdict.worst.evidence and verdict.worst.gpu_index == 3


@pytest.mark.parametrize(
    ("second", "after_s"),
    [
        (later(xid(31, index=4), 2, 9), 5 * HOUR),  # another GPU: the program is at fault
        (later(xid(13, index=3), 2, 9), 5 * HOUR),  # another fault
        (later(xid(31, index=3), 2, 9), 25 * HOUR),  # a day later
        (later(xid(31, index=3), 2, 9), 60.0),  # the same burst
        (later(xid(31, index=3), 1, 9), 5 * HOUR),  # the same process
        (later(xid(45, index=3), 2, 9), 5 * HOUR),
    ],
)
def test_what_is_no_repeat(second: XidEvent, after_s: float) -> None:
    ledger, _ = look(Ledger(), snapshot(xid(31, index=3)))
    assert look(ledger, snapshot(second, observed_at=NOW + after_s))[1] is VerdictState.HEALTHY


def test_a_broken_program_on_many_gpus_blames_none_of_them() -> None:
    ledger, _ = look(Ledger(), snapshot(*(xid(31, index=n, sequence=n) for n in range(8))))
    burst = (later(xid(31, index=n), 2, 20 + n) for n in range(8))
    assert look(ledger, snapshot(*burst, observed_at=NOW + 5 * HOUR))[1] is VerdictState.HEALTHY


def test_xid_13_counts_only_on_the_same_processor() -> None:
    here, there = "Exception on (GPC 2, TPC 1, SM 0): x", "Exception on (GPC 3, TPC 1, SM 0): x"
    ledger, _ = look(Ledger(), snapshot(xid(13, detail=here)))
    for detail, state in ((there, VerdictState.HEALTHY), (here, VerdictState.DEGRADED)):
        again = snapshot(later(xid(13, detail=detail), 2, 9), observed_at=NOW + HOUR)
        assert look(ledger, again)[1] is state


def test_a_log_read_late_is_told_apart_by_the_kernels_own_stamps() -> None:
    first, second = later(xid(31), 1, 1, 100.0), later(xid(31), 2, 2, 100.0 + 5 * HOUR)
    assert look(Ledger(), snapshot(first, second))[1] is VerdictState.DEGRADED


def test_reading_the_same_lines_again_adds_nothing() -> None:
    once, _ = look(Ledger(), snapshot(xid(31, index=3)))
    twice, state = look(once, snapshot(xid(31, index=3), observed_at=NOW + 5 * HOUR))
    assert state is VerdictState.HEALTHY and twice == once


def test_a_gpu_that_is_gone_is_known_by_its_place() -> None:
    healthy, _ = look(Ledger(), snapshot())
    dead, state = look(healthy, snapshot(xid(79, index=5), gpus=tuple(gpu(n) for n in range(8) if n != 5)))
    assert state is VerdictState.FAILED
    assert {entry.what for entry in dead.gpus["1655"]} == {"XID79", "FAILED GPU_COUNT"}


def test_the_lemon_score_falls_by_half_every_month_and_counts_a_storm_once() -> None:
    storm = snapshot(*(xid(79, index=5, sequence=n) for n in range(500)))
    ledger, _ = look(Ledger(), storm)
    entries = ledger.gpus["1655"]
    assert len(entries) < 50
    now, month = gpu_score(entries, NOW), gpu_score(entries, NOW + 30 * 86400)
    assert now == pytest.approx(5.0) and month == pytest.approx(now / 2)
    assert lemon_score(ledger, ["1655", "1650"], NOW) < LEMON
    assert gpu_score((), NOW) == 0


def test_ledgers_of_two_nodes_join_what_one_gpu_did() -> None:
    first, _ = look(Ledger(), snapshot(xid(79, index=5)))
    second, _ = look(Ledger(), snapshot(xid(48, index=5), boot_id="boot-9", node="n009"))
    both = merged([first, second, first])
    assert {entry.node for entry in both.gpus["1655"]} == {"n003", "n009"}
    assert lemon_score(both, ["1655"], NOW) > LEMON


@pytest.mark.parametrize("junk", [None, 7, {}, [], {"schema": "sovctl.ledger/1", "gpus": 1, "places": {}}])
def test_a_ledger_of_another_shape_is_empty(junk: object) -> None:
    assert ledger_from_record(junk) == Ledger()


def test_a_ledger_survives_its_file() -> None:
    ledger, _ = look(Ledger(), snapshot(xid(79, index=5)))
    assert ledger_from_record(ledger_record(ledger)) == ledger
