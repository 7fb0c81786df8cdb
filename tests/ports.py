"""TCP ports for what listens in a test."""

from __future__ import annotations

import secrets
import socket

from sovctl.lab.cluster import PortClaims

_FIRST, _LAST = 20000, 32000
"""Above those that `sovctl.train` derives from a job, below those that Linux gives to outgoing connections: one of
these may take a port between the moment it was found free and the moment something listens there."""


def free_ports(count: int, claims: PortClaims) -> list[int]:
    """Ports that nobody listens on, kept from labs and other tests for as long as `claims` is open."""
    first = secrets.randbelow(_LAST - _FIRST)
    free: list[int] = []
    for turn in range(_LAST - _FIRST):
        port = _FIRST + (first + turn) % (_LAST - _FIRST)
        if claims.claim(port) and _nobody_listens(port):
            free.append(port)
        if len(free) == count:
            return free
    raise AssertionError(f"no {count} free ports between {_FIRST} and {_LAST}")


def _nobody_listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
