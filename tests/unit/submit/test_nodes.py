"""What --spare-nodes and --min-nodes ask sbatch for."""

from __future__ import annotations

import pytest

from sovctl.errors import UsageError
from sovctl.submit.nodes import NodePlan, check_layer, node_plan
from sovctl.submit.options import Choices, OwnOptions


def test_nothing_said_nothing_asked() -> None:
    assert node_plan(OwnOptions(), Choices(nodes="4", totals=("ntasks",))) == NodePlan()
    assert NodePlan().words == ()


@pytest.mark.parametrize(("nodes", "lowest"), [("2-4", 2), ("2,4,8", 2), ("4", 0), ("1k-2k", 0), (None, 0)])
def test_of_a_range_the_least_is_known(nodes: str | None, lowest: int) -> None:
    plan = node_plan(OwnOptions(), Choices(nodes=nodes))
    assert (plan.lowest, plan.words) == (lowest, ())


def test_spares_are_asked_for_with_the_nodes() -> None:
    plan = node_plan(OwnOptions(spare_nodes=2), Choices(nodes="60"))
    assert (plan.size, plan.spares, plan.least) == (60, 2, 0)
    assert plan.words == ("--nodes=62",)


def test_fewer_nodes_change_nothing_at_the_first_start() -> None:
    plan = node_plan(OwnOptions(min_nodes=56), Choices(nodes="60"))
    assert (plan.size, plan.least, plan.words) == (60, 56, ())


@pytest.mark.parametrize("nodes", [None, "", "2-4", "1k", "0", "-3", "４", "9999999"])
def test_the_number_of_nodes_has_to_be_known(nodes: str | None) -> None:
    with pytest.raises(UsageError, match="--spare-nodes needs the number of nodes"):
        node_plan(OwnOptions(spare_nodes=1), Choices(nodes=nodes))


@pytest.mark.parametrize("total", ["ntasks", "gpus"])
def test_a_total_does_not_say_what_a_node_gets(total: str) -> None:
    with pytest.raises(UsageError, match=f"--spare-nodes cannot go with --{total}") as caught:
        node_plan(OwnOptions(spare_nodes=1), Choices(nodes="4", totals=(total,)))
    assert f"--{total}-per-node" in caught.value.hint


def test_fewer_cannot_be_more() -> None:
    with pytest.raises(UsageError, match="--min-nodes=5 is more than the 4 nodes"):
        node_plan(OwnOptions(min_nodes=5), Choices(nodes="4"))


@pytest.mark.parametrize(("nodes", "seen"), [("2", 2), ("4-8", 4), ("1k", 1024), ("2-2", 2)])
def test_a_named_layer_has_one_node(nodes: str, seen: int) -> None:
    with pytest.raises(
        UsageError, match=f"--env-name tools is for one node at a time, and this run asks for {seen}$"
    ) as e:
        check_layer("tools", NodePlan(), Choices(nodes=nodes))
    assert "sovctl image env export tools tools.sqsh" in e.value.hint
    check_layer("", NodePlan(), Choices(nodes=nodes))


@pytest.mark.parametrize("nodes", [None, "", "1", "1-4", "-3", "x"])
def test_a_named_layer_is_let_through_where_one_node_will_do(nodes: str | None) -> None:
    check_layer("tools", NodePlan(), Choices(nodes=nodes))
    check_layer("tools", NodePlan(size=1, spares=2), Choices(nodes="1"))
