"""Two silent witnesses make a dead node; one does not, and a word of life outweighs them all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.health.death import (
    DeathLimits,
    Down,
    Left,
    budget_words,
    decide_dead,
    shell_testimony,
    suspects,
)
from sovctl.model.node import NodeState, NodeView
from sovctl.model.reason import parse_reason
from sovctl.model.witness import Shell, WitnessWords

SILENT = WitnessWords(Shell.SILENT)


def node(name: str = "n001", base: str = "ALLOCATED", *flags: str, reason: str = "") -> NodeView:
    return NodeView(name, NodeState(base, frozenset(flags)), reason=reason)


@pytest.mark.parametrize(
    ("view", "marks", "named", "suspected"),
    [
        (node(), {"n001": 7.0}, (), True),
        (node(), {"n001": 5.0}, (), False),
        (node(), {"n001": 5.0}, ("n001",), False),  # its watcher speaks for it
        (node(), {}, (), False),  # nobody knows of a watcher, and Slurm is content
        (node(), {}, ("n001",), True),
        (node("n001", "IDLE", "NOT_RESPONDING"), {}, (), True),
        (node("n001", "IDLE", "NOT_RESPONDING"), {"n001": 1.0}, (), False),
        (node("n001", "DOWN"), {"n001": 99.0}, (), False),
        (node("n001", "IDLE", "DRAIN"), {"n001": 99.0}, (), True),
        (node("n001", "IDLE", "POWERED_DOWN"), {"n001": 99.0}, (), False),
        (node("n001", "IDLE", "REBOOT_ISSUED"), {"n001": 99.0}, (), False),
        (node("n001", "FUTURE"), {"n001": 99.0}, (), False),
    ],
)
def test_suspects(view: NodeView, marks: dict[str, float], named: tuple[str, ...], suspected: bool) -> None:
    assert bool(suspects([view], marks, 6.0, named)) is suspected


def test_a_dead_node_is_set_down_with_our_reason_and_every_witness() -> None:
    decision = decide_dead(node(), 3.0, 8.0, WitnessWords(Shell.SILENT, power_off=True), "inc-1")
    assert isinstance(decision, Down)
    reason = parse_reason(decision.reason)
    assert reason is not None
    assert (reason.incident, reason.code) == ("inc-1", "NODE_DEAD")
    assert reason.text == "slurmd silent 3 s, watcher silent 8 s, SSH silent, power off"
    assert decision.argv[:4] == ("scontrol", "update", "NodeName=n001", "State=DOWN")


@given(
    st.none() | st.floats(0, 1e6), st.sampled_from(Shell), st.booleans(), st.sampled_from(["", "sovctl:a XID79 gone"])
)
def test_it_takes_a_second_witness_and_nobody_who_saw_it_alive(
    mark: float | None, shell: Shell, off: bool, reason: str
) -> None:
    decision = decide_dead(node(reason=reason), 3.0, mark, WitnessWords(shell, "no key", off), "inc-1")
    second = mark is not None or off or shell in (Shell.SILENT, Shell.REBOOTED)
    assert isinstance(decision, Down) == (second and shell is not Shell.ANSWERS)


def test_somebody_elses_drain_is_left() -> None:
    decision = decide_dead(node("n001", "IDLE", "DRAIN", reason="dimm swap, kim"), 8.0, 8.0, SILENT, "inc-1")
    assert isinstance(decision, Left)
    assert "dimm swap" in decision.why


def test_our_own_drain_is_kept_in_the_new_reason() -> None:
    decision = decide_dead(node("n001", "IDLE", "DRAIN", reason="sovctl:a XID79 gone"), 8.0, 8.0, SILENT, "inc-2")
    assert isinstance(decision, Down)
    assert "XID79" in decision.reason


@pytest.mark.parametrize(
    ("known", "boot_time", "said", "uptime", "shell"),
    [
        ("a", None, "a", 10.0, Shell.ANSWERS),
        ("a", 9000, "b", 10.0, Shell.REBOOTED),
        ("", 1000, "b", 100.0, Shell.REBOOTED),
        ("", 1000, "b", 8950.0, Shell.ANSWERS),
        ("a", 1000, "a", 100.0, Shell.ANSWERS),  # the boot id is exact, clocks are not
        ("", None, "b", 10.0, Shell.ANSWERS),
        ("a", 1000, "", None, Shell.ANSWERS),  # whoever answers lives, whatever it says
    ],
)
def test_a_new_boot_is_known_by_its_id_else_by_its_age(
    known: str, boot_time: int | None, said: str, uptime: float | None, shell: Shell
) -> None:
    assert shell_testimony(known, boot_time, said, uptime, 10_000.0) is shell


@pytest.mark.parametrize(("nodes", "allowed"), [(3, 1), (8, 1), (20, 2), (64, 4), (5000, 4)])
def test_limits_an_hour(nodes: int, allowed: int) -> None:
    assert DeathLimits().allowed(nodes) == allowed


@given(st.integers(1, 5000), st.integers(0, 5000), st.floats(0.01, 1.0), st.integers(1, 5000))
def test_never_more_than_the_share_an_hour(nodes: int, dead: int, share: float, per_hour: int) -> None:
    allowed = DeathLimits(per_hour, share).allowed(nodes)
    assert 1 <= allowed <= max(1, share * nodes, 1)
    assert bool(budget_words(dead, 0, allowed)) == (dead > allowed)


def test_a_quarter_of_the_cluster_at_once_is_us_being_cut_off() -> None:
    limits = DeathLimits()
    assert not limits.cut_off(2, 3)
    assert limits.cut_off(3, 8)
    assert not limits.cut_off(16, 64)
    assert limits.cut_off(17, 64)
