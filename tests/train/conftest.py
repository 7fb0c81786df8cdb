"""Ranks for the tests of the training library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rank_server import RankServer


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankServer]:
    """Starts ranks within milliseconds."""
    pytest.importorskip("torch", reason="sovctl.train needs torch: pip install sovctl[train]")
    server = RankServer()
    yield server
    server.close()
