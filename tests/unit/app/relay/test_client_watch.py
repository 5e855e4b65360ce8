"""Whether the client is still there, with real sockets in gevent's loop."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import gevent.event
import pytest
from heartcode.client import Client
from heartcode.relay.client_watch import SocketWatch


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_leaving_is_noticed(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    client, told = Client(), gevent.event.Event()
    client.when_gone(told.set)
    with SocketWatch(client, ours):
        gevent.sleep(0)
        assert not client.gone
        theirs.close()
        assert told.wait(10)
    assert client.gone


def test_a_pipelined_request_is_no_leaving(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    client = Client()
    theirs.sendall(b"POST /v1/completions HTTP/1.1\r\n")
    with SocketWatch(client, ours):
        gevent.sleep(0.01)
    assert not client.gone
    assert ours.recv(4) == b"POST"  # and none of it was taken


def test_an_action_for_a_client_that_is_gone_runs_at_once() -> None:
    client = Client()
    client.has_left()
    done = []
    client.when_gone(lambda: done.append(True))
    assert done == [True]
