"""Asking slurmd's port, with real sockets."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from sovctl.adapters.slurm.node_ping import SlurmdPing
from sovctl.model.node import NodeState, NodeView


def node(name: str, port: int, address: str = "127.0.0.1") -> NodeView:
    return NodeView(name, NodeState("ALLOCATED"), address=address, port=port)


@pytest.fixture
def listening() -> Iterator[NodeView]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield node("alive", server.getsockname()[1])


@pytest.fixture
def refusing() -> NodeView:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return node("refusing", port)


@pytest.fixture
def mute() -> Iterator[NodeView]:
    """A host that lets connections hang: its backlog is full, so the kernel drops what asks."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(server.getsockname())
        yield node("mute", server.getsockname()[1])


def test_who_answers_is_not_silent(listening: NodeView) -> None:
    assert SlurmdPing().silent([listening]) == frozenset()


def test_a_slurmd_that_notices_a_connection_lives(refusing: NodeView, mute: NodeView) -> None:
    """Nobody accepts on the second one, as where every process is stopped: its kernel alone takes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0), backlog=8) as stopped:

        def serve() -> None:
            connection = server.accept()[0]
            assert connection.recv(16) == b""
            connection.close()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(serve)
            nodes = [node("alive", server.getsockname()[1]), node("stopped", stopped.getsockname()[1]), refusing, mute]
            assert SlurmdPing().silent(nodes[1:2]) == frozenset()
            assert SlurmdPing(word_s=1.0).lifeless(nodes) == {"stopped", "refusing", "mute"}
    assert SlurmdPing().lifeless([]) == frozenset()


def test_a_refusal_is_known_at_once(refusing: NodeView) -> None:
    began = time.monotonic()
    assert SlurmdPing(5.0).silent([refusing]) == {"refusing"}
    assert time.monotonic() - began < 2


def test_no_answer_is_known_at_the_deadline(mute: NodeView) -> None:
    began = time.monotonic()
    assert SlurmdPing(0.3).silent([mute]) == {"mute"}
    assert 0.25 <= time.monotonic() - began < 2


def test_all_are_asked_at_once(listening: NodeView, refusing: NodeView, mute: NodeView) -> None:
    nodes = [listening, refusing, *(node(f"mute{n}", mute.port) for n in range(20))]
    began = time.monotonic()
    silent = SlurmdPing(0.3).silent(nodes)
    assert silent == {"refusing", *(f"mute{n}" for n in range(20))}
    assert time.monotonic() - began < 3


def test_a_name_that_means_no_host_is_silent() -> None:
    assert SlurmdPing(0.3).silent([node("nowhere", 6818, "no-such-host.invalid")]) == {"nowhere"}


def test_nobody_to_ask() -> None:
    assert SlurmdPing().silent([]) == frozenset()


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN, "no answer"), OSError(errno.EMFILE, "too many")])
@pytest.mark.parametrize("ask", ["silent", "lifeless"])
def test_trouble_of_our_own_is_no_dead_node(monkeypatch: pytest.MonkeyPatch, error: OSError, ask: str) -> None:
    asked = []

    def fail(*_: object, **__: object) -> None:
        asked.append(True)
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    nodes = [node(f"n{number:03}", 6818, address=f"n{number:03}") for number in range(1, 61)]
    assert getattr(SlurmdPing(), ask)(nodes) == frozenset()
    assert len(asked) == 1, "each lookup that gets no answer takes seconds"


def test_a_node_whose_name_there_is_not_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert SlurmdPing().silent([node("n1", 6818), node("n2", 6818)]) == {"n1", "n2"}
