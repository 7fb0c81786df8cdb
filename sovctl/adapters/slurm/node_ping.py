"""Asks slurmd's port whether anybody is there, many nodes at once."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Sequence

from sovctl.model.node import NodeView

_NO_ANSWER = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM})
"""The name service itself is in trouble, which says nothing of the node."""


class _CannotAsk(Exception):
    """The trouble is here."""


class SlurmdPing:
    """ports.NodePing by TCP. A refused connection is an answer of the host: nobody listens there."""

    def __init__(self, timeout_s: float = 1.0, word_s: float = 3.0) -> None:
        """`word_s`: how long a slurmd may take to notice that a connection was given up."""
        self._timeout_s, self._word_s = timeout_s, word_s

    def silent(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        """Names of the nodes whose slurmd took no connection."""
        selector = selectors.DefaultSelector()
        try:
            silent = self._begin_all(selector, nodes)
            silent |= self._collect(selector)
        finally:
            for key in list(selector.get_map().values()):
                _close(key.fileobj)
            selector.close()
        return frozenset(silent)

    def lifeless(self, nodes: Sequence[NodeView]) -> frozenset[str]:
        """Names of the nodes whose slurmd does not notice the end of a connection: the kernel of a node on which
        everything stands still takes connections all the same."""
        selector = selectors.DefaultSelector()
        try:
            lifeless = self._begin_all(selector, nodes)
            lifeless |= self._await_ends(selector)
        finally:
            for key in list(selector.get_map().values()):
                _close(key.fileobj)
            selector.close()
        return frozenset(lifeless)

    def _await_ends(self, selector: selectors.BaseSelector) -> set[str]:
        lifeless: set[str] = set()
        deadline = time.monotonic() + self._word_s
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return lifeless | {str(key.data) for key in selector.get_map().values()}
            for key, events in selector.select(left):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                refused = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
                if events & selectors.EVENT_WRITE and not refused:
                    connection.shutdown(socket.SHUT_WR)
                    selector.modify(connection, selectors.EVENT_READ, key.data)
                    continue
                if events & selectors.EVENT_WRITE:
                    lifeless.add(str(key.data))
                selector.unregister(connection)
                connection.close()
        return lifeless

    def _begin_all(self, selector: selectors.BaseSelector, nodes: Sequence[NodeView]) -> set[str]:
        """Connections are under way; names of the nodes where none can be."""
        nobody = set()
        for node in nodes:
            try:
                if not self._begin(selector, node):
                    nobody.add(node.name)
            except _CannotAsk:
                return nobody  # nor would the next one be: a lookup without an answer takes seconds
        return nobody

    def _begin(self, selector: selectors.BaseSelector, node: NodeView) -> bool:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                node.address or node.name, node.port, type=socket.SOCK_STREAM
            )[0]
            connection = socket.socket(family, kind, protocol)
        except socket.gaierror as error:
            if error.errno in _NO_ANSWER:
                raise _CannotAsk from error
            return False
        except OSError as error:  # no socket or no file descriptor is left here
            raise _CannotAsk from error
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
