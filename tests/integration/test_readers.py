"""Clients that read a stream slowly, late, or over HTTP/1.0."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartProxy, StartUpstream
from tests.integration.misbehaving import Connection, Request, serve_two_tokens
from tests.integration.processes import (
    AS_IT_IS,
    COMPLETION,
    Proxy,
    connect_and_send,
    wait_until,
)

FIELDS: dict[str, Any] = {"prompt": "x", "stream": True, **AS_IT_IS}
EVENTS = 4000
FILLING = "." * 8000
# What four sockets' buffers on the way can hold, and much less than all events.
ALL_BUFFERS = 16 * 1024 * 1024


class Teller:
    """An upstream that sends numbered events as fast as they are taken: 32 MB in all."""

    def __init__(self) -> None:
        self.told = 0
        self.is_left = threading.Event()

    def __call__(self, connection: Connection, _: Request) -> None:
        try:
            connection.start_stream()
            for number in range(EVENTS):
                connection.chunk(f'data: {{"n":{number},"x":"{FILLING}"}}\n\n'.encode())
                self.told += 1
            connection.end_stream()
        except OSError:
            self.is_left.set()
            raise

    def is_blocked(self) -> bool:
        """Return whether nobody takes any more; by two looks, as it may only be about to go on."""
        before = self.told
        return before > 0 and not threading.Event().wait(0.5) and self.told == before


def resident_mb(proxy: Proxy) -> float:
    status = Path(f"/proc/{proxy.worker_pid()}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1000


def test_a_slow_reader_holds_its_own_stream_alone_and_loses_nothing(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    teller = Teller()
    proxy = start_proxy(
        start_upstream(teller).url,
        start_upstream(serve_two_tokens).url,
        HEARTCODE_POLICY="round_robin",
    )
    before = resident_mb(proxy)
    with connect_and_send(proxy, COMPLETION, FIELDS) as slow:
        wait_until(teller.is_blocked, "the buffers are full")
        assert teller.told * len(FILLING) < ALL_BUFFERS
        assert resident_mb(proxy) - before < 8
        for _ in range(3):  # whoever else is there is served, by the other backend
            assert proxy.post(**FIELDS).content.endswith(b"data: [DONE]\n\n")
        with slow.makefile("rb") as stream:
            numbers = []
            for line in stream:
                numbers += [int(n) for n in re.findall(rb'data: {"n":(\d+),', line)]
                if b"[DONE]" in line:
                    break
    assert numbers == list(range(EVENTS))


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        ("HEARTCODE_CLIENT_STALL_TIMEOUT_S", "disconnected"),
        ("HEARTCODE_REQUEST_TIMEOUT_S", "failed"),
    ],
)
def test_a_client_that_takes_nothing_is_given_up(
    start_proxy: StartProxy, start_upstream: StartUpstream, limit: str, outcome: str
) -> None:
    teller = Teller()
    proxy = start_proxy(start_upstream(teller).url, **{limit: "1"})
    with connect_and_send(proxy, COMPLETION, FIELDS) as slow:
        assert teller.is_left.wait(30)
        wait_until(lambda: bool(proxy.log_lines()), "the request is over")
        (line,) = proxy.log_lines()
        assert (line["status"], line["outcome"]) == (200, outcome)
        # Half an event is followed by nothing: the connection is shut.
        received = bytearray()
        while data := slow.recv(1 << 20):
            received += data
        assert not received.endswith(b"0\r\n\r\n")


def test_a_client_of_http_1_0_gets_the_events_without_chunks(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    proxy = start_proxy(start_upstream(serve_two_tokens).url)
    sock = connect_and_send(proxy, COMPLETION, FIELDS, version="1.0")
    with sock, sock.makefile("rb") as stream:
        head, _, body = stream.read().partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body == b'data: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'
