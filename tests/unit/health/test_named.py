"""Whatever a user writes into a record, it names at most nodes of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovctl.health.named import named_suspects

NOW = 1_700_000_000.0
OWN = frozenset({"n001", "n002", "n003"})


def ended(seq: int, *nodes: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "attempt_ended", "seq": seq, "at": NOW - 1, "culprit": "hardware", "blamed": list(nodes), **fields}


def names(*events: Any) -> list[str]:
    return sorted(item.node for item in named_suspects(events, OWN, NOW))


def test_each_kind_of_word() -> None:
    assert names(ended(1, "n001")) == ["n001"]
    assert names(ended(1, suspects=["n002", "n003"])) == ["n002", "n003"]
    assert names({"kind": "straggler", "seq": 1, "at": NOW, "node": "n002"}) == ["n002"]
    (silent,) = named_suspects([{"kind": "detected", "seq": 1, "at": NOW, "nodes": ["n003"]}], OWN, NOW)
    assert silent.silent


def test_a_bug_next_to_a_node_is_no_word_against_it() -> None:
    assert names(ended(1, "n001", culprit="user-code")) == []


@pytest.mark.parametrize("odd", [[], {}, {"a": [1]}, None, 7, True])
@pytest.mark.parametrize("field", ["seq", "at", "kind", "culprit", "blamed", "suspects", "evidence"])
def test_a_field_of_another_kind_is_none(field: str, odd: Any) -> None:
    assert names(ended(1, "n001", suspects=["n002"]) | {field: odd}) in ([], ["n001"], ["n002"], ["n001", "n002"])


def test_the_newest_word_counts() -> None:
    (named,) = named_suspects([ended(5, "n001", evidence="b"), ended(4, "n001", evidence="a")], OWN, NOW)
    assert (named.seq, named.why) == (5, "b")


@pytest.mark.parametrize(
    "at", [NOW - 1000, NOW + 100, float("nan"), float("inf"), 10**400, -(10**400), "now", None, True]
)
def test_old_words_and_words_from_the_future_are_none(at: Any) -> None:
    assert names(ended(1, "n001", at=at)) == []


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["n001", "n009", "blamed"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["node", "blamed", "seq"]), inner),
    max_leaves=5,
)
_EVENTS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["attempt_ended", "straggler", "detected", "x"]), "seq": st.integers() | _JSON},
    optional={
        "at": st.just(NOW) | _JSON,
        "culprit": st.just("hardware") | _JSON,
        "blamed": _JSON,
        "suspects": _JSON,
        "nodes": _JSON,
        "node": _JSON,
        "evidence": _JSON,
    },
)


@settings(max_examples=40)
@given(st.lists(_JSON | _EVENTS, max_size=6))
def test_laws(events: list[Any]) -> None:
    found = named_suspects(events, OWN, NOW)
    assert {item.node for item in found} <= OWN
    assert all(item.why.isprintable() and len(item.why) <= 160 for item in found)
