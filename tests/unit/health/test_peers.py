"""Who is not like the rest: found where there is one, and nobody where there is only noise."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovctl.health.peers import ClockReading, compare
from sovctl.model.facts import GpuFacts, NodeFacts, facts_from_record, facts_record

NODES = [f"n{number:03d}" for number in range(1, 64)]


def node(name: str, odd_gpus: tuple[int, ...] = (), storage_ms: float = 3.0, **odd: Any) -> NodeFacts:
    """A busy node; `odd_gpus` (all when there are none named) differ in `odd`."""
    chance = random.Random(name)
    gpus = []
    for index in range(8):
        own: dict[str, Any] = {
            "driver": "580.95.05",
            "vbios": "97.00",
            "sm_clock_mhz": 1965 - chance.randrange(40),
            "power_w": 900 + chance.uniform(-60, 60),
            "utilization_percent": 100,
            "pcie_width": 16,
        }
        if odd and (not odd_gpus or index in odd_gpus):
            own |= odd
        gpus.append(GpuFacts(index, "NVIDIA B200", **own))
    return NodeFacts(name, 0.0, tuple(gpus), {"/data": storage_ms + chance.random()})


def said(facts: list[NodeFacts], clocks: dict[str, ClockReading] | None = None) -> list[tuple[str, str]]:
    return [(item.node, item.finding.code) for item in compare(facts, clocks or {}, 2.0)]


def test_realistic_noise_finds_nobody() -> None:
    assert said([node(name) for name in NODES]) == []


@pytest.mark.parametrize(
    ("odd", "code"),
    [
        ({"driver": "570.86.15"}, "DRIVER_SKEW"),
        ({"vbios": "96.00"}, "VBIOS_SKEW"),
        ({"pcie_width": 8}, "PCIE_WIDTH"),
        ({"sm_clock_mhz": 1200}, "GPU_CLOCK"),
        ({"power_w": 300.0}, "GPU_POWER"),
    ],
)
def test_one_odd_node_of_63_is_named(odd: dict[str, Any], code: str) -> None:
    facts = [node(name, **(odd if name == "n017" else {})) for name in NODES]
    assert said(facts) == [("n017", code)]


def test_one_odd_gpu_is_named_with_figures() -> None:
    facts = [node(name, (5,), **({"sm_clock_mhz": 1110} if name == "n017" else {})) for name in NODES]
    (item,) = compare(facts, {}, 2.0)
    assert item.finding.evidence.startswith("GPU 5: busy at 1110 MHz SM clock, while the median of 504 busy GPUs is 19")


def test_idle_gpus_are_not_slow() -> None:
    idle = {"utilization_percent": 0, "sm_clock_mhz": 345, "power_w": 140.0}
    assert said([node(name, **(idle if name == "n017" else {})) for name in NODES]) == []


def test_an_update_under_way_is_no_skew() -> None:
    facts = [node(name, **({"driver": "590.1"} if index % 2 else {})) for index, name in enumerate(NODES)]
    assert said(facts) == []


def test_few_peers_are_no_yardstick() -> None:
    facts = [node(name, **({"pcie_width": 8, "driver": "1"} if name == "n001" else {})) for name in NODES[:4]]
    assert said(facts) == []


def test_kinds_of_gpus_are_not_mixed() -> None:
    others = [
        NodeFacts(f"a{i}", 0.0, tuple(GpuFacts(g, "NVIDIA A100", driver="550", pcie_width=8) for g in range(4)))
        for i in range(6)
    ]
    assert said([*(node(name) for name in NODES), *others]) == []


def test_slow_storage_and_wrong_clocks() -> None:
    facts = [node(name, storage_ms=2400.0 if name == "n009" else 3.0) for name in NODES]
    clocks = {name: ClockReading(0.01, 0.02) for name in NODES} | {"n005": ClockReading(-7.5, 0.02)}
    assert said(facts, clocks) == [("n005", "CLOCK_OFFSET"), ("n009", "STORAGE_SLOW")]


def test_our_own_wrong_clock_blames_nobody() -> None:
    assert said([], {name: ClockReading(3600.0, 0.02) for name in NODES}) == []


def test_a_slow_answer_is_no_wrong_clock() -> None:
    clocks = {name: ClockReading(0.0, 0.01) for name in NODES} | {"n005": ClockReading(3.0, 2.9)}
    assert said([], clocks) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=8,
    )
)
def test_foreign_records_are_no_facts(record: Any) -> None:
    assert facts_from_record(record) is None
    assert facts_from_record(
        {"schema": "sovctl.facts/1", "node": "n", "at": 0.0, "gpus": record, "storage_ms": {}}
    ) in (
        None,
        NodeFacts("n", 0.0),
    )


def test_facts_survive_the_way() -> None:
    facts = node("n001", driver=None, pcie_width=None)
    assert facts_from_record(facts_record(facts)) == facts
