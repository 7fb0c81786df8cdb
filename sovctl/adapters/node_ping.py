"""Asks slurmd's port whether anybody is there, many nodes at once."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Sequence

from sovctl.model.node import NodeView


class SlurmdPing:
    """ports.NodePing by TCP. A refused connection is an answer of the host: nobody listens there."""

    def __init__(self, timeout_s: float = 1.0) -> None:
        self._timeout_s = timeout_s

    def silent(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        """Names of the nodes whose slurmd took no connection."""
        selector = selectors.DefaultSelector()
        silent = set()
        try:
            for node in nodes:
                if not self._begin(selector, node):
                    silent.add(node.name)
            silent |= self._collect(selector)
        finally:
            for key in list(selector.get_map().values()):
                _close(key.fileobj)
            selector.close()
        return frozenset(silent)

    def _begin(self, selector: selectors.BaseSelector, node: NodeView) -> bool:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                node.address or node.name, node.port, type=socket.SOCK_STREAM
            )[0]
            connection = socket.socket(family, kind, protocol)
        except OSError:
            return False
        connection.setblocking(False)
        outcome = connection.connect_ex(address)
        if outcome not in (0, errno.EINPROGRESS):
            connection.close()
            return False
        selector.register(connection, selectors.EVENT_WRITE, node.name)
        return True

    def _collect(self, selector: selectors.BaseSelector) -> set[str]:
        silent = set()
        deadline = time.monotonic() + self._timeout_s
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
                    silent.add(str(key.data))
                selector.unregister(connection)
                connection.close()
            if not ready and time.monotonic() >= deadline:
                silent |= {str(key.data) for key in selector.get_map().values()}
                break
        return silent


def _close(file: object) -> None:
    if isinstance(file, socket.socket):
        file.close()
