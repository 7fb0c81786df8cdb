"""Labs that start in the same second."""

from __future__ import annotations

import pytest

from sovctl.errors import SovctlError
from sovctl.lab import cluster


def test_labs_that_start_at_once_get_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens yet, so looking whether a port is free does not tell."""
    monkeypatch.setattr(cluster, "_FIRST_PORT", 31000)
    monkeypatch.setattr(cluster, "_LAST_PORT", 31041)
    with cluster.PortClaims() as claims:
        firsts = [cluster._ports(None, 10, claims) for _ in range(4)]
        assert sorted(firsts) == [31000, 31010, 31020, 31030]
        with pytest.raises(SovctlError, match="no 10 free ports"):
            cluster._ports(None, 10, claims)
    with cluster.PortClaims() as claims:
        assert cluster._ports(None, 10, claims) in firsts
