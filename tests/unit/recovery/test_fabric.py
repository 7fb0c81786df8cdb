"""Links are judged by what changed, not by what they counted in their life."""

from __future__ import annotations

from sovctl.model.blame import Culprit
from sovctl.model.rank_look import LinkLook, NodeLook, RankLook, node_look, parse_looks
from sovctl.recovery.blame import ScriptEnd, blame_end
from sovctl.recovery.fabric import broken_links
from sovctl.recovery.hang import Hang, Standstill, judge

NODES = ("n001", "n002", "n003", "n004")


def looks(*, state: str = "ACTIVE", on: tuple[str, ...] = (), **counters: int) -> tuple[NodeLook, ...]:
    """All nodes; the links of those in `on` are as given."""
    wait = RankLook(0, 7, "python", state="S", stack=("all_reduce (dist.py:9)",))
    return tuple(
        NodeLook(
            name,
            ranks=(RankLook(number, 7, wait.command, state="S", stack=wait.stack),),
            links=(LinkLook("mlx5_0/1", state if name in on else "ACTIVE", counters if name in on else {}),),
        )
        for number, name in enumerate(NODES)
    )


def test_a_port_that_went_down_meanwhile_names_its_node() -> None:
    assert broken_links(looks(), looks(on=("n002",), link_downed=1)) == {"n002": "mlx5_0/1: link_downed rose by 1"}


def test_what_a_port_counted_before_the_run_is_none_of_its_troubles() -> None:
    old = looks(on=("n002",), link_downed=900, symbol_error=10**6)
    assert broken_links(old, old) == {}
    assert broken_links((), old) == {}


def test_daily_bread_is_no_fault() -> None:
    assert broken_links(looks(), looks(on=("n002",), symbol_error=119, port_rcv_errors=999)) == {}


def test_a_port_that_is_down_tells_by_itself_where_its_peers_are_up() -> None:
    assert broken_links((), looks(on=("n003",), state="DOWN")) == {"n003": "port mlx5_0/1 is DOWN"}
    assert broken_links(looks(on=("n003",), state="DOWN"), looks(on=("n003",), state="DOWN")) == {}


def test_a_hang_with_a_broken_link_is_the_fabrics() -> None:
    seen = Standstill(60.0, 15.0, looks=looks(on=("n002",), link_downed=1), before=looks(), step=5)
    found = judge(seen)
    assert isinstance(found, Hang)
    assert (found.blame.culprit, found.blame.nodes) == (Culprit.FABRIC, ("n002",))
    assert "link_downed rose by 1" in found.blame.evidence


def test_links_that_broke_everywhere_are_a_switch_and_no_nodes_fault() -> None:
    found = judge(Standstill(60.0, 15.0, looks=looks(on=NODES[:3], link_downed=1), before=looks()))
    assert isinstance(found, Hang)
    assert (found.blame.culprit, found.blame.nodes) == (Culprit.FABRIC, ())


def test_a_crash_of_the_network_with_a_broken_link_is_the_fabrics_and_a_traceback_is_not() -> None:
    links = broken_links(looks(), looks(on=("n002",), link_downed=1))
    nccl = ScriptEnd(1, "NCCL WARN NET/IB : Got completion with error N", 9, "nccl")
    views = blame_end(nccl, (), links=links)
    assert views.culprit is Culprit.FABRIC
    assert blame_end(ScriptEnd(1, "ValueError: x", 9, "python"), (), links=links).culprit is Culprit.USER_CODE
    assert blame_end(nccl, ()).culprit is Culprit.USER_CODE


def test_links_survive_the_way_through_srun() -> None:
    look = looks(on=("n002",), link_downed=3)[1]
    assert parse_looks(look.to_lines())[0] == [look]
    hostile = {"node": "n001", "links": [{"name": 4}, {"name": "a", "counters": {"x": "9", "y": 2}}, 7]}
    read = node_look(hostile)
    assert read is not None
    assert read.links == (LinkLook("a", "", {"y": 2}),)
