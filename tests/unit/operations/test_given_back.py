"""Nodes that failed and take jobs all the same: no more may be drained, or a person gave them back."""

from __future__ import annotations

from node_fakes import NODE, FakeNode, Records
from node_fakes import settings as check_settings
from test_guard_job import epilog, prolog

from sovctl.health.drain import Nothing
from sovctl.model.verdict import VerdictState
from sovctl.operations.node.check_node import check_node


def beyond_the_budget(node: FakeNode) -> None:
    """Two were drained already within this hour, and here is a third."""
    for name in ("n001", "n002"):
        node.put(name, "IDLE", "DRAIN", reason="sovctl:261122-214600-n001-ab12 IB_PORT_DOWN x")
    node.fault(48)
    decision = check_node(node.ports(), check_settings(drain_limit_per_hour=2)).decision
    assert isinstance(decision, Nothing) and decision.budget and not node.drains


def test_the_budget_also_holds_where_jobs_start_and_end(node: FakeNode, records: Records) -> None:
    """Otherwise Slurm would drain node after node for their prologs, and hold job after job."""
    beyond_the_budget(node)
    assert prolog(node, records).fit
    assert epilog(node, records).fit


def test_what_is_new_beyond_the_budget_keeps_jobs_away(node: FakeNode, records: Records) -> None:
    beyond_the_budget(node)
    node.fault(79)
    assert not prolog(node, records).fit


def test_a_fault_that_could_not_be_acted_on_keeps_jobs_away(node: FakeNode, records: Records) -> None:
    node.fault(48)
    node.slurm_down = True
    check_node(node.ports(), check_settings())
    assert not prolog(node, records).fit


def test_the_first_job_of_a_node_that_was_given_back_starts(node: FakeNode, records: Records) -> None:
    node.fault(48)
    assert check_node(node.ports(), check_settings()).drained
    node.time += 600  # a GPU is reset meanwhile; the watcher goes on looking
    assert check_node(node.ports(), check_settings()).verdict.state is VerdictState.FAILED
    node.put(NODE, "IDLE")
    node.time += 2
    assert prolog(node, records).fit


def test_a_node_that_is_broken_again_refuses_its_first_job(node: FakeNode, records: Records) -> None:
    node.fault(48)
    assert check_node(node.ports(), check_settings()).drained
    node.put(NODE, "IDLE")
    node.fault(79)
    assert not prolog(node, records).fit


def test_the_end_of_a_long_job_brings_back_no_fault_that_was_forgiven(node: FakeNode, records: Records) -> None:
    prolog(node, records)
    node.fault(48, gpu=2)
    assert check_node(node.ports(), check_settings()).drained
    node.put(NODE, "MIXED")
    node.time += 3 * 86400
    check_node(node.ports(), check_settings())
    assert epilog(node, records).fit


def test_who_only_observes_forgives_as_well(node: FakeNode) -> None:
    """Turned to act weeks later, it must not drain what was repaired long ago."""
    observe = check_settings(act=False)
    node.fault(48)
    check_node(node.ports(), observe)
    node.put(NODE, "IDLE", "DRAIN", reason="root: xid 48, resetting the GPU")
    check_node(node.ports(), observe)
    node.put(NODE, "IDLE")
    node.time += 20 * 86400
    assert check_node(node.ports(), observe).verdict.state is VerdictState.HEALTHY
    assert not check_node(node.ports(), check_settings()).drained
