"""One look at a node: judge, remember, drain exactly once."""

from __future__ import annotations

import pytest
from node_fakes import NODE, FakeNode, settings

from sovctl.errors import SovctlError
from sovctl.health.drain import Drain
from sovctl.model.verdict import VerdictState
from sovctl.operations.node.check_node import check_node, explain


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


def test_a_healthy_node_is_left_alone_without_asking_slurm(node: FakeNode) -> None:
    node.slurm_down = True
    outcome = check_node(node.ports(), settings())
    assert outcome.verdict.state is VerdictState.HEALTHY
    assert (node.drains, node.records, outcome.notes) == ([], [], ())
    assert node.verdict == outcome.verdict


def test_a_dead_gpu_drains_the_node_once(node: FakeNode) -> None:
    node.fault(79)
    outcome = check_node(node.ports(), settings())
    assert outcome.drained and len(node.drains) == 1
    _, name, reason = node.drains[0]
    assert name == NODE and reason.startswith("sovctl:") and " XID79 GPU 5" in reason
    assert node.kinds == ["verdict", "drain-intended", "drain-done"]
    assert node.records[1]["incident"] == node.records[2]["incident"] == reason[7:].split()[0]
    assert node.records[1]["command"].startswith("scontrol update NodeName=n003 State=DRAIN")
    again = check_node(node.ports(), settings())
    assert again.verdict.state is VerdictState.FAILED and not again.drained
    assert len(node.drains) == 1 and node.kinds[3:] == []


def test_a_node_given_back_is_judged_anew(node: FakeNode) -> None:
    node.fault(48)
    check_node(node.ports(), settings())
    node.put(NODE, "IDLE")
    assert check_node(node.ports(), settings()).verdict.state is VerdictState.HEALTHY
    assert len(node.drains) == 1
    node.fault(48)
    check_node(node.ports(), settings())
    assert len(node.drains) == 2


def test_a_reboot_forgets_what_the_kernel_said_before(node: FakeNode) -> None:
    node.fault(48)
    check_node(node.ports(), settings())
    node.boot, node.lines = "boot-2", []
    assert check_node(node.ports(), settings()).verdict.state is VerdictState.HEALTHY


def test_while_slurm_is_silent_the_fault_stays_unread(node: FakeNode) -> None:
    node.fault(48)
    node.slurm_down = True
    outcome = check_node(node.ports(), settings())
    assert outcome.verdict.state is VerdictState.FAILED and not outcome.settled
    assert "could not be drained" in outcome.notes[-1]
    node.slurm_down = False
    assert check_node(node.ports(), settings()).drained


def test_somebody_elses_drain_is_left_and_reported(node: FakeNode) -> None:
    node.put(NODE, "IDLE", "DRAIN", reason="disk swap, ask Kim")
    node.fault(79)
    outcome = check_node(node.ports(), settings())
    assert not node.drains and outcome.settled
    assert any("disk swap, ask Kim" in line for line in explain(outcome))


def test_the_budget_counts_the_whole_cluster_and_says_so_once(node: FakeNode) -> None:
    for name in ("n001", "n002"):
        node.put(name, "IDLE", "DRAIN", reason="sovctl:261122-214600-n001-ab12 XID79 x")
    node.fault(79)
    for _ in range(3):
        outcome = check_node(node.ports(), settings(drain_limit_per_hour=2))
    assert not node.drains and not outcome.settled
    assert node.kinds == ["verdict", "drain-withheld"]
    assert node.turns == 3


@pytest.mark.parametrize(
    ("changes", "user", "drains"),
    [
        ({}, "slurm(64030)", 1),
        ({"uid": 64030}, "slurm(64030)", 1),
        ({"uid": 1000}, "slurm(64030)", 0),
        ({"act": False}, "", 0),
    ],
)
def test_who_may_drain(node: FakeNode, changes: dict[str, int], user: str, drains: int) -> None:
    node.slurm_user = user
    node.fault(79)
    outcome = check_node(node.ports(), settings(**changes))
    assert outcome.verdict.state is VerdictState.FAILED
    assert len(node.drains) == drains


def test_an_ordinary_user_needs_no_word_about_files_of_root(node: FakeNode) -> None:
    node.write_error = SovctlError("cannot write")
    assert check_node(node.ports(), settings(uid=1000)).notes == ()
    assert check_node(node.ports(), settings(uid=0)).notes == ("cannot write", "cannot write")


def test_a_dry_run_changes_nothing_and_names_the_command(node: FakeNode) -> None:
    node.fault(79)
    outcome = check_node(node.ports(), settings(dry_run=True))
    assert isinstance(outcome.decision, Drain) and not outcome.drained
    assert any("would drain: scontrol update NodeName=n003 State=DRAIN 'Reason=sovctl:" in x for x in explain(outcome))
    assert (node.drains, node.records, node.verdict, node.saved_cursor) == ([], [], None, ("", 0))


def test_a_checker_that_sees_nothing_drains_nothing(node: FakeNode) -> None:
    node.probe_error = SovctlError("NVML is gone")
    node.log_error = SovctlError("no kernel log")
    outcome = check_node(node.ports(), settings())
    assert outcome.verdict.state is VerdictState.UNKNOWN
    assert outcome.verdict.blind == ("nvml: NVML is gone", "kernel-log: no kernel log")
    assert not node.drains


def test_a_full_shared_file_system_does_not_keep_a_sick_node_in_service(node: FakeNode) -> None:
    node.journal_error = SovctlError("disk full")
    node.fault(79)
    outcome = check_node(node.ports(), settings())
    assert outcome.drained and "disk full" in outcome.notes


def test_a_node_slurm_does_not_know(node: FakeNode) -> None:
    node.fault(79)
    outcome = check_node(node.ports(), settings(node="elsewhere"))
    assert not node.drains and "Slurm knows no node elsewhere" in outcome.notes[-1]
