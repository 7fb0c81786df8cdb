"""A node in memory and its small files, for every test of what is done on a node."""

from __future__ import annotations

import pytest
from node_fakes import FakeNode, Records


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def records() -> Records:
    return Records()
